# SPDX-License-Identifier: Apache-2.0
"""Builds a bundle's draft table (:mod:`edge.draft`) from token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

ORDER = 12
"""Longest context, in tokens."""
MOST_NODES = 1 << 17
MOST_TOKENS = 4_000_000
"""A larger corpus is thinned out evenly: phrasing repeats itself long before that."""
MIN_COUNT = 2
SAME_SHARE = 0.1
"""A longer context that guesses the same token nearly as often says nothing new."""

_BEGIN, _NOTHING = -1, -2


@dataclass(frozen=True)
class Piece:
    """Token ids of a text, and whether they begin where a text begins (else: somewhere inside it)."""

    ids: Sequence[int]
    begins: bool = True


@dataclass
class _Level:
    """The contexts of one length that occur often enough, in lexicographic order of their reversed tokens."""

    token: NDArray[np.int32]
    next: NDArray[np.int32]
    share: NDArray[np.float32]
    parent: NDArray[np.int64]
    keep: NDArray[np.bool_]


def build_table(
    sequences: Sequence[Piece], *, order: int = ORDER, most_nodes: int = MOST_NODES
) -> dict[str, np.ndarray]:
    """The arrays of :mod:`edge.draft`.

    Contexts seen once are left out, and those that guess what the next shorter context guesses. Shares are
    ``best / (total + 1)``: what has been seen twice is not certain.

    Raises
    ------
    UsageError
        There is nothing to learn from.
    """
    contexts, targets = _columns(_thinned(sequences), order)
    if not len(targets):
        raise UsageError("the draft corpus holds no text to learn from")
    by_context = np.lexsort(contexts[::-1])
    contexts, targets = contexts[:, by_context], targets[by_context]
    least = MIN_COUNT
    while True:
        levels = _levels(contexts, targets, least)
        _prune(levels)
        if sum(int(level.keep.sum()) for level in levels) <= most_nodes:
            return _pack(levels)
        least *= 2


def save_table(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write ``draft.safetensors``."""
    from safetensors.numpy import save_file

    save_file(arrays, path)
    path.chmod(0o644)


def _thinned(sequences: Sequence[Piece]) -> Sequence[Piece]:
    total = sum(len(sequence.ids) for sequence in sequences)
    step = -(-total // MOST_TOKENS)
    return sequences[::step] if step > 1 else sequences


def _columns(sequences: Sequence[Piece], order: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Contexts [order, positions], nearest token first, and the token that follows each."""
    pieces, targets = [], []
    for sequence in sequences:
        ids = np.asarray(sequence.ids, np.int32)
        head = np.full(order, _NOTHING, np.int32)
        if sequence.begins:
            head[-1] = _BEGIN
        padded = np.concatenate([head, ids])
        windows = np.lib.stride_tricks.sliding_window_view(padded, order)[: len(ids)]
        pieces.append(windows[:, ::-1])
        targets.append(ids)
    if not pieces:
        return np.zeros((order, 0), np.int32), np.zeros(0, np.int32)
    return np.ascontiguousarray(np.concatenate(pieces).T), np.concatenate(targets)


def _levels(contexts: NDArray[np.int32], targets: NDArray[np.int32], least: int) -> list[_Level]:
    """Level k holds the contexts of k tokens; level 0 is the empty one."""
    count = len(targets)
    levels: list[_Level] = []
    begins = np.zeros(count, bool)  # where a new context of the present length begins
    begins[0] = True
    alive = np.ones(count, bool)
    above = np.zeros(count, np.int64)  # node of the shorter context, per position
    for depth in range(len(contexts) + 1):
        if depth:
            column = contexts[depth - 1]
            begins[1:] |= column[1:] != column[:-1]
            alive &= column != _NOTHING
        group = np.cumsum(begins) - 1
        sizes = np.bincount(group[alive], minlength=group[-1] + 1)
        often = (sizes >= (least if depth else 1))[group] & alive
        if not often.any():
            break
        names, first, node = np.unique(group[often], return_index=True, return_inverse=True)
        here = targets[often]
        best, hits = _commonest(node, here, len(names))
        rows = np.flatnonzero(often)
        levels.append(
            _Level(
                token=contexts[depth - 1][rows[first]] if depth else np.array([_BEGIN], np.int32),
                next=best,
                share=(hits / (sizes[names] + 1)).astype(np.float32),
                parent=above[rows[first]],
                keep=np.ones(len(names), bool),
            )
        )
        above = np.zeros(count, np.int64)
        above[rows] = node
        alive = often
    return levels


def _commonest(
    node: NDArray[np.int64], target: NDArray[np.int32], nodes: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Per node the target seen most often (the lowest of equals), and how often."""
    width = int(target.max()) + 1
    pairs, counts = np.unique(node * width + target, return_counts=True)
    owner, token = pairs // width, pairs % width
    ranked = np.lexsort((token, -counts, owner))
    first = ranked[np.searchsorted(owner[ranked], np.arange(nodes))]
    return token[first].astype(np.int32), counts[first]


def _prune(levels: list[_Level]) -> None:
    """Leave out what guesses as the next shorter context does, but on the way to a longer one that does not.

    It takes the shorter one's share, so that a chain of small differences does not add up.
    """
    for parents, level in pairwise(levels):
        share = parents.share[level.parent]
        same = (level.next == parents.next[level.parent]) & (np.abs(level.share - share) <= SAME_SHARE)
        level.share = np.where(same, share, level.share)
        level.keep = ~same
    for parents, level in reversed(list(pairwise(levels))):
        parents.keep[level.parent[level.keep]] = True


def _pack(levels: list[_Level]) -> dict[str, np.ndarray]:
    """Kept nodes breadth first; a level's order keeps siblings together and sorted."""
    kept = [level.keep for level in levels]
    families = [np.ones(1, np.int64)]  # children per node, one level ahead
    for depth in range(1, len(levels)):
        level = levels[depth]
        numbers = np.cumsum(kept[depth - 1]) - 1
        families.append(np.bincount(numbers[level.parent[level.keep]], minlength=int(kept[depth - 1].sum())))
    families.append(np.zeros(int(kept[-1].sum()), np.int64))
    sizes = np.concatenate(families[1:])
    return {
        "children": np.concatenate([[1], 1 + np.cumsum(sizes)]).astype(np.int32),
        "tokens": np.concatenate([level.token[level.keep] for level in levels]).astype(np.int32),
        "next": np.concatenate([level.next[level.keep] for level in levels]).astype(np.int32),
        "share": np.concatenate([level.share[level.keep] for level in levels]).astype(np.float32),
    }
