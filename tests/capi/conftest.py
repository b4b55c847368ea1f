# SPDX-License-Identifier: Apache-2.0
"""The C library, built once per session: ``$EDGE_TEST_CAPI_BUILD`` (a finished build folder), or else a quick build.

The quick build holds the generic kernels only and takes about 20 s on four free cores.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests" / "runtime")]

from capi import Engine, Library, onnxruntime_library  # noqa: E402
from capi_build import build_once  # noqa: E402
from handmade import make_bundle  # noqa: E402

BUILD = "EDGE_TEST_CAPI_BUILD"


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get(BUILD)
    if not given:
        return build_once(tmp_path_factory, "-DEDGE_QUICK=ON")
    folder = Path(given)
    status, log = folder / "status", folder / "log"  # of a build that runs in the background
    for _ in range(600):
        if status.exists() or not log.exists():
            break
        time.sleep(0.5)
    if log.exists():
        assert status.read_text().strip() == "0", log.read_text()[-4000:]
    return folder


@pytest.fixture(scope="session")
def library(build_folder: Path) -> Library:
    return Library(build_folder / "csrc" / "capi" / "libedge_report.so")


@pytest.fixture(scope="session")
def demo() -> Path:
    return ROOT / "edge" / "bundles" / "demo"


@pytest.fixture(scope="session")
def engine(library: Library, demo: Path) -> Engine:
    return library.engine(demo)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle; not to be written to."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "good")


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the good bundle, to be spoilt."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def onnxruntime_file() -> Path:
    return onnxruntime_library()
