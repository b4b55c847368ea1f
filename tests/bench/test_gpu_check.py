# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU machine, where there is none: arguments, messages, the JSON without the device's parts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from edge_bench import cli, gpu_check
from edge_bench.gpu import child, preflight
from edge_bench.gpu import steps as steps_module
from edge_bench.gpu.steps import Check, Time
from edge_bench.gpu.summary import FORMAT

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["small", "all"])
def test_from_a_checkout(name: str) -> None:
    """`python -m bench.gpu_check` needs the standard library and nothing else."""
    call = [sys.executable, "-S", "-m", "bench.gpu_check", "--list-wheels", *([name] if name == "small" else [])]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    fetch, *more = done.stdout.splitlines()
    assert fetch.startswith("pip download --only-binary :all: --python-version 3.12 --implementation cp --platform ")
    assert "manylinux2014_x86_64" in fetch
    assert "torch " not in fetch
    assert "tensorrt" not in fetch  # other indexes hold years-old ones under that name
    wheels = fetch.partition("--dest wheels ")[2].split()
    if name == "small":
        assert "--no-deps" in fetch
        assert "'pydicom>=3.0.1,<4'" in wheels
        assert not any(word in fetch for word in ("onnx", "transformers", "numpy", "cmake", "tokenizers"))
        assert more == []
    else:
        assert {"cmake", "onnxruntime-gpu", "pyjpegls"} <= set(wheels)
        assert "tensorrt-cu13-libs" in more[0]


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
    monkeypatch.setattr(preflight, "TOOLKITS", ())
    for name in ("CUDA_HOME", "CUDA_PATH", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return commands


def test_no_gpu(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == gpu_check.NO_DEVICE
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["format"] == "edge-report gpu check 2"
    assert (result["gpu"], result["bench"], result["complete"]) == (None, None, True)
    assert result["preflight"]["packages"]["pytest"] is not None
    assert result["preflight"]["cmake"] is None
    steps = {step["name"]: step for step in result["steps"]}
    assert list(steps) == ["install", "nvcc", "configure"]
    assert steps["configure"]["status"] == "failed"
    assert "cmake" in steps["configure"]["reason"]
    said = capsys.readouterr()
    assert "no GPU: nothing here was run on one" in said.out
    assert "cmake MISSING generator MISSING" in said.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "bin"] == ["out.json"]


PART = {
    "format": FORMAT, "call": {"layers": 12, "evidence_layers": 6}, "gpu": {"name": "x", "copy_gbps": 3000.0},
    "decoder": [], "peers": [], "peers_missing": {}, "reports": [], "notes": ["a part"],
}  # fmt: skip
BENCH = f'for a in "$@"; do last=$a; done; echo \'{json.dumps(PART)}\' > "$last"'


def fake_machine(bare: Path, *, bench: str = BENCH, smi: bool = True) -> None:
    if smi:
        stub(bare, "nvidia-smi", "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0, 81559'")
    stub(bare, "nvcc", "exit 0")
    stub(bare, "ninja", "exit 0")
    # What a build leaves behind, and how it was asked for it.
    stub(
        bare,
        "cmake",
        'if [ "$1" = -S ]; then printf "%s " "$@" > "$4.asked"; mkdir -p "$4/csrc"; '
        ': > "$4/_kernel.cpython.so"; : > "$4/csrc/libedge_cuda.so"; fi',
    )
    stub(bare, "compute-sanitizer", "exit 0")
    for name in ("mkdir", "sleep"):
        if not (bare / name).exists():
            (bare / name).symlink_to(shutil.which(name, path="/bin:/usr/bin") or f"/bin/{name}")
    stub(bare, "python-of-the-check", f'echo "$PYTHONPATH" >> "$TOLD"; case "$*" in *edge_bench.cli*) {bench};; esac')


@pytest.fixture
def machine(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a GPU, all of whose commands do as they are told."""
    monkeypatch.setattr(sys, "executable", str(bare / "python-of-the-check"))
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.3)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("PYTHONPATH", "/of/the/caller")
    fake_machine(bare)
    return bare


def steps_of(path: Path) -> dict[str, Any]:
    return {step["name"]: step for step in json.loads(path.read_text())["steps"]}


def test_all_steps(machine: Path, tmp_path: Path) -> None:
    assert gpu_check.main(["--python-ready", "--json", "out.json", "--keep", "work"]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["gpu"]["name"] == "NVIDIA H100 80GB HBM3"
    assert (result["complete"], result["preflight"]["generator"]) == (True, "Ninja")
    assert result["bench"]["notes"] == ["a part"] * 3  # of the decoder, the reports, the peers
    files = [path.name for path in gpu_check.device_test_files()]
    assert files[:4] == list(gpu_check.FIRST)
    assert "test_cuda_draft.py" in files
    assert "test_tensorrt.py" not in files
    # The most valuable first: right, quick, clean; then whole reports, peers, and what needs no device.
    assert [(step["name"], step["status"]) for step in result["steps"]] == [
        ("install", "skipped"), ("configure", "ok"), ("build", "ok"), ("test libraries", "ok"),
        *((f"{kind}device tests {name}", "ok") for kind in ("", "slow ") for name in files),
        ("weights", "ok"), ("decoder", "ok"), ("memcheck", "ok"),
        ("racecheck", "ok"), ("bundle", "ok"), ("reports", "ok"), ("peers", "ok"), ("tests", "ok"),
    ]  # fmt: skip
    asked = (tmp_path / "work" / "build.asked").read_text()
    assert "-DEDGE_CUDA=ON" in asked
    assert "-DEDGE_CUDA_ARCHITECTURES=90-real" in asked
    assert f"-G Ninja -DCMAKE_MAKE_PROGRAM={machine}/ninja" in asked
    assert f"-DCMAKE_CUDA_COMPILER={machine}/nvcc" in asked
    stage = tmp_path / "work" / "stage"
    assert {path.name for path in stage.iterdir()} == {"edge", "edge_bench", "edge_export"}
    assert {path.name for path in (stage / "edge").glob("*.so")} == {"_kernel.cpython.so", "libedge_cuda.so"}
    # The caller's packages are seen, behind ours and what was carried.
    paths = {line.split(os.pathsep)[-3:][-1] for line in (tmp_path / "told").read_text().split()}
    assert paths == {"/of/the/caller"}
    assert (tmp_path / "told").read_text().startswith(f"{stage}{os.pathsep}{stage.with_name('site')}{os.pathsep}")


def test_wheels_are_installed_beside(machine: Path, tmp_path: Path) -> None:
    """By this very Python, into a folder: an environment made within another would hide what the other has. A wheel
    that does not fit costs itself."""
    calls = tmp_path / "calls"
    script = (machine / "python-of-the-check").read_text()
    stub(
        machine,
        "python-of-the-check",
        f'echo "$*" >> {calls}; case "$*" in *pip*bad-1*) exit 1;; esac\n' + script.partition("\n")[2],
    )
    (tmp_path / "wheels").mkdir()
    for name in ("bad-1", "good-1"):
        (tmp_path / "wheels" / f"{name}-py3-none-any.whl").touch()
    assert gpu_check.main(["--wheels", "wheels", "--json", "out.json", "--keep", "work"]) == gpu_check.FAILED
    steps = steps_of(tmp_path / "out.json")
    assert steps["install good-1-py3-none-any.whl"]["status"] == "ok"
    assert steps["install bad-1-py3-none-any.whl"]["status"] == "failed"
    assert steps["decoder"]["status"] == "ok"
    lines = calls.read_text().splitlines()
    assert not any("venv" in line for line in lines)
    installs = [line for line in lines if " pip " in line]
    assert len(installs) == 3
    assert all(f"--no-index --no-deps --no-compile --target {tmp_path}/work/site" in line for line in installs)


def test_a_step_that_fails_is_told_and_the_rest_goes_on(machine: Path, tmp_path: Path) -> None:
    fake_machine(machine, bench="echo 'edge-bench: device: broken' >&2; exit 82")
    stub(
        machine,
        "compute-sanitizer",
        'case "$*" in *racecheck*) echo "SUMMARY: 1 hazard"; exit 9;; esac\necho "Device not supported"; exit 1',
    )
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == gpu_check.FAILED
    steps = steps_of(tmp_path / "out.json")
    assert steps["memcheck"]["status"] == "skipped"  # a machine whose sanitizer does not run says nothing about us
    assert steps["racecheck"]["reason"] == "exit code 9: SUMMARY: 1 hazard"
    for part in ("decoder", "reports", "peers"):
        assert steps[part]["reason"] == "exit code 82: edge-bench: device: broken"
    assert json.loads((tmp_path / "out.json").read_text())["bench"] is None


def test_a_hang_costs_one_file(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of other files, and what comes behind them, are in the JSON, with what the hung one had printed."""
    script = (machine / "python-of-the-check").read_text()
    stub(
        machine,
        "python-of-the-check",
        'case "$*" in *"not slow"*test_cuda_decoder.py) echo "one PASSED"; sleep 600;; *"not gpu"*) sleep 9;; esac\n'
        + script.partition("\n")[2],
    )
    monkeypatch.setattr(steps_module, "SHORTEST", 0.5)
    monkeypatch.setattr(gpu_check, "FILE_SECONDS", 1.0)
    monkeypatch.setitem(gpu_check.PLAN, "tests", Time(1.0))
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == gpu_check.FAILED
    steps = steps_of(tmp_path / "out.json")
    hung = steps["device tests test_cuda_decoder.py"]
    assert (hung["status"], hung["reason"], hung["output"]) == ("late", "more than 1 s", "one PASSED")
    others = [step for name, step in steps.items() if name.startswith("device tests") and step is not hung]
    assert {step["status"] for step in others} == {"ok"}
    assert [steps[name]["status"] for name in ("decoder", "racecheck", "peers", "tests")] == ["ok", "ok", "ok", "late"]


def test_device_tests_that_do_not_reach_the_device(machine: Path, tmp_path: Path) -> None:
    """Where there is a GPU, tests that skip themselves have not shown anything."""
    script = (machine / "python-of-the-check").read_text()
    lines = (
        'case "$*" in *"not slow"*test_cuda_steps.py) echo "=== 3 skipped in 2 s ===";; *"gpu and slow"*) exit 5;; esac'
    )
    stub(machine, "python-of-the-check", f"{lines}\n" + script.partition("\n")[2])
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == gpu_check.FAILED
    steps = steps_of(tmp_path / "out.json")
    step = steps["device tests test_cuda_steps.py"]
    assert (step["status"], step["reason"]) == ("failed", "nothing ran on the device: 3 skipped in 2 s")
    assert steps["slow device tests test_cuda_steps.py"]["status"] == "skipped"
    assert [name for name, step in steps.items() if step["status"] == "failed"] == ["device tests test_cuda_steps.py"]


def test_time_for_ordinary_tests_may_run_out(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (machine / "python-of-the-check").read_text()
    stub(machine, "python-of-the-check", 'case "$*" in *"not gpu"*) sleep 600;; esac\n' + script.partition("\n")[2])
    monkeypatch.setattr(steps_module, "SHORTEST", 0.5)
    monkeypatch.setitem(gpu_check.PLAN, "tests", Time(1.0))
    assert gpu_check.main(["--python-ready", "--json", "out.json"]) == 0
    assert steps_of(tmp_path / "out.json")["tests"]["status"] == "late"


def ended(process: int) -> bool:
    """Whether an orphan ends: killed, it is there until the system has taken note of it."""
    end = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return not Path(f"/proc/{process}").exists()


def test_the_json_is_written_after_every_step(machine: Path, tmp_path: Path) -> None:
    """Whoever ends the check finds what it had found, and nothing runs on."""
    stub(machine, "compute-sanitizer", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    code = (
        "import sys; from pathlib import Path\n"
        "from edge_bench import gpu_check\n"
        f"gpu_check.ROOT = Path({str(ROOT)!r})\n"
        "sys.executable = sys.argv[1]\n"
        "sys.exit(gpu_check.main(['--python-ready', '--json', 'out.json']))\n"
    )
    process = subprocess.Popen([os.path.realpath("/proc/self/exe"), "-c", code, str(machine / "python-of-the-check")],
                               env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, cwd=tmp_path)  # fmt: skip
    end = time.monotonic() + 30
    while not (tmp_path / "pid").is_file() and time.monotonic() < end:
        time.sleep(0.05)
    steps = steps_of(tmp_path / "out.json")
    assert (steps["decoder"]["status"], "memcheck" in steps) == ("ok", False)
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["complete"], result["bench"]["notes"]) == (False, ["a part"])
    process.terminate()
    assert process.wait(20) == 128 + 15
    assert ended(int((tmp_path / "pid").read_text()))


def test_time_runs_out(machine: Path, tmp_path: Path) -> None:
    assert gpu_check.main(["--python-ready", "--json", "out.json", "--seconds", "3"]) == 0
    steps = json.loads((tmp_path / "out.json").read_text())["steps"]
    told = {step["reason"] for step in steps if step["name"] in ("configure", "build", "decoder")}
    assert told == {"no time is left"}


def test_device_cuda_without_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("there may be one")
    assert cli.main(["--device", "cuda", "--json", str(tmp_path / "out.json")]) == 82
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "CUDA" in error or "driver" in error
    assert not (tmp_path / "out.json").exists()


def test_steps_leave_time_to_those_behind_them(tmp_path: Path) -> None:
    """However long a step takes, what only a GPU can show has its least time; the whole is below eight minutes."""
    now = [0.0]
    plan = gpu_check.PLAN
    check = Check(gpu_check.TOTAL_SECONDS, plan, {}, tmp_path, clock=lambda: now[0])
    for name, time_ in plan.items():
        limit = check.limit(name)
        assert limit <= time_.most
        assert limit >= (time_.least or -1e9)
        now[0] += max(limit, 0.0)
    assert now[0] <= gpu_check.TOTAL_SECONDS < 480


def test_without_the_full_size(machine: Path, tmp_path: Path) -> None:
    """A bundle that cannot be made costs its own line and the reports of the full size, nothing else."""
    fake_machine(machine, bench='for a in "$@"; do echo "$a" >> asked; done; exit 0')
    script = (machine / "python-of-the-check").read_text()
    stub(
        machine,
        "python-of-the-check",
        'case "$*" in *reference_bundle*) exit 1;; esac\n' + script.partition("\n")[2],
    )
    assert gpu_check.main(["--python-ready", "--json", "out.json", "--keep", "work"]) == gpu_check.FAILED
    steps = steps_of(tmp_path / "out.json")
    assert (steps["bundle"]["status"], steps["reports"]["status"]) == ("failed", "ok")
    asked = (tmp_path / "work" / "asked").read_text().split()
    assert "--shape" not in asked
    assert [asked[n + 1] for n, word in enumerate(asked) if word == "--parts"] == ["decoder", "reports", "peers"]
    seconds = [int(asked[n + 1]) for n, word in enumerate(asked) if word == "--seconds"]
    assert all(
        gpu_check.PLAN[name].most - 20 < limit < gpu_check.PLAN[name].most
        for name, limit in zip(("decoder", "reports", "peers"), seconds, strict=True)
    )


def test_nvcc_is_found_where_cuda_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "TOOLKITS", (tmp_path / "usual",))
    for name in ("usual", "named", "on-the-path"):
        (tmp_path / name / "bin").mkdir(parents=True)
        stub(tmp_path / name / "bin", "nvcc", "exit 0")
    usual, named, on_the_path = (tmp_path / name / "bin" for name in ("usual", "named", "on-the-path"))
    assert preflight.find_nvcc({"PATH": "/nowhere"}) == usual / "nvcc"
    assert preflight.find_nvcc({"PATH": "/nowhere", "CUDA_HOME": str(named.parent)}) == named / "nvcc"
    found = preflight.find_nvcc({"PATH": str(on_the_path), "CUDA_HOME": str(named.parent)})
    assert found == on_the_path / "nvcc"
    assert preflight.find_sanitizer({"PATH": "/nowhere"}) is None
    (usual.parent / "compute-sanitizer").mkdir()
    stub(usual.parent / "compute-sanitizer", "compute-sanitizer", "exit 0")
    assert preflight.find_sanitizer({"PATH": "/nowhere"}) == usual.parent / "compute-sanitizer" / "compute-sanitizer"
    stub(on_the_path, "compute-sanitizer", "exit 0")
    assert preflight.find_sanitizer({"PATH": str(on_the_path)}) == on_the_path / "compute-sanitizer"


def test_headers() -> None:
    """The tests run where the kernel could be built, as a rule."""
    found = preflight.find_headers()
    assert found is None or (found / "Python.h").is_file()


@pytest.mark.parametrize("extra", [["--quantize", "int8"], ["--kv", "int8"], ["--threads", "2"], ["--film", "x"]])
def test_what_does_not_go_with_cuda(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--device", "cuda", *extra])
    assert stop.value.code == 1
    assert "does not go with --device cuda" in capsys.readouterr().err


def test_parts_that_there_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--device", "cuda", "--parts", "decoder,others"], ["--parts", "decoder"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        assert "--parts" in capsys.readouterr().err
