# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels in two builds: on the host's stand-in for a device (everywhere), and on a device (where there is
one). The same tests run on both."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stand_in import DEVICE, HOST, ROOT, StandIn, device_here

sys.path.insert(0, str(ROOT / "tests" / "kernel"))  # the twin and the small models
sys.path.append(str(ROOT / "tests" / "runtime"))  # hand-made bundles


LIBRARY = "libedge_cuda.so"
OPS = [HOST / "ops.cpp", HOST / "ops_text.cpp"]  # single kernels


def sources() -> list[Path]:
    return [path for path in sorted(DEVICE.iterdir()) if path.suffix in (".cu", ".cpp") and path.stem != "probe"]


def build(jobs: list[list[str]], link: list[str]) -> None:
    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(run, jobs))
    run(link)


def built_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A library that processes which run tests side by side build once between them."""
    if "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        folder = factory.mktemp(name)
        make(folder / LIBRARY)
        return folder / LIBRARY
    folder = factory.getbasetemp().parent / name
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / LIBRARY).exists():
            make(folder / "partial.so")
            os.replace(folder / "partial.so", folder / LIBRARY)
    return folder / LIBRARY


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library compiled as plain C++ against the stand-in, and the single kernels for ctypes."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler here")
    flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
    # A word that does not lie at a multiple of its 16 bytes, or an index that does not fit its type, ends the process.
    flags += ["-Wno-unknown-pragmas"]
    flags += ["-fsanitize=alignment,signed-integer-overflow", "-fsanitize-undefined-trap-on-error"]
    files = [*sources(), *(HOST / name for name in ("fibers.cpp", "runtime.cpp")), *OPS]
    include = ["-I", str(HOST), "-I", str(ROOT / "csrc"), "-x", "c++"]

    def make(library: Path) -> None:
        objects = [str(library.with_name(f"{path.name}.o")) for path in files]
        jobs = [
            [compiler, *flags, *include, "-c", str(path), "-o", target]
            for path, target in zip(files, objects, strict=True)
        ]
        build(jobs, [compiler, "-shared", *objects, "-o", str(library)])

    return built_once(tmp_path_factory, "cuda_host", make)


@pytest.fixture(scope="session")
def device_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library and the single kernels compiled for the device that is here; a skip that says why otherwise."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or not device_here():
        pytest.skip("no CUDA device here" if nvcc else "no CUDA device and no nvcc here")
    flags = ["-std=c++20", "-O3", "-fmad=false", "-arch=native", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    files = [*sources(), *OPS]

    def make(library: Path) -> None:
        objects = [str(library.with_name(f"{path.name}.o")) for path in files]
        jobs = [
            [nvcc, *flags, "-I", str(ROOT / "csrc"), "-x", "cu", "-c", str(path), "-o", target]
            for path, target in zip(files, objects, strict=True)
        ]
        build(jobs, [nvcc, "-shared", "-cudart=static", *objects, "-o", str(library)])

    return built_once(tmp_path_factory, "cuda_device", make)


@pytest.fixture(params=["host", pytest.param("device", marks=pytest.mark.gpu)])
def library(request: pytest.FixtureRequest) -> Path:
    """The library under test."""
    path: Path = request.getfixturevalue(f"{request.param}_library")
    return path


@pytest.fixture
def stand_in(host_library: Path) -> StandIn:
    """The stand-in, as it was afterwards."""
    host = StandIn(host_library)
    yield host  # type: ignore[misc]
    for name, value in {
        "devices": 1,
        "capability": 90,
        "uuid": 7,
        "processors": 3,
        "any_pointer": 0,
        "memory": 4 << 30,
        "order": 0,
        "fail_launch": -1,
        "fail_wait": 0,
        "cooperates": 1,
    }.items():
        host.set(name, value)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from handmade import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles") / "good")


@pytest.fixture
def film() -> np.ndarray:
    from handmade import chest_picture

    return chest_picture()
