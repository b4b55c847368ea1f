# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels around the layers against NumPy: embedding, conversion at load, statistics of logits, drafts, the
choice of the next tokens."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import twin
from numpy.typing import NDArray
from test_cuda_kernels import TYPES, pointer, stored

STATS = np.dtype([("max", "f4"), ("sum_exp", "f4"), ("best", "f4"), ("id", "i4")])
GENERATED, SUPPRESSED = 1, 2
STOP, LENGTH, NOT_FINITE = 1, 2, 4
TOKEN, MORE, LAST, STOPPED, NAN = 1, 2, 3, 4, 5
LIBRARIES: dict[Path, Any] = {}


def call(library: Path, name: str, *arguments: Any) -> None:
    arguments = tuple(pointer(a) if isinstance(a, np.ndarray) else a for a in arguments)
    assert getattr(LIBRARIES.setdefault(library, ctypes.CDLL(str(library))), name)(*arguments) == 0


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("cols", [24, 64])
def test_embed(library: Path, kind: str, cols: int) -> None:
    cols = -(-cols // 32) * 32 if kind == "int4" else cols
    rng = np.random.default_rng(cols)
    w = rng.standard_normal((40, cols), np.float32)
    positions = rng.standard_normal((30, cols), np.float32)
    data, scale, exact = stored(w, kind)
    ids = np.array([39, 0, 7], np.int32)
    x = np.zeros((3, cols), np.float32)
    padded = cols + -cols % 32
    call(
        library, "ops_embed", TYPES[kind], data, scale, ctypes.c_int64(scale.nbytes), 40, cols, padded, positions, 30,
        ids, 3, 20, 4, x,
    )  # fmt: skip
    np.testing.assert_allclose(x, exact[ids] + positions[24:27], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_convert(library: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((7, 45)) * 10.0 ** rng.integers(-6, 5, (7, 45))).astype(np.float32)
    values[0, :4] = [70000, -70000, 0.0, -0.0]  # beyond fp16: its largest number, as on the CPU
    got = np.zeros((7, 64), np.uint16)
    call(library, "ops_convert", TYPES[kind], values, 7, 45, 64, got)
    bounded = values.clip(-65504, 65504) if kind == "fp16" else values
    want, _, _ = stored(bounded, kind)
    np.testing.assert_array_equal(got, want.view(np.uint16))


def stats_of(logits: NDArray[np.float32], flags: NDArray[np.uint8], penalty: float, row: int = 0) -> NDArray[Any]:
    """What the head leaves of a row of logits: per block of 128 the parts of the log-sum-exp and the best id."""
    drafted = flags >> 2
    counted = (flags & GENERATED > 0) | ((drafted > 0) & (drafted <= row))
    suppressed = np.flatnonzero(flags & SUPPRESSED)
    scores = twin.adjusted(logits, np.flatnonzero(counted), penalty, suppressed)
    made = []
    for begin in range(0, len(logits), 128):
        block, score = logits[begin : begin + 128].astype(np.float64), scores[begin : begin + 128]
        best = int(np.argmax(score))
        made.append((block.max(), np.exp(block - block.max()).sum(), score[best], begin + best))
    return np.array(made, STATS)


@pytest.mark.parametrize("vocab", [90, 128, 300])
def test_measure(library: Path, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = (rng.standard_normal(vocab) * 5).astype(np.float32)
    logits[40] = logits[41] = logits.max() + 1  # equal scores: the lower id
    flags = np.zeros(vocab, np.uint8)
    flags[rng.choice(vocab, 12)] |= GENERATED
    flags[rng.choice(vocab, 12)] |= SUPPRESSED
    flags[[40, 41]] = 0
    got = np.zeros(-(-vocab // 128), STATS)
    call(library, "ops_measure", logits, vocab, flags, ctypes.c_float(1.3), got)
    want = stats_of(logits, flags, 1.3)
    np.testing.assert_array_equal(got["max"], want["max"])
    np.testing.assert_array_equal(got["id"], want["id"])
    np.testing.assert_allclose(got["best"], want["best"], rtol=1e-7)
    np.testing.assert_allclose(got["sum_exp"], want["sum_exp"], rtol=1e-6)


def test_propose(library: Path) -> None:
    """Of an id that is drafted twice the first row counts; other flags stay."""
    flags = np.zeros(50, np.uint8)
    flags[9], flags[11] = GENERATED, SUPPRESSED
    ids = np.array([3, 0, 0, 0, 0], np.int32)
    call(library, "ops_propose", np.array([9, 11, 9, 20], np.int32), 5, 50, flags, ids)
    assert ids.tolist() == [3, 9, 11, 9, 20]
    want = np.zeros(50, np.uint8)
    want[9], want[11], want[20] = GENERATED | 1 << 2, SUPPRESSED | 2 << 2, 4 << 2
    np.testing.assert_array_equal(flags, want)


class Chosen:
    """The choice in a pass, by the definition: each row counts as long as it chose what the next one was drafted as."""

    def __init__(self, logits: NDArray[np.float32], flags: NDArray[np.uint8], penalty: float, ids: list[int]) -> None:
        self.logits, self.flags, self.penalty, self.ids = logits, flags, penalty, ids
        self.tokens: list[tuple[int, float]] = []
        self.end = 0

    def run(self, stop: list[int], keys: int, limit: int, count: int, max_new: int, advance: int) -> None:
        self.keys, generated = keys, {int(i) for i in np.flatnonzero(self.flags & GENERATED)}
        suppressed = np.flatnonzero(self.flags & SUPPRESSED)
        for row, logits in enumerate(self.logits):
            self.keys += advance
            if not np.isfinite(logits).all():
                self.end = NOT_FINITE
                return
            scores = twin.adjusted(logits, sorted(generated), self.penalty, suppressed)
            token = int(np.argmax(scores))
            if token in stop:
                self.end = STOP
                return
            self.tokens.append((token, float(twin.log_softmax(logits)[token])))
            generated.add(token)
            if count + len(self.tokens) >= max_new or self.keys >= limit:
                self.end = LENGTH
                return
            if row + 1 < len(self.logits) and self.ids[row + 1] != token:
                return


@pytest.mark.parametrize("case", ["one", "all", "some", "stop", "length", "limit", "nan", "first"])
@pytest.mark.parametrize("vocab", [300, 66_000])
def test_choose(library: Path, case: str, vocab: int) -> None:
    rng = np.random.default_rng(len(case))
    n = {"one": 1, "first": 1, "nan": 2}.get(case, 5)
    logits = rng.standard_normal((n, vocab)).astype(np.float32)
    flags = np.zeros(vocab, np.uint8)
    flags[rng.choice(vocab, 20)] |= GENERATED
    flags[rng.choice(vocab, 20)] |= SUPPRESSED
    numbers = {"keys": 40, "limit": 60, "count": 3, "max_new": 30, "end": 0, "id": 0}
    numbers |= {"length": {"max_new": 5}, "limit": {"limit": 43}}.get(case, {})
    ids = [5]
    for row in range(n - 1):  # drafts: what the rows choose, so far as they are to be right
        best = Chosen(logits[: row + 1], flags, 1.2, [*ids, -1])
        best.run([], 0, 1 << 20, 0, 1 << 20, 1)
        right = best.tokens[-1][0] if len(best.tokens) == row + 1 else 0
        ids.append(right if case != "some" or row < 2 else (right + 1) % vocab)
    stop = [250, ids[-1]] if case == "stop" else [250]
    if case == "nan":
        logits[1, 100] = np.nan
    want = Chosen(logits, flags.copy(), 1.2, ids)
    advance = int(case != "first")
    want.run(stop, numbers["keys"], numbers["limit"], numbers["count"], numbers["max_new"], advance)

    proposed = flags.copy()
    for row, token in enumerate(ids[1:], 1):
        if not proposed[token] >> 2:
            proposed[token] |= row << 2
    stats = np.stack([stats_of(row, proposed, 1.2, r) for r, row in enumerate(np.nan_to_num(logits))])
    if case == "nan":
        stats[1, 0]["sum_exp"] = np.nan
    state = np.array(list(numbers.values()), np.int32)
    found, logprobs, told = np.zeros(64, np.int32), np.zeros(64, np.float32), np.zeros(n, np.int32)
    call(
        library, "ops_choose", stats, logits, vocab, n, proposed, np.array(stop, np.int32), len(stop),
        np.array(ids, np.int32), advance, state, found, logprobs, told,
    )  # fmt: skip
    count = 3 + len(want.tokens)
    assert found[3:count].tolist() == [token for token, _ in want.tokens]
    np.testing.assert_allclose(logprobs[3:count], [logprob for _, logprob in want.tokens], atol=1e-5)
    assert (state[0], state[2], state[4]) == (want.keys, count, want.end)
    words = [MORE] * len(want.tokens)
    if want.end in (STOP, NOT_FINITE):
        words.append(STOPPED if want.end == STOP else NAN)
    else:
        words[-1] = LAST if want.end == LENGTH else TOKEN
    assert told.tolist() == (words + [0] * n)[:n]  # and nothing behind them
    if want.tokens:
        assert state[5] == want.tokens[-1][0]
    after = flags.copy()
    after[[token for token, _ in want.tokens]] |= GENERATED
    np.testing.assert_array_equal(proposed, after)  # drafts are forgotten
    assert {"some": 3, "all": 5, "length": 2, "limit": 3, "nan": 1}.get(case, len(want.tokens)) == len(want.tokens)
