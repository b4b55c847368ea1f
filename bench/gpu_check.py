# SPDX-License-Identifier: Apache-2.0
"""Everything about the GPU in one command: build, tests, sanitizer, benchmark; one JSON.

    python -m bench.gpu_check --json gpu.json        (in a checkout; installed: python -m edge_bench.gpu_check)

For a bare machine with a GPU, CUDA 13, Python 3.12 and PyTorch, but no network. What else is needed must lie beside
it as wheels, in the folder that --wheels names (default: wheels/ in the checkout); --list-wheels prints the commands
that fetch them elsewhere. The checkout itself is not changed. Only the standard library is needed to begin.

Each step has a limit, and leaves to those behind it what they need at least, so the whole takes less than eight
minutes: what only a GPU can show comes first, the tests that run without one come last. A step that fails does not keep
the others from running. Exit code: 0 where all went well, 82 without a device, 84 where a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

FORMAT = "edge-report gpu check 1"
ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 470
NO_DEVICE, FAILED = 82, 84

WHEELS = (
    "cmake", "ninja", "pybind11", "numpy", "opencv-python-headless", "pillow", "pydicom", "pyjpegls",
    "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm", "safetensors", "tokenizers<0.23", "onnx", "onnxscript",
    "onnxruntime-gpu", "transformers<4.58", "tqdm", "pytest", "hypothesis",
)  # fmt: skip
"""Packages beside PyTorch, whose cuDNN ONNX Runtime finds. Without onnxruntime-gpu the vision graph is left out,
without transformers and onnxscript the bundle of the full size; the rest is needed."""
TENSORRT = ("tensorrt-cu13", "tensorrt-cu13-libs", "tensorrt-cu13-bindings")
"""The libraries are in NVIDIA's own package index alone, and what other indexes have under these names does without
them or is years old. Without TensorRT its vision graph is left out."""

MOST = {
    "venv": 60.0, "install": 120.0, "configure": 40.0, "build": 150.0, "device tests": 120.0, "bundle": 110.0,
    "bench": 210.0, "memcheck": 60.0, "racecheck": 60.0, "tests": 170.0,
}  # fmt: skip
"""Seconds of each step, at most."""
LEAST = {"device tests": 50.0, "bench": 110.0, "memcheck": 25.0, "racecheck": 25.0}
"""Seconds that the steps before must leave to it."""


@dataclass
class Step:
    """What one step did.

    Attributes
    ----------
    name : str
    status : str
        ``ok``, ``failed``, ``late`` (it ran out of time) or ``skipped``.
    seconds : float
    reason : str
        Of a failure or a skip, in one line.
    output : str
        The end of what it printed.
    """

    name: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    output: str = ""


@dataclass
class Check:
    """The steps so far, and what they found."""

    end: float
    environment: dict[str, str]
    steps: list[Step] = field(default_factory=list)
    clock: Callable[[], float] = monotonic

    def limit(self, name: str) -> float:
        """Seconds that the step may take now."""
        behind = list(MOST)[list(MOST).index(name) + 1 :]
        return min(MOST[name], self.end - self.clock() - sum(LEAST.get(later, 0.0) for later in behind))

    def run(self, name: str, call: Sequence[str | Path], cwd: Path | None = None) -> bool:
        """Run a command within its time; False where it failed."""
        limit = self.limit(name)
        if limit < 5:
            self.steps.append(Step(name, "skipped", reason="no time is left"))
            return False
        print(f"gpu_check: {name}", file=sys.stderr, flush=True)
        begin = monotonic()
        try:
            done = subprocess.run(
                [str(part) for part in call], capture_output=True, text=True, errors="replace", timeout=limit,
                env=self.environment, cwd=cwd,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            tail = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
            self.steps.append(
                Step(name, "late", round(monotonic() - begin, 1), f"more than {limit:.0f} s", tail[-2000:])
            )
            return False
        except OSError as error:
            self.steps.append(Step(name, "failed", 0.0, f"{call[0]}: {error.strerror}"))
            return False
        seconds, text = round(monotonic() - begin, 1), (done.stdout + done.stderr).strip()
        if done.returncode != 0:
            last = (text.splitlines() or [""])[-1][:300]
            self.steps.append(Step(name, "failed", seconds, f"exit code {done.returncode}: {last}", text[-4000:]))
            return False
        self.steps.append(Step(name, "ok", seconds, output=text[-1000:]))
        return True

    def skip(self, name: str, reason: str) -> None:
        self.steps.append(Step(name, "skipped", reason=reason))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_check", description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--json", metavar="PATH", type=Path, default=Path("gpu_check.json"), help="default: gpu_check.json")
    add("--wheels", metavar="DIR", type=Path, default=ROOT / "wheels", help="default: wheels/ in the checkout")
    add("--list-wheels", action="store_true", help="print the commands that fetch the wheels, and end")
    add("--seconds", metavar="N", type=int, default=TOTAL_SECONDS, help=f"for everything (default: {TOTAL_SECONDS})")
    add("--keep", metavar="DIR", type=Path, help="build there, and leave it")
    add("--python-ready", action="store_true", help="use this Python and what is installed in it; install nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the check; see the module."""
    options = make_parser().parse_args(argv)
    if options.list_wheels:
        wheels = " ".join(f"'{name}'" if "<" in name else name for name in WHEELS)
        print(f"pip download --only-binary :all: --python-version 3.12 --dest wheels {wheels}")
        print(f"# and for TensorRT {', '.join(TENSORRT)}, with --no-deps, from NVIDIA's own package index")
        return 0
    if not (ROOT / "csrc" / "cuda").is_dir():
        print("gpu_check: the sources are needed: run it in a checkout", file=sys.stderr)
        return FAILED
    begin = monotonic()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGE_")}
    check = Check(begin + options.seconds, environment)
    gpu = describe_gpu()
    bench: object = None
    work = options.keep.absolute() if options.keep else Path(tempfile.mkdtemp(prefix="edge-gpu-"))
    try:
        work.mkdir(parents=True, exist_ok=True)
        bench = _steps(check, options, work, gpu)
    finally:
        if options.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    result = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(monotonic() - begin, 1),
        "gpu": gpu,
        "python": sys.version.split()[0],
        "steps": [asdict(step) for step in check.steps],
        "bench": bench,
    }
    partial = options.json.with_name(options.json.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, options.json)
    for step in check.steps:
        print(f"{step.name:<12} {step.status:<8} {step.seconds:6.1f} s  {step.reason}")
    if gpu is None:
        print("no GPU: nothing here was run on one")
        return NO_DEVICE
    return FAILED if any(step.status in ("failed", "late") for step in check.steps) else 0


def describe_gpu() -> dict[str, str] | None:
    """Name, driver and compute capability of the first GPU; None where there is none."""
    fields = ("name", "driver_version", "compute_cap", "memory.total")
    call = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(fields, values, strict=True)) if done.returncode == 0 and len(values) == len(fields) else None


def _steps(check: Check, options: argparse.Namespace, work: Path, gpu: dict[str, str] | None) -> object:
    """Everything in turn; the benchmark's result, or None."""
    python = Path(sys.executable)
    if options.python_ready:
        check.skip("install", "--python-ready")
    else:
        venv = work / "venv"
        if not check.run("venv", [python, "-m", "venv", "--system-site-packages", venv]):
            return None
        python = venv / "bin" / "python"
        if options.wheels.is_dir():
            found = sorted(options.wheels.glob("*.whl"))
            call = [python, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", options.wheels, *found]
            check.run("install", call)
        else:
            check.skip("install", f"there is no folder {options.wheels}: --list-wheels tells what belongs there")
    environment = check.environment
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["XDG_CACHE_HOME"] = str(work / "cache")
    libraries = [*_cuda_libraries(python), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)

    # The three packages as they would be installed, the compiled parts beside the first.
    stage = work / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT / "edge", stage / "edge", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (stage / "edge_bench").symlink_to(ROOT / "bench")
    (stage / "edge_export").symlink_to(ROOT / "export")
    environment["PYTHONPATH"] = str(stage)

    build = work / "build"
    configure = ["cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={python}"]
    if shutil.which("nvcc"):
        configure.append("-DEDGE_CUDA=ON")
        if gpu is not None:
            configure.append(f"-DEDGE_CUDA_ARCHITECTURES={gpu['compute_cap'].replace('.', '')}-real")
    else:
        check.skip("nvcc", "nvcc is not on the PATH: no CUDA library is built")
    jobs = str(os.cpu_count() or 1)
    if not (check.run("configure", configure) and check.run("build", ["cmake", "--build", build, "-j", jobs])):
        return None
    for library in (*build.glob("_kernel*.so"), *build.rglob("libedge_cuda.so")):
        shutil.copy(library, stage / "edge" / library.name)

    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, ROOT / "tests" / "gpu"]
    if gpu is None:
        check.run("tests", [*tests, "-k", "library or tensorrt"], cwd=work)
        for name in ("device tests", "bench", "sanitizer"):
            check.skip(name, "no GPU")
        return None
    check.run("device tests", [*tests, "-m", "gpu and not slow"], cwd=work)
    make = "from edge_bench.reference import reference_bundle; reference_bundle('none', print, gpu=True)"
    full_size = check.run("bundle", [python, "-c", make], cwd=work)
    out = work / "bench.json"
    call = [python, "-m", "edge_bench.cli", "--device", "cuda", "--repeat", "5"]
    call += ["--shape", "reference"] if full_size else []
    call += ["--seconds", str(max(10, int(check.limit("bench")) - 40))]  # the part that has begun then ends in time
    check.run("bench", [*call, "--json", out], cwd=work)
    if shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck"):
            # Within the sanitizer a tiny text is enough: every kernel runs in it.
            sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
            check.run(tool, [*sanitizer, python, "-m", "edge_bench.gpu.tiny_text"], cwd=work)
    else:
        check.skip("sanitizer", "compute-sanitizer is not on the PATH")
    check.run("tests", [*tests, "-m", "not gpu and not slow"], cwd=work)
    return json.loads(out.read_text()) if out.is_file() else None


def _cuda_libraries(python: Path) -> list[str]:
    """Folders of CUDA's libraries: those that came as wheels (with PyTorch, say), and the compiler's own."""
    ask = "import glob, json, sys; print(json.dumps([p for f in sys.path for p in glob.glob(f + '/nvidia/*/lib')]))"
    found: list[str] = []
    try:
        done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, timeout=30)
        found = [str(path) for path in json.loads(done.stdout)] if done.returncode == 0 else []
    except (OSError, ValueError, subprocess.TimeoutExpired):
        pass
    compiler = shutil.which("nvcc")
    own = [Path(compiler).resolve().parents[1] / "lib64"] if compiler else []
    return found + [str(path) for path in own if path.is_dir()]


if __name__ == "__main__":
    sys.exit(main())
