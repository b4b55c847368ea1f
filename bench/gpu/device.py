# SPDX-License-Identifier: Apache-2.0
"""The card, its driver, and how fast its memory is copied."""

from __future__ import annotations

import subprocess
from typing import Any

COPIED = 256 << 20


def measure() -> dict[str, Any]:
    """Name, size and copy bandwidth.

    Raises
    ------
    EdgeError
        There is no CUDA library, driver or device.
    """
    import edge._kernel as kernel
    from edge.cuda import cuda_device, library_path

    device = cuda_device()
    driver = None
    try:
        call = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=20)
        driver = done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
    except (OSError, subprocess.TimeoutExpired):
        pass
    return {
        "name": device.name,
        "capability": ".".join(map(str, device.capability)),
        "processors": device.processors,
        "memory_bytes": device.total_bytes,
        "driver": driver,
        "copy_gbps": round(kernel.device_copy_bandwidth(str(library_path()), COPIED), 1),
    }
