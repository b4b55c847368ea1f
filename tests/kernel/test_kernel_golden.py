# SPDX-License-Identifier: Apache-2.0
"""The bias stretched over the sequence, against what the original code made of six masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import twin
from numpy.typing import NDArray
from small import decoder_of, prefix_of, spec_of, weights_of

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden_bias.npz"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden data at {GOLDEN}")


def base_of(stretched: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    """The vectors that were stretched: the least-squares solution, exact where the stretch loses nothing."""
    matrix = np.stack([twin.stretch(row, stretched.shape[-1]) for row in np.eye(length)], 1)
    return np.linalg.solve(matrix.T @ matrix, matrix.T @ stretched.T.astype(np.float64)).T


def test_stretched_bias() -> None:
    with np.load(GOLDEN) as data:
        golden = data["layerwise_1129"]  # [masks, layers, keys]
    want = golden.reshape(-1, golden.shape[-1])
    base = base_of(want, 1024)
    again = np.stack([twin.stretch(row, 1129) for row in base])
    # The golden rows are linear stretches of 1024 values, and our twin is that stretch.
    assert np.abs(again - want).max() < 2e-5

    # The kernel, one layer per layer of the second mask: queries of zero, so every score is the bias alone and
    # the attention its softmax.
    layers = golden.shape[1]
    rows, values = base[layers : 2 * layers].astype(np.float32), golden[1].astype(np.float64)
    spec = spec_of(layers=1, heads=1, kv_heads=1, head_dim=64, max_positions=1200, vocab=8)
    weights = weights_of(spec)
    weights["layers.0.qkv.weight"][:] = 0
    weights["layers.0.qkv.bias"][:] = 0
    prefix = prefix_of(spec, 1024)
    for row, value in zip(rows, values, strict=True):
        prefix["base"] = row[None]
        decoder = decoder_of(spec, weights, prefix, "base", "sequence", threads=1, evidence_layers=[0])
        # After 104 begin ids the row of the first generated token, which chooses the second, sees 1129 keys.
        result = decoder.generate(None, begin_ids=[1] * 104, max_new_tokens=2, bias_rows="all")
        p = np.exp(value - value.max())
        np.testing.assert_allclose(result.evidence[1], (p / p.sum())[:1024], rtol=5e-5)
