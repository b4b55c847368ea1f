# SPDX-License-Identifier: Apache-2.0
"""Building the C library; not in ``conftest``, a name that every folder of tests has."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | os.PathLike[str], **options: object) -> str:
    """Run a build step; what it printed is shown where it fails."""
    done = subprocess.run([os.fspath(c) for c in command], capture_output=True, text=True, **options)  # type: ignore
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def build(folder: Path, *options: str) -> Path:
    """Configure and build the C library; the build folder."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: the C library cannot be built")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run("cmake", "-S", ROOT, "-B", folder, *generator, "-DEDGE_PYTHON=OFF", "-DEDGE_CAPI=ON", *options)
    run("cmake", "--build", folder, "-j", str(min(4, os.cpu_count() or 1)))
    return folder


def build_once(factory: pytest.TempPathFactory, *options: str) -> Path:
    """One build for all workers of a session."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "capi-build"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            build(folder, *options)
            done.touch()
    return folder
