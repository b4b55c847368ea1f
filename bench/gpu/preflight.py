# SPDX-License-Identifier: Apache-2.0
"""What a machine has for the check of a GPU, told before anything is tried. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLKITS = (Path("/usr/local/cuda"),)
"""Where CUDA is installed, beside ``$CUDA_HOME`` and ``$CUDA_PATH``."""
PACKAGES = (
    "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13", "pydicom", "tokenizers",
    "transformers", "safetensors", "opencv-python-headless", "pillow", "pybind11", "pytest", "pytest-timeout",
    "pytest-xdist",
)  # fmt: skip
_ASK = """\
import glob, json, sys
from importlib import metadata
found = {"packages": {}, "providers": None, "libraries": []}
for name in sys.argv[1:]:
    try:
        found["packages"][name] = metadata.version(name)
    except Exception:
        found["packages"][name] = None
found["libraries"] = [path for folder in sys.path for path in sorted(glob.glob(folder + "/nvidia/*/lib"))]
print(json.dumps(found), flush=True)
try:
    import onnxruntime
    found["providers"] = onnxruntime.get_available_providers()
except Exception as error:
    found["providers"] = f"{type(error).__name__}: {error}"[:200]
print(json.dumps(found), flush=True)
"""


def find_nvcc(environment: Mapping[str, str]) -> Path | None:
    """CUDA's compiler: on the PATH, else where CUDA is."""
    named = [Path(environment[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    folders = [str(toolkit / "bin") for toolkit in (*named, *TOOLKITS)]
    found = shutil.which("nvcc", path=os.pathsep.join([environment.get("PATH", ""), *folders]))
    return Path(found) if found else None


def find_sanitizer(environment: Mapping[str, str]) -> Path | None:
    """CUDA's sanitizer: on the PATH, beside the compiler, or in the folder of its own that some installers make."""
    nvcc = find_nvcc(environment)
    toolkits = [nvcc.parent.parent, nvcc.resolve().parent.parent] if nvcc else []
    folders = [str(toolkit / folder) for toolkit in (*toolkits, *TOOLKITS) for folder in ("bin", "compute-sanitizer")]
    found = shutil.which("compute-sanitizer", path=os.pathsep.join([environment.get("PATH", ""), *folders]))
    return Path(found) if found else None


def find_headers() -> Path | None:
    """The folder of Python.h: Python's own, or the system's for the same version."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    bases = (Path(sys.base_prefix), Path(sys.executable).resolve().parents[1], Path("/usr"), Path("/usr/local"))
    places = [Path(sysconfig.get_paths()["include"]), *(base / "include" / version for base in bases)]
    return next((place for place in places if (place / "Python.h").is_file()), None)


def describe_gpu() -> dict[str, str] | None:
    """Name, driver and compute capability of the first GPU; None where there is none."""
    fields = ("name", "driver_version", "compute_cap", "memory.total")
    call = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    done = _output(call, 30)
    values = [value.strip() for value in (done or "").split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else None


def preflight(python: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Python, compilers, generator, packages and driver.

    Parameters
    ----------
    python : Path
        Whose packages count.
    environment : mapping
        Of the commands to come.
    """
    path = environment.get("PATH", "")
    nvcc, headers, sanitizer = find_nvcc(environment), find_headers(), find_sanitizer(environment)
    asked = _last_json(_output([str(python), "-c", _ASK, *PACKAGES], 60, environment))
    ninja, make = shutil.which("ninja", path=path), shutil.which("make", path=path)
    cmake = shutil.which("cmake", path=path)
    return {
        "python": sys.version.split()[0],
        "executable": str(python),
        "python_h": str(headers) if headers else None,
        "compiler": shutil.which(environment.get("CXX", "c++"), path=path),
        "nvcc": str(nvcc) if nvcc else None,
        "nvcc_version": _line(_output([str(nvcc), "--version"], 20, environment), "release") if nvcc else None,
        "cmake": cmake,
        "cmake_version": _line(_output([cmake, "--version"], 20, environment), "version") if cmake else None,
        "generator": "Ninja" if ninja else "Unix Makefiles" if make else None,
        "ninja": ninja,
        "sanitizer": str(sanitizer) if sanitizer else None,
        "driver": (describe_gpu() or {}).get("driver_version"),
        "processors": os.cpu_count(),
        "packages": asked.get("packages", {}),
        "providers": asked.get("providers"),
        "libraries": asked.get("libraries", []),
    }


def render(found: Mapping[str, Any]) -> str:
    """One line."""
    versions = " ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items())
    tools = " ".join(
        f"{name} {found[name] or 'MISSING'}" for name in ("python_h", "compiler", "nvcc", "cmake", "generator")
    )
    return f"Python {found['python']}, {tools}, driver {found['driver'] or 'MISSING'}; {versions}; {found['providers']}"


def _output(call: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(
            call, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds,
            env=environment, start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _line(text: str | None, word: str) -> str | None:
    return next((line.strip() for line in (text or "").splitlines() if word in line), None)


def _last_json(text: str | None) -> dict[str, Any]:
    lines = [line for line in (text or "").splitlines() if line.startswith("{")]
    try:
        return dict(json.loads(lines[-1])) if lines else {}
    except ValueError:
        return {}
