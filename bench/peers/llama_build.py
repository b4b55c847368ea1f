# SPDX-License-Identifier: Apache-2.0
"""Where ``llama-bench`` is, and how it is built from a source folder that the user has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .job import Missing

VARIABLE = "LLAMA_BENCH"
HINT = (
    "llama-bench not found: give --llama-bench PATH or $LLAMA_BENCH, or build it with --build-llama SOURCE, a "
    'checkout of llama.cpp or an unpacked source package of llama-cpp-python ("pip download --no-deps '
    '--no-binary :all: llama-cpp-python")'
)
OPTIONS = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF")
OPTIONS += ("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF")


def find(given: str | None, cache: Path) -> Path:
    """The program: as given, ``$LLAMA_BENCH``, what was built before, or the one on the search path.

    Raises
    ------
    Missing
    """
    named = given or os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file() or not os.access(path, os.X_OK):
            raise Missing(f"{path.name or named} (llama-bench) is not a program; check --llama-bench or ${VARIABLE}")
        return path.resolve()
    built = built_at(cache)
    if built.is_file():
        return built
    found = shutil.which("llama-bench")
    if found is None:
        raise Missing(HINT)
    return Path(found)


def built_at(cache: Path) -> Path:
    """Where :func:`build` leaves the program."""
    return cache / "llama.cpp" / "bin" / "llama-bench"


def build(source: Path, cache: Path, jobs: int) -> Path:
    """Build ``llama-bench`` for this machine. Takes minutes; nothing is fetched.

    Parameters
    ----------
    source
        A checkout of llama.cpp, or a folder that has it in ``vendor/llama.cpp``.

    Raises
    ------
    Missing
        It is no such folder, or CMake or the compiler fails (their words are on stderr).
    """
    for folder in (source, source / "vendor" / "llama.cpp"):
        if (folder / "tools" / "llama-bench").is_dir():
            break
    else:
        raise Missing(f"{source} holds neither llama.cpp nor vendor/llama.cpp")
    if shutil.which("cmake") is None:
        raise Missing("cmake is not installed")
    work = cache / "llama.cpp"
    work.mkdir(parents=True, exist_ok=True)
    steps = (
        ["cmake", "-S", str(folder), "-B", str(work), *OPTIONS],
        ["cmake", "--build", str(work), "--target", "llama-bench", "--parallel", str(jobs)],
    )
    for step in steps:
        if subprocess.run(step, stdout=2).returncode != 0:
            raise Missing(f"{' '.join(step[:2])} failed; its own message is above")
    return built_at(cache)
