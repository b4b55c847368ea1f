# SPDX-License-Identifier: Apache-2.0
"""What is started as ``python -m edge_bench...``: it helps, and says in a line what is wrong with its arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
from edge_bench import head
from handmade import make_bundle


def start(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-P", "-m", f"edge_bench.{module}", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("module", ["head", "peers", "gpu_check", "peers.worker", "gpu.worker"])
def test_help(module: str) -> None:
    done = start(module, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["peers.worker"], ["peers.worker", "{}"], ["gpu.worker", "decoder", "{"]])
def test_a_worker_that_nobody_asked_anything(arguments: list[str]) -> None:
    done = start(*arguments)
    assert done.returncode != 0
    assert "usage: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_head_of_no_bundle(tmp_path: Path) -> None:
    done = start("head", tmp_path / "none")
    assert (done.returncode, done.stdout) == (30, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("python -m edge_bench.head: bundle: ")


def test_a_head_that_is_not_int8(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert head.main([str(make_bundle(tmp_path / "bundle"))]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "usage: the head of this bundle is not in int8" in err


def test_what_the_head_of_the_demo_model_could_save(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reference shape, made small, and the demo model."""
    from edge_bench import reference

    spec = {**reference.SPEC, "layers": 2, "hidden": 128, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp": 256}
    spec |= {"vocab": 320, "max_positions": 192}
    monkeypatch.setattr(reference, "SPEC", spec)
    monkeypatch.setattr(reference, "PREFIX", 16)
    monkeypatch.setattr(reference, "decoder_weights", lambda quantize, _say: reference.random_weights(spec, quantize))
    monkeypatch.delenv("EDGE_REPORT_BUNDLE", raising=False)
    assert head.main([]) == 0, capfd.readouterr().err
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2 * (1 + len(head.DROPPED_BITS))
    assert lines[0].startswith("reference shape, random weights: 32 rows, head [320, 128] int8, ")
