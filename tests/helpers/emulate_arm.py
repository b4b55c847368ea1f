# SPDX-License-Identifier: Apache-2.0
"""The kernel's tests on 64-bit Arm, in emulation: ``python tests/helpers/emulate_arm.py SYSROOT [PYTEST OPTION ...]``.

Needs `aarch64-linux-gnu-g++`, `qemu-aarch64` (Debian: g++-aarch64-linux-gnu, qemu-user), CMake and pybind11, and in
SYSROOT an unpacked Debian of that architecture:

    debootstrap --foreign --arch=arm64 --variant=minbase \\
        --include=python3,python3-numpy,python3-pytest,libpython3.11-dev bookworm SYSROOT
    for deb in SYSROOT/var/cache/apt/archives/*.deb; do dpkg-deb -x $deb SYSROOT; done

Emulation says whether results are right, and nothing about speed. Without arguments all test files run that need
nothing but NumPy; the exit code is pytest's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11

SOURCE = Path(__file__).resolve().parents[2]
COMPILER = "aarch64-linux-gnu-g++"
MODULE = "_kernel.cpython-311-aarch64-linux-gnu.so"
TESTS = [
    f"test_kernel_{name}.py"
    for name in ("ops", "decoder", "prefill", "screen", "generate", "hidden", "cross", "golden", "lanes")
]


def build(sysroot: Path, work: Path) -> None:
    """The kernel module, beside the package's Python files, in ``work/package/edge``."""
    cross = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}"]
    run(["cmake", "-S", SOURCE, "-B", work / "build", *cross, "-DEDGE_PYTHON=OFF"])
    run(["cmake", "--build", work / "build", "--parallel"])
    package = work / "package"
    shutil.copytree(SOURCE / "edge", package / "edge", dirs_exist_ok=True)
    headers = [sysroot / "usr/include/python3.11", sysroot / "usr/include"]
    run(
        [COMPILER, "-shared", "-fPIC", "-O2", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=off"]
        + [f"-I{SOURCE / 'csrc'}", f"-I{pybind11.get_include()}"]
        + [word for folder in headers for word in ("-idirafter", folder)]
        + [SOURCE / "csrc/python" / name for name in ("device.cpp", "module.cpp", "ops.cpp")]
        + [work / "build/libedge_kernels.a", "-o", package / "edge" / MODULE]
    )


def test(sysroot: Path, work: Path, arguments: list[str]) -> int:
    libraries = sysroot / "usr/lib/aarch64-linux-gnu"
    path = ":".join(str(folder) for folder in (libraries / "blas", libraries / "lapack", libraries))
    given = {"LD_LIBRARY_PATH": path, "PYTHONHOME": sysroot / "usr", "PYTHONPATH": work / "package"}
    emulator = ["qemu-aarch64", "-cpu", "max", "-L", sysroot]
    emulator += [word for name, value in given.items() for word in ("-E", f"{name}={value}")]
    tests = work / "tests"
    shutil.copytree(SOURCE / "tests/kernel", tests, dirs_exist_ok=True)
    pytest = ["-P", "-m", "pytest", "-c", os.devnull, "--rootdir", tests, "-p", "no:cacheprovider"]
    python = [*emulator, sysroot / "usr/bin/python3.11"]
    return subprocess.run([*python, *pytest, *(arguments or TESTS)], cwd=tests, check=False).returncode


def run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[1]).resolve().with_suffix(".edge-report")
    build(root, folder)
    sys.exit(test(root, folder, sys.argv[2:]))
