# SPDX-License-Identifier: Apache-2.0
"""The libraries under test: compiled for the host's stand-in, and for the device that is here.

python tests/gpu/libraries.py FOLDER        both, for EDGE_TEST_CUDA_LIBRARIES=FOLDER: what many processes test
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stand_in import DEVICE, HOST, ROOT, capability_here

LIBRARY = "libedge_cuda.so"
OPS = [HOST / "ops.cpp", HOST / "ops_text.cpp"]  # single kernels


def sources() -> list[Path]:
    return [path for path in sorted(DEVICE.iterdir()) if path.suffix in (".cu", ".cpp") and path.stem != "probe"]


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def build(jobs: list[list[str]], link: list[str]) -> None:
    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(run, jobs))
    run(link)


def make_host(library: Path) -> None:
    """Plain C++ against the stand-in."""
    flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
    # A word that does not lie at a multiple of its 16 bytes, or an index that does not fit its type, ends the process.
    flags += ["-Wno-unknown-pragmas"]
    flags += ["-fsanitize=alignment,signed-integer-overflow", "-fsanitize-undefined-trap-on-error"]
    files = [*sources(), *(HOST / name for name in ("fibers.cpp", "runtime.cpp")), *OPS]
    include = ["-I", str(HOST), "-I", str(ROOT / "csrc"), "-x", "c++"]
    objects = [str(library.with_name(f"{path.name}.o")) for path in files]
    jobs = [
        [compiler(), *flags, *include, "-c", str(path), "-o", target]
        for path, target in zip(files, objects, strict=True)
    ]
    build(jobs, [compiler(), "-shared", *objects, "-o", str(library)])


def make_device(library: Path) -> None:
    """For the device that is here, in the two steps of the library that is shipped: the same machine code."""
    flags = ["-std=c++20", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    flags.append(f"-gencode=arch=compute_80,code=sm_{capability_here() or 80}")
    files = sorted([*sources(), *OPS], key=lambda path: not path.name.startswith("persistent"))  # the longest first
    objects = [str(library.with_name(f"{path.name}.o")) for path in files]
    jobs = [
        ["nvcc", *flags, "-I", str(ROOT / "csrc"), "-x", "cu", "-c", str(path), "-o", target]
        for path, target in zip(files, objects, strict=True)
    ]
    build(jobs, ["nvcc", "-shared", "-cudart=static", *objects, "-o", str(library)])


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The library in a folder, made by whoever comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / LIBRARY).exists():
            make(folder / "partial.so")
            os.replace(folder / "partial.so", folder / LIBRARY)
    return folder / LIBRARY


def main() -> int:
    folder = Path(sys.argv[1])
    for name, needs, make in (("cuda_device", "nvcc", make_device), ("cuda_host", compiler(), make_host)):
        if shutil.which(needs) is None:
            print(f"{name}: no {needs} here")
            continue
        try:
            once(folder / name, make)
        except AssertionError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
