# SPDX-License-Identifier: Apache-2.0
"""The traces that tests share: told apart by everything that a graph is made from, and equal to a trace made anew."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge_export.families.lana.vision_graph import VisionGraph
from tiny import tiny_model
from traces import digest


def digest_of(*, with_mask: bool = True, with_prefill: bool = True, length: int = 60, **shape: Any) -> str:
    model = tiny_model(shape.pop("seed", 0), **shape)
    return digest(VisionGraph(model, with_mask=with_mask, with_prefill=with_prefill, sequence_length=length))


def test_other_graphs_have_other_traces() -> None:
    different: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"kind": "hidden"},
        {"kind": "gaussian_legacy", "strength": 1.0},
        {"kind": "layerwise"},
        {"kind": "layerwise", "length": 61},
        {"strength": 1.5},
        {"skip_tokens": 1},
        {"connector": "mlp4"},
        {"tied_head": False},
        {"shared_trunk": False},
        {"with_mask": False},
        {"with_mask": False, "segmenter": False},
        {"with_prefill": False},
        {"with_prefill": False, "with_mask": False},
    ]
    found = [digest_of(**options) for options in different]
    assert len(set(found)) == len(found)
    for options in ({"rows": "none"}, {"length": 61}):  # which no graph of this kind holds
        assert digest_of(**options) == found[0]
