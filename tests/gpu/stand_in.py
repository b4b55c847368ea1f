# SPDX-License-Identifier: Apache-2.0
"""The host's stand-in for a CUDA device, from Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST, DEVICE = ROOT / "tests" / "cuda_host", ROOT / "csrc" / "cuda" / "device"


def device_here() -> bool:
    """Whether the driver shows a GPU; its device files may have any number."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


class StandIn:
    """Settings and counters of the stand-in."""

    def __init__(self, library: Path) -> None:
        self._handle = ctypes.CDLL(str(library))
        self._handle.cuda_host_get.restype = ctypes.c_int64

    def set(self, name: str, value: int) -> None:
        self._handle.cuda_host_set(name.encode(), ctypes.c_int64(value))

    def get(self, name: str) -> int:
        return int(self._handle.cuda_host_get(name.encode()))
