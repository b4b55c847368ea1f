# SPDX-License-Identifier: Apache-2.0
"""The random bundle of the full size, without making one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from edge_bench import reference

from edge.errors import ProcessingError


def test_random_weights_may_round_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float16 graph of random weights is for timing; every other export keeps the limit of models for use."""
    cli = pytest.importorskip("edge_export.cli")
    gpu_graph = pytest.importorskip("edge_export.gpu_graph")
    usual = gpu_graph.LARGEST_ERROR
    limits = []

    def run(arguments: Any) -> None:
        limits.append((arguments.gpu_graph, arguments.gpu_error, gpu_graph.LARGEST_ERROR))

    def child(call: list[str], what: str) -> None:
        monkeypatch.setattr("sys.argv", ["-c", *call[call.index("-c") + 2 :]])
        with pytest.raises(SystemExit) as end:
            exec(call[call.index("-c") + 1], {})
        assert end.value.code == 0
        raise ProcessingError("enough")

    monkeypatch.setattr(cli, "_run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(reference, "_child", child)
    monkeypatch.setattr(reference, "CHECKPOINT_AND_BUNDLE_BYTES", 0)
    for gpu in (False, True):
        with pytest.raises(ProcessingError, match="enough"):
            reference.reference_bundle("none", lambda line: None, gpu=gpu)
    assert limits == [(False, None, usual), (True, reference.RANDOM_ERROR, usual)]
    assert usual < reference.RANDOM_ERROR


@pytest.mark.parametrize("more", [["--gpu-graph"], ["--random", "tiny"]])
def test_a_trained_model_keeps_its_limit(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = pytest.importorskip("edge_export.cli")
    call = [str(tmp_path / "x.pth"), "--out", str(tmp_path / "out"), "--gpu-error", "0.01", *more]
    assert cli.main(call) == 1
    assert "--gpu-error goes with --random and --gpu-graph" in capsys.readouterr().err


def test_the_export_is_a_process(capfd: pytest.CaptureFixture[str]) -> None:
    program = [sys.executable, "-P", "-c", "import os, sys; print(os.getppid()); sys.exit(int(sys.argv[1]))"]
    reference._child([*program, "0"], "the export")
    assert capfd.readouterr() == ("", f"{os.getpid()}\n")  # standard output is for figures
    with pytest.raises(ProcessingError, match=r"the export failed \(exit code 3\); its own message is above"):
        reference._child([*program, "3"], "the export")
