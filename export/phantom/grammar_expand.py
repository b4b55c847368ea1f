# SPDX-License-Identifier: Apache-2.0
"""Templates with nested choices: ``{a|b {c|d}|}``."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

_MARKS = re.compile(r"([{}|])")
_SPACE_BEFORE = re.compile(r"\s+([,;.])")


@lru_cache(maxsize=4096)
def _parse(template: str) -> tuple[tuple[object, ...], ...]:
    """The alternatives of a template; each is a tuple of strings and nested alternatives."""
    alternatives: list[list[object]] = [[]]
    stack: list[list[list[object]]] = []
    for piece in _MARKS.split(template):
        if piece == "{":
            stack.append(alternatives)
            alternatives = [[]]
        elif piece == "}":
            inner, alternatives = tuple(map(tuple, alternatives)), stack.pop()
            alternatives[-1].append(inner)
        elif piece == "|":
            alternatives.append([])
        elif piece:
            alternatives[-1].append(piece)
    return tuple(map(tuple, alternatives))


def _walk(alternatives: tuple[tuple[object, ...], ...], rng: np.random.Generator) -> str:
    chosen = alternatives[int(rng.integers(len(alternatives)))] if len(alternatives) > 1 else alternatives[0]
    return "".join(part if isinstance(part, str) else _walk(part, rng) for part in chosen)  # type: ignore[arg-type]


def expand(template: str, rng: np.random.Generator) -> str:
    """Expand the ``{a|b|c}`` choices of a template and tidy the spaces.

    Parameters
    ----------
    template : str
        Text with nested choices; an empty alternative is allowed.
    rng : numpy.random.Generator
        Source of the choices.

    Returns
    -------
    str
        One expansion without double spaces or a space before punctuation.
    """
    return _SPACE_BEFORE.sub(r"\1", " ".join(_walk(_parse(template), rng).split()))
