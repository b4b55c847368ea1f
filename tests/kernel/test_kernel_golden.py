# SPDX-License-Identifier: Apache-2.0
"""A bias that covers text keys too, with what the original code made of a mask for a sequence of 1129."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import decoder_of, prefix_of, spec_of, weights_of

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "golden_bias.npz"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden data at {GOLDEN}")
IMAGE, BEGIN = 1028, 1


def test_bias_of_a_whole_sequence() -> None:
    """Every row reads the front of the one stretched row: queries of zero, so the attention is its softmax."""
    with np.load(GOLDEN) as data:
        golden = data["layerwise_1129"][1]  # [layers, keys]
    spec = spec_of(layers=1, heads=1, kv_heads=1, head_dim=64, max_positions=1200, vocab=8)
    weights = weights_of(spec)
    weights["layers.0.qkv.weight"][:] = 0
    weights["layers.0.qkv.bias"][:] = 0
    prefix = prefix_of(spec, IMAGE)
    for row in golden:
        prefix["golden"] = np.ascontiguousarray(row[None])
        decoder = decoder_of(spec, weights, prefix, "golden", threads=1, evidence_layers=[0])
        text = decoder.generate(None, begin_ids=[1] * BEGIN, max_new_tokens=100, bias_rows="all")
        for index in (0, 1, 50, 99):
            seen = row[: IMAGE + BEGIN + index].astype(np.float64)
            p = np.exp(seen - seen.max())
            np.testing.assert_allclose(text.evidence[index], (p / p.sum())[:IMAGE], rtol=5e-5)
