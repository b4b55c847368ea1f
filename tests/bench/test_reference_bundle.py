# SPDX-License-Identifier: Apache-2.0
"""The random bundle of the full size, without making one."""

from __future__ import annotations

from pathlib import Path

import pytest
from edge_bench import reference

from edge.errors import ProcessingError


def test_random_weights_may_round_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float16 graph of random weights is for timing; every other export keeps the limit of models for use."""
    cli = pytest.importorskip("edge_export.cli")
    gpu_graph = pytest.importorskip("edge_export.gpu_graph")
    usual = gpu_graph.LARGEST_ERROR
    limits = []

    def child(call: list[str], what: str) -> None:
        monkeypatch.setattr(gpu_graph, "LARGEST_ERROR", usual)
        monkeypatch.setattr(cli, "main", lambda arguments: limits.append(gpu_graph.LARGEST_ERROR))
        with pytest.raises(SystemExit):
            exec(call[call.index("-c") + 1], {})
        monkeypatch.setattr(gpu_graph, "LARGEST_ERROR", usual)
        raise ProcessingError("enough")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(reference, "_child", child)
    monkeypatch.setattr(reference, "CHECKPOINT_AND_BUNDLE_BYTES", 0)
    for gpu in (False, True):
        with pytest.raises(ProcessingError, match="enough"):
            reference.reference_bundle("none", lambda line: None, gpu=gpu)
    assert limits == [usual, reference.RANDOM_ERROR]
    assert usual < reference.RANDOM_ERROR
