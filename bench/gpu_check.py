# SPDX-License-Identifier: Apache-2.0
"""Everything about the GPU in one command: build, tests, figures, sanitizer; one JSON.

    python -m bench.gpu_check --json gpu.json        (in a checkout; installed: python -m edge_bench.gpu_check)

For a bare machine with a GPU, CUDA 13, Python 3.12 and PyTorch, but no network. What else is needed must lie beside
it as wheels, in the folder that --wheels names (default: wheels/ in the checkout); --list-wheels prints the commands
that fetch them elsewhere. The checkout itself is not changed. Only the standard library is needed to begin.

What only a GPU can show comes first: whether the decoder is right, how fast it is, what the sanitizer sees. Each step
has a limit, is a process group of its own, and leaves to those behind it what they need at least, so the whole takes
less than eight minutes. A step that fails or hangs does not keep the others from running, and the JSON is written
after every one. Exit code: 0 where all went well, 82 without a device, 84 where a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from .gpu.child import Child, none_outlives_us
from .gpu.preflight import describe_gpu, preflight, render
from .gpu.steps import Check, Time, go_on, stop
from .gpu.summary import combine
from .gpu.wheels import SETS, commands

FORMAT = "edge-report gpu check 2"
ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 470
NO_DEVICE, FAILED = 82, 84

PLAN = {
    "install": Time(60), "configure": Time(40), "build": Time(150), "test libraries": Time(120),
    "device tests": Time(110, 50), "weights": Time(30), "decoder": Time(130, 60), "memcheck": Time(50, 25),
    "racecheck": Time(50, 25), "bundle": Time(60), "reports": Time(90, 25), "peers": Time(60, 15), "tests": Time(90),
}  # fmt: skip
FILE_SECONDS = 60.0
"""Of the tests of one file on the device."""
TEST_SECONDS = 40
"""Of one test, after which its process ends."""
LATE_IS_FINE = ("tests",)
"""What runs without a device elsewhere, too."""
FIRST = ("test_cuda_kernels.py", "test_cuda_steps.py", "test_cuda_decoder.py", "test_cuda_persistent.py")
NO_TESTS = 5
"""pytest's exit code where none was collected."""

MAKE_WEIGHTS = "from edge_bench.reference import decoder_weights as w; [w(k, print) for k in ('none', 'int8', 'int4')]"
MAKE_BUNDLE = "from edge_bench.reference import reference_bundle; reference_bundle('none', print, gpu=True)"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--json", metavar="PATH", type=Path, default=Path("gpu_check.json"), help="default: gpu_check.json")
    add("--wheels", metavar="DIR", type=Path, default=ROOT / "wheels", help="default: wheels/ in the checkout")
    add(
        "--list-wheels",
        nargs="?",
        choices=sorted(SETS),
        const="all",
        help="print the commands that fetch the wheels, and end; small: those that a machine lacks which has PyTorch, "
        "transformers, onnx and the tools to build",
    )
    add("--seconds", metavar="N", type=int, default=TOTAL_SECONDS, help=f"for everything (default: {TOTAL_SECONDS})")
    add("--keep", metavar="DIR", type=Path, help="build there, and leave it")
    add("--logs", metavar="DIR", type=Path, help="keep there what every step prints")
    add("--python-ready", action="store_true", help="use what is installed here; install nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the check; see the module."""
    options = make_parser().parse_args(argv)
    if options.list_wheels:
        print("\n".join(commands(options.list_wheels)))
        return 0
    if not (ROOT / "csrc" / "cuda").is_dir():
        print("gpu_check: the sources are needed: run it in a checkout", file=sys.stderr)
        return FAILED
    begin = monotonic()
    work = options.keep.absolute() if options.keep else Path(tempfile.mkdtemp(prefix="edge-gpu-"))
    work.mkdir(parents=True, exist_ok=True)
    gpu = describe_gpu()
    result: dict[str, Any] = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": False,
        "seconds": 0.0,
        "gpu": gpu,
        "preflight": None,
        "steps": [],
        "bench": None,
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGE_")}
    logs = options.logs.absolute() if options.logs else work / "logs"
    check = Check(begin + options.seconds, PLAN, environment, logs)

    def write() -> None:
        """Whatever happens next, what is known is on the disk."""
        found = [_read(work / f"{name}.json") for name in ("decoder", "reports", "peers")]
        result["seconds"] = round(monotonic() - begin, 1)
        result["steps"] = [asdict(step) for step in check.steps]
        result["bench"] = combine([one for one in found if one is not None])
        partial = options.json.with_name(options.json.name + ".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(partial, options.json)

    check.tell = write
    try:
        with none_outlives_us():
            _steps(check, options, work, gpu, result)
        result["complete"] = True
        write()
    finally:
        if options.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    for step in check.steps:
        print(f"{step.name:<40} {step.status:<8} {step.seconds:6.1f} s  {step.reason}")
    if gpu is None:
        print("no GPU: nothing here was run on one")
        return NO_DEVICE
    bad = [s for s in check.steps if s.status == "failed" or (s.status == "late" and s.name not in LATE_IS_FINE)]
    return FAILED if bad else 0


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _prepare(check: Check, options: argparse.Namespace, work: Path, result: dict[str, Any]) -> None:
    """The environment of all commands: this very Python with what it sees, the wheels before it, our packages first.

    No virtual environment: one made from within another hides what the other has.
    """
    python, environment = Path(sys.executable), check.environment
    site, stage = work / "site", work / "stage"
    environment["PATH"] = os.pathsep.join([str(python.parent), str(site / "bin"), environment.get("PATH", "")])
    environment["XDG_CACHE_HOME"] = str(work / "cache")
    environment["PYTHONPATH"] = os.pathsep.join([str(stage), str(site), *filter(None, [environment.get("PYTHONPATH")])])
    found = result["preflight"] = preflight(python, environment)
    print(f"gpu_check: {render(found)}", file=sys.stderr, flush=True)

    # The three packages as they would be installed; the compiled parts come beside the first.
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT / "edge", stage / "edge", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (stage / "edge_bench").symlink_to(ROOT / "bench")
    (stage / "edge_export").symlink_to(ROOT / "export")

    if options.python_ready:
        check.skip("install", "--python-ready")
    elif not (wheels := sorted(options.wheels.absolute().glob("*.whl"))):
        check.skip("install", f"there are no wheels in {options.wheels}: --list-wheels tells what belongs there")
    else:
        install = [python, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--target", site]
        if not check.run("install", [*install, *wheels], work):
            for wheel in wheels:  # one that does not fit is one that is missing
                check.run(f"install {wheel.name}", [*install, wheel], work, within=check.limit("install"))
        found = result["preflight"] = preflight(python, environment)

    if found["nvcc"]:
        nvcc = Path(found["nvcc"])
        environment["CUDACXX"] = str(nvcc)
        environment["PATH"] += f"{os.pathsep}{nvcc.parent}"
    own = [Path(found["nvcc"]).resolve().parents[1] / "lib64"] if found["nvcc"] else []
    libraries = [*found["libraries"], *(str(path) for path in own if path.is_dir())]
    libraries += filter(None, [environment.get("LD_LIBRARY_PATH")])
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)


def _build(check: Check, work: Path, gpu: dict[str, str] | None, found: dict[str, Any]) -> bool:
    """The kernel and the library for this card, and beside them the libraries that the tests compile."""
    build = work / "build"
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        build,
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    if found["ninja"]:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={found['ninja']}"]
    if found["python_h"]:
        configure.append(f"-DPython_INCLUDE_DIR={found['python_h']}")
    tested: Child | None = None
    if found["nvcc"]:
        configure += ["-DEDGE_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={found['nvcc']}"]
        if gpu is not None:
            configure.append(f"-DEDGE_CUDA_ARCHITECTURES={gpu['compute_cap'].replace('.', '')}-real")
            check.environment["EDGE_TEST_CUDA_LIBRARIES"] = str(work / "test-libraries")
            call = [sys.executable, ROOT / "tests" / "gpu" / "libraries.py", work / "test-libraries"]
            tested = check.begin("test libraries", call, work)
    else:
        check.skip("nvcc", "there is no nvcc on the PATH or in CUDA_HOME: no CUDA library is built")
    jobs = str(os.cpu_count() or 1)
    done = check.run("configure", configure, work) and check.run("build", ["cmake", "--build", build, "-j", jobs], work)
    for library in (*build.glob("_kernel*.so"), *build.rglob("libedge_cuda.so")):
        shutil.copy(library, work / "stage" / "edge" / library.name)
    if tested is not None and not done:
        tested.kill()
    elif tested is not None:
        check.await_("test libraries", tested, max(check.limit("test libraries"), 0.0))
    return done


def _steps(
    check: Check, options: argparse.Namespace, work: Path, gpu: dict[str, str] | None, result: dict[str, Any]
) -> None:
    """Everything in turn."""
    _prepare(check, options, work, result)
    found, python = result["preflight"], Path(sys.executable)
    if not _build(check, work, gpu, found):
        return
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ROOT]
    if gpu is None:
        check.run("tests", [*pytest, "-q", ROOT / "tests" / "gpu", "-k", "library or tensorrt"], work)
        for name in ("device tests", "decoder", "memcheck", "reports", "peers"):
            check.skip(name, "no GPU")
        return
    weights = check.begin("weights", [python, "-c", MAKE_WEIGHTS], work)
    bundle = check.begin("bundle", [python, "-c", MAKE_BUNDLE], work)

    each = [*pytest, "-v", "-o", "faulthandler_timeout=30"]
    if found["packages"].get("pytest-timeout"):
        each += [f"--timeout={TEST_SECONDS}", "--timeout-method=thread"]
    end = check.clock() + check.limit("device tests")
    for kind, which in (("device tests", "gpu and not slow"), ("slow device tests", "gpu and slow")):
        for file in device_test_files():  # slow is what is so on a processor
            left = min(FILE_SECONDS, end - check.clock())
            check.run(f"{kind} {file.name}", [*each, "-m", which, file], work, within=left, nothing=NO_TESTS)
            last = (check.steps[-1].output.splitlines() or [""])[-1]
            if check.steps[-1].status == "ok" and "skipped" in last and "passed" not in last:
                check.steps[-1].status, check.steps[-1].reason = (
                    "failed",
                    f"nothing ran on the device: {last.strip('= ')}",
                )
                check.tell()
    if weights is not None:
        check.await_("weights", weights, max(check.limit("weights"), 0.0))

    def bench(name: str, *more: str) -> None:
        call = [python, "-P", "-m", "edge_bench.cli", "--device", "cuda", "--parts", name, "--repeat", "5", *more]
        # What has begun ends in time by itself, and is written down.
        call += ["--seconds", str(max(10, int(check.limit(name)) - 15)), "--json", work / f"{name}.json"]
        check.run(name, call, work)

    stop(bundle)
    bench("decoder")
    go_on(bundle)
    if found["sanitizer"]:
        for tool in ("memcheck", "racecheck"):
            # Within the sanitizer a tiny text is enough: every kernel runs in it.
            sanitizer = [found["sanitizer"], "--tool", tool, "--error-exitcode", "9"]
            check.run(tool, [*sanitizer, python, "-P", "-m", "edge_bench.gpu.tiny_text"], work)
            last = check.steps[-1]
            if last.status == "failed" and "Device not supported" in last.output:
                last.status, last.reason = "skipped", "compute-sanitizer does not take this device here"
                check.tell()
    else:
        check.skip("memcheck", "there is no compute-sanitizer on the PATH or where CUDA is")
    full_size = bundle is not None and check.await_("bundle", bundle, max(check.limit("bundle"), 0.0))
    bench("reports", *(["--shape", "reference"] if full_size else []))
    bench("peers")
    side_by_side = ["-n", "8"] if found["packages"].get("pytest-xdist") else []
    rest = [*pytest, "-q", *side_by_side, "-m", "not gpu and not slow", ROOT / "tests" / "gpu"]
    check.run("tests", rest, work)


def device_test_files() -> list[Path]:
    """Files with tests for a device, the kernels' first: each is a process, which an error that sticks ends with."""
    folder = ROOT / "tests" / "gpu"
    with_some = {
        path.name for path in folder.glob("test_*.py") if re.search(r"\blibrary: Path|mark\.gpu\b", path.read_text())
    }
    order = [name for name in FIRST if name in with_some]
    return [folder / name for name in (*order, *sorted(with_some - set(order)))]


if __name__ == "__main__":
    sys.exit(main())
