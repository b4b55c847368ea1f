# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels in two builds: on the host's stand-in for a device (everywhere), and on a device (where there is
one). The same tests run on both."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import libraries
from stand_in import ROOT, StandIn, device_here

sys.path.insert(0, str(ROOT / "tests" / "kernel"))  # the twin and the small models
sys.path.append(str(ROOT / "tests" / "runtime"))  # hand-made bundles


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library compiled as plain C++ against the stand-in, and the single kernels for ctypes."""
    if shutil.which(libraries.compiler()) is None:
        pytest.skip("no C++ compiler here")
    return built_once(tmp_path_factory, "cuda_host", libraries.make_host)


@pytest.fixture(scope="session")
def device_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library and the single kernels compiled for the device that is here; a skip that says why otherwise."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or not device_here():
        pytest.skip("no CUDA device here" if nvcc else "no CUDA device and no nvcc here")
    return built_once(tmp_path_factory, "cuda_device", libraries.make_device)


def built_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A library that processes which run tests side by side, or one after the other, build once between them."""
    kept = os.environ.get("EDGE_TEST_CUDA_LIBRARIES")
    if kept is None and "PYTEST_XDIST_TESTRUNUID" not in os.environ:
        folder = factory.mktemp(name)
        make(folder / libraries.LIBRARY)
        return folder / libraries.LIBRARY
    return libraries.once((Path(kept) if kept else factory.getbasetemp().parent) / name, make)


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
    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            pytest.skip(f"no {name} here, for bundles made by hand")
    from handmade import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles") / "good")


@pytest.fixture
def film() -> np.ndarray:
    pytest.importorskip("onnx", reason="no onnx here, which the hand-made bundles' module takes")
    from handmade import chest_picture

    return chest_picture()
