# SPDX-License-Identifier: Apache-2.0
"""The host's stand-in for a CUDA device, from Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST, DEVICE = ROOT / "tests" / "cuda_host", ROOT / "csrc" / "cuda" / "device"


def device_here() -> bool:
    """Whether the driver shows a GPU; its device files may have any number."""
    return capability_here() is not None


def capability_here() -> int | None:
    """Compute capability of the first GPU that the driver shows, as 90."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, major, minor = (ctypes.c_int(0) for _ in range(4))
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    driver.cuDeviceGet(ctypes.byref(device), 0)
    for number, value in ((75, major), (76, minor)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return 10 * major.value + minor.value


class StandIn:
    """Settings and counters of the stand-in."""

    def __init__(self, library: Path) -> None:
        self._handle = ctypes.CDLL(str(library))
        self._handle.cuda_host_get.restype = ctypes.c_int64

    def set(self, name: str, value: int) -> None:
        self._handle.cuda_host_set(name.encode(), ctypes.c_int64(value))

    def get(self, name: str) -> int:
        return int(self._handle.cuda_host_get(name.encode()))
