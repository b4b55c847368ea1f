# SPDX-License-Identifier: Apache-2.0
"""Single CUDA kernels against their NumPy twins, and against themselves with other numbers of rows."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import twin
from numpy.typing import NDArray
from small import quantise, quantise4

TYPES = {"fp32": 0, "fp16": 1, "bf16": 2, "int8": 3, "int4": 4}
OUTPUTS = {"store": 0, "residual": 1, "gelu_tanh": 2, "gelu_erf": 3, "logits": 4}


def pointer(array: NDArray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def stored(w: NDArray[np.float32], kind: str) -> tuple[NDArray, NDArray, NDArray]:
    """The bytes on the device with padded rows, their scales, and the exact values."""
    padded = -w.shape[1] % 32
    scale = np.zeros(0, np.float32)
    if kind == "int4":
        data, scale = quantise4(w)
        return data, scale, twin.full(data, scale)
    if kind == "int8":
        data, scale = quantise(w)
        exact = data * scale[:, None]
    elif kind == "bf16":
        bits = w.view(np.uint32)
        data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        exact = (data.astype(np.uint32) << 16).view(np.float32)
    else:
        data = w.astype(np.float16 if kind == "fp16" else np.float32)
        exact = data.astype(np.float32)
    return np.ascontiguousarray(np.pad(data, ((0, 0), (0, padded)))), scale, exact


def run_matmul(
    library: Path,
    kind: str,
    w: NDArray[np.float32],
    x: NDArray[np.float32],
    output: str = "store",
    norm: tuple[NDArray, NDArray] | None = None,
    start: NDArray | None = None,
    flags: NDArray | None = None,
    penalty: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """y, the statistics of logits, the exact weights and the bias."""
    data, scale, exact = stored(w, kind)
    bias = np.random.default_rng(7).standard_normal(len(w)).astype(np.float32)
    y = np.zeros((len(x), len(w)), np.float32) if start is None else start.copy()
    stats = np.zeros((len(x), -(-len(w) // 128), 4), np.float32)
    flags = np.zeros(len(w), np.uint8) if flags is None else flags
    status = ctypes.CDLL(str(library)).ops_matmul(
        TYPES[kind], pointer(data), pointer(scale), ctypes.c_int64(scale.nbytes), pointer(bias), len(w), w.shape[1],
        w.shape[1] + -w.shape[1] % 32, pointer(x), len(x), pointer(norm[0] if norm else None),
        pointer(norm[1] if norm else None), ctypes.c_float(1e-5), pointer(y), OUTPUTS[output], pointer(flags),
        ctypes.c_float(penalty), pointer(stats),
    )  # fmt: skip
    assert status == 0
    return y, stats, exact, bias


# Less than a lane each, a part of a warp's columns, several outputs per block, more columns than fit at once.
SHAPES = [(3, 8), (37, 100), (70, 1100)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("outs", "cols"), SHAPES)
def test_matmul(library: Path, kind: str, outs: int, cols: int) -> None:
    if kind == "int4":
        cols = -(-cols // 32) * 32
    rng = np.random.default_rng(outs)
    w = rng.standard_normal((outs, cols)).astype(np.float32)
    x = rng.standard_normal((16, cols)).astype(np.float32)
    whole, _, exact, bias = run_matmul(library, kind, w, x)
    assert twin.nmse(whole, twin.matmul(exact, None, x, bias)) < 1e-12
    # The same bits however many rows share the pass: 1, 4 and 16 are code of their own.
    for first, last in ((0, 1), (3, 6), (2, 9)):
        np.testing.assert_array_equal(run_matmul(library, kind, w, x[first:last])[0], whole[first:last])


@pytest.mark.parametrize("rows", [1, 3, 11])
@pytest.mark.parametrize("output", ["residual", "gelu_tanh", "gelu_erf"])
def test_matmul_with_norm(library: Path, rows: int, output: str) -> None:
    rng = np.random.default_rng(rows)
    w = (rng.standard_normal((50, 96)) / 10).astype(np.float32)
    x = (rng.standard_normal((rows, 96)) * 3 + 40).astype(np.float32)  # a mean far above the spread
    norm = (rng.random(96, dtype=np.float32) + 0.5, rng.standard_normal(96).astype(np.float32))
    start = rng.standard_normal((rows, 50)).astype(np.float32)
    got, _, _, bias = run_matmul(library, "fp32", w, x, output, norm, start)
    want = twin.matmul(w, None, twin.layer_norm(x, *norm, 1e-5), bias)
    want = {"residual": lambda y: start + y, "gelu_tanh": twin.gelu_tanh, "gelu_erf": twin.gelu_erf}[output](want)
    assert twin.nmse(got, want) < 1e-11


@pytest.mark.parametrize("cols", [96, 1024, 1100])
def test_norms_have_one_order(library: Path, cols: int) -> None:
    """A row alone is normalised by all threads of a block, in one go or, where it is long, in steps; several rows by a
    warp each. The bits are the same."""
    rng = np.random.default_rng(cols)
    w = (rng.standard_normal((9, cols)) / 30).astype(np.float32)
    x = (rng.standard_normal((5, cols)) * 3 + 10).astype(np.float32)
    norm = (rng.random(cols, dtype=np.float32) + 0.5, rng.standard_normal(cols).astype(np.float32))
    whole, _, _, bias = run_matmul(library, "fp32", w, x, norm=norm)
    assert twin.nmse(whole, twin.matmul(w, None, twin.layer_norm(x, *norm, 1e-5), bias)) < 1e-11
    for first, last in ((0, 1), (2, 3), (1, 4)):
        np.testing.assert_array_equal(run_matmul(library, "fp32", w, x[first:last], norm=norm)[0], whole[first:last])


@pytest.mark.parametrize("rows", [1, 5])
def test_head(library: Path, rows: int) -> None:
    """Logits, and per block of 128 what the choice of the next token needs."""
    rng = np.random.default_rng(rows)
    w, x = rng.standard_normal((300, 64)).astype(np.float32), rng.standard_normal((rows, 64)).astype(np.float32)
    w[17] = w[9]  # equal scores
    flags = np.zeros(300, np.uint8)
    generated, suppressed = [3, 40, 131, 299], [5, 40, 200]
    flags[generated] |= 1
    flags[suppressed] |= 2
    logits, stats, _, bias = run_matmul(library, "fp32", w, x, "logits", flags=flags, penalty=1.3)
    assert twin.nmse(logits, twin.matmul(w, None, x, bias)) < 1e-12
    for r in range(rows):
        scores = twin.adjusted(logits[r], generated, 1.3, suppressed)
        for b in range(3):
            block = slice(128 * b, min(128 * (b + 1), 300))
            top, total, best, token = stats[r, b]
            assert top == logits[r, block].max()
            np.testing.assert_allclose(total, np.exp(logits[r, block].astype(np.float64) - top).sum(), rtol=1e-6)
            assert (best, token) == (scores[block].max(), block.start + int(np.argmax(scores[block])))


@pytest.mark.parametrize(("cache", "limit"), [("fp32", 1e-12), ("fp16", 1e-12), ("int8", 1e-11)])
@pytest.mark.parametrize(
    ("heads", "head_dim", "keys", "rows"),
    # The last: more blocks of keys than a warp has lanes.
    [(h, d, k, r) for h, d in ((2, 64), (3, 12)) for k, r in ((1, 1), (127, 1), (128, 3), (250, 16))]
    + [(1, 80, 200, 2), (1, 16, 4300, 1)],
)
def test_attend(library: Path, cache: str, limit: float, heads: int, head_dim: int, keys: int, rows: int) -> None:
    rng = np.random.default_rng(keys)
    k, v = (rng.standard_normal((heads, keys, head_dim)).astype(np.float32) for _ in range(2))
    qkv = rng.standard_normal((rows, 3, heads, head_dim)).astype(np.float32)
    bias = np.zeros(-(-(keys + rows) // 128) * 128, np.float32)
    bias[:keys] = np.where(rng.random(keys) < 0.4, np.finfo(np.float32).min, rng.random(keys))

    def rounded(a: NDArray) -> NDArray:
        if cache != "int8":
            return a.astype(np.float16 if cache == "fp16" else np.float32)
        scale = (np.abs(a).max(-1, keepdims=True) / np.float32(127)).astype(np.float32)
        return np.rint(a * (np.float32(127) / np.abs(a).max(-1, keepdims=True))) * scale

    for use in (0, 1):
        out = np.zeros((rows, heads, head_dim), np.float32)
        mass = np.zeros((rows, keys), np.float32)
        status = ctypes.CDLL(str(library)).ops_attend(
            TYPES[cache], pointer(k), pointer(v), keys, pointer(qkv), rows, heads, head_dim, pointer(bias), use,
            pointer(out), pointer(mass),
        )  # fmt: skip
        assert status == 0
        want, seen = np.zeros(out.shape), np.zeros(mass.shape)
        for h in range(heads):
            all_k = np.concatenate([rounded(k[h]), rounded(qkv[:, 1, h])])
            all_v = np.concatenate([rounded(v[h]), rounded(qkv[:, 2, h])])
            biases = np.tile(bias[: keys + rows], (rows, 1)) if use else None
            want[:, h], p = twin.attention(qkv[:, 0, h], all_k, all_v, biases, [keys + r + 1 for r in range(rows)])
            seen += p[:, :keys] / heads
        assert twin.nmse(out, want) < limit
        np.testing.assert_allclose(mass, seen, atol=1e-6)
