# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU machine, where there is none: arguments, messages, the JSON without the device's parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edge_bench import cli, gpu_check

ROOT = Path(__file__).resolve().parents[2]


def test_from_a_checkout() -> None:
    """`python -m bench.gpu_check` needs the standard library and nothing else."""
    call = [sys.executable, "-S", "-m", "bench.gpu_check", "--list-wheels"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    fetch, tensorrt = done.stdout.splitlines()
    assert fetch.startswith("pip download --only-binary :all: --python-version 3.12 --dest wheels cmake ")
    assert "torch " not in fetch
    assert "tensorrt" not in fetch  # other indexes hold years-old ones under that name
    assert "tensorrt-cu13-libs" in tensorrt


def stub(folder: Path, name: str, lines: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose commands are those that a test puts into the folder."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setattr(gpu_check, "ROOT", ROOT)  # the module may be an installed one
    monkeypatch.chdir(tmp_path)
    return commands


def test_no_gpu(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == gpu_check.NO_DEVICE
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["format"] == "edge-report gpu check 1"
    assert (result["gpu"], result["bench"]) == (None, None)
    steps = {step["name"]: step for step in result["steps"]}
    assert list(steps) == ["install", "nvcc", "configure"]
    assert steps["configure"]["status"] == "failed"
    assert "cmake" in steps["configure"]["reason"]
    assert "no GPU: nothing here was run on one" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.name != "bin"] == ["out.json"]


def fake_machine(bare: Path, *, bench: str, smi: bool = True) -> None:
    if smi:
        stub(bare, "nvidia-smi", "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0, 81559'")
    stub(bare, "nvcc", "exit 0")
    # What a build leaves behind, and how it was asked for it.
    stub(
        bare,
        "cmake",
        'if [ "$1" = -S ]; then printf "%s " "$@" > "$4.asked"; mkdir -p "$4/csrc"; '
        ': > "$4/_kernel.cpython.so"; : > "$4/csrc/libedge_cuda.so"; fi',
    )
    stub(bare, "compute-sanitizer", "exit 0")
    for name in ("mkdir",):
        (bare / name).symlink_to(shutil.which(name, path="/bin:/usr/bin") or f"/bin/{name}")
    stub(bare, "python-of-the-check", f'case "$*" in *edge_bench.cli*) {bench};; esac')


def test_all_steps(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(bare, bench='for a in "$@"; do last=$a; done; echo \'{"format": "edge-bench gpu 1"}\' > "$last"')
    monkeypatch.setattr(sys, "executable", str(bare / "python-of-the-check"))
    assert gpu_check.main(["--python-ready", "--json", "out.json", "--keep", "work"]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["gpu"]["name"] == "NVIDIA H100 80GB HBM3"
    assert result["bench"] == {"format": "edge-bench gpu 1"}
    assert [(step["name"], step["status"]) for step in result["steps"]] == [
        ("install", "skipped"), ("configure", "ok"), ("build", "ok"), ("device tests", "ok"), ("bundle", "ok"),
        ("bench", "ok"), ("memcheck", "ok"), ("racecheck", "ok"), ("tests", "ok"),
    ]  # fmt: skip
    asked = (tmp_path / "work" / "build.asked").read_text()
    assert "-DEDGE_CUDA=ON" in asked
    assert "-DEDGE_CUDA_ARCHITECTURES=90-real" in asked
    stage = tmp_path / "work" / "stage"
    assert {path.name for path in stage.iterdir()} == {"edge", "edge_bench", "edge_export"}
    assert {path.name for path in (stage / "edge").glob("*.so")} == {"_kernel.cpython.so", "libedge_cuda.so"}


def test_a_step_that_fails_is_told_and_the_rest_goes_on(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_machine(bare, bench="echo 'edge-bench: device: broken' >&2; exit 82")
    stub(bare, "compute-sanitizer", 'case "$*" in *racecheck*) echo "RACECHECK SUMMARY: 1 hazard"; exit 9;; esac')
    monkeypatch.setattr(sys, "executable", str(bare / "python-of-the-check"))
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == gpu_check.FAILED
    result = json.loads((tmp_path / "out.json").read_text())
    steps = {step["name"]: step for step in result["steps"]}
    assert steps["memcheck"]["status"] == "ok"
    assert steps["racecheck"]["reason"] == "exit code 9: RACECHECK SUMMARY: 1 hazard"
    assert steps["bench"]["reason"] == "exit code 82: edge-bench: device: broken"
    assert result["bench"] is None


def test_time_runs_out(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(bare, bench="exit 0")
    monkeypatch.setattr(sys, "executable", str(bare / "python-of-the-check"))
    assert gpu_check.main(["--python-ready", "--json", "out.json", "--seconds", "3"]) == 0
    steps = json.loads((tmp_path / "out.json").read_text())["steps"]
    assert {step["reason"] for step in steps if step["name"] != "install"} == {"no time is left"}


def test_device_cuda_without_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("there may be one")
    assert cli.main(["--device", "cuda", "--json", str(tmp_path / "out.json")]) == 82
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "CUDA" in error or "driver" in error
    assert not (tmp_path / "out.json").exists()


def test_steps_leave_time_to_those_behind_them() -> None:
    """However long a step takes, what only a GPU can show has its least time; the whole is below eight minutes."""
    now = [0.0]
    check = gpu_check.Check(gpu_check.TOTAL_SECONDS, {}, clock=lambda: now[0])
    for name, most in gpu_check.MOST.items():
        limit = check.limit(name)
        assert limit <= most
        assert limit >= gpu_check.LEAST.get(name, -1e9)
        now[0] += max(limit, 0.0)
    assert now[0] <= gpu_check.TOTAL_SECONDS < 480
    assert set(gpu_check.LEAST) <= set(gpu_check.MOST)


def test_without_the_full_size(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that cannot be made costs its own line and the reports of the full size, nothing else."""
    fake_machine(bare, bench='for a in "$@"; do echo "$a" >> asked; done; exit 0')
    script = (
        (bare / "python-of-the-check")
        .read_text()
        .replace("case", 'case "$*" in *reference_bundle*) exit 1;; esac; case')
    )
    (bare / "python-of-the-check").write_text(script)
    monkeypatch.setattr(sys, "executable", str(bare / "python-of-the-check"))
    assert gpu_check.main(["--python-ready", "--json", "out.json", "--keep", "work"]) == gpu_check.FAILED
    steps = {step["name"]: step["status"] for step in json.loads((tmp_path / "out.json").read_text())["steps"]}
    assert (steps["bundle"], steps["bench"]) == ("failed", "ok")
    asked = (tmp_path / "work" / "asked").read_text().split()
    assert "--shape" not in asked
    assert 100 <= int(asked[asked.index("--seconds") + 1]) < gpu_check.MOST["bench"]


@pytest.mark.parametrize("extra", [["--quantize", "int8"], ["--kv", "int8"], ["--threads", "2"], ["--film", "x"]])
def test_what_does_not_go_with_cuda(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--device", "cuda", *extra])
    assert stop.value.code == 1
    assert "does not go with --device cuda" in capsys.readouterr().err
