# SPDX-License-Identifier: Apache-2.0
"""Read bandwidth of this machine, measured beside the decode steps that it bounds.

Measured in a child process, so that its buffer does not count as the model's memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.errors import ProcessingError

from .machine import available_memory
from .stats import median

MEASUREMENTS = 3
SECONDS = 0.3
LARGEST = 1 << 30
"""Bytes of the buffer, where memory allows: far more than any cache holds."""

_CHILD = """
import json, sys
try:
    from edge._kernel import read_bandwidth
except ImportError as error:
    sys.exit(f"the compiled decoding kernel does not load or is of another version ({error})")
sizes, threads, seconds = json.loads(sys.argv[1])
print(json.dumps([read_bandwidth(size, threads, seconds) for size in sizes]))
"""


def buffer_bytes() -> int:
    """Size of the buffer: 1 GiB, or an eighth of the memory that is free."""
    return max(1 << 24, min(LARGEST, available_memory() // 8))


def measure(sizes: Sequence[int], threads: int, seconds: float = SECONDS) -> list[float]:
    """GB/s (1e9 bytes per second) at which `threads` threads read a buffer of each size; the best pass each.

    Raises
    ------
    ProcessingError
        The measurement failed.
    """
    call = [sys.executable, "-P", "-c", _CHILD, json.dumps([list(sizes), threads, seconds])]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ProcessingError(f"the read bandwidth could not be measured: {reason}")
    return [float(value) for value in json.loads(done.stdout)]


@dataclass
class Bandwidth:
    """Read bandwidth before and after the runs.

    Attributes
    ----------
    threads : int
    bytes : int
        Size of the buffer.
    before, after : list of float
        GB/s.
    same_size_bytes, same_size : int, list of float
        The same for a buffer as large as what one decode step reads: where that fits into the caches it is
        the bound that applies.
    """

    threads: int
    bytes: int
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    same_size_bytes: int = 0
    same_size: list[float] = field(default_factory=list)

    def measure_before(self) -> None:
        self.before = measure([self.bytes] * MEASUREMENTS, self.threads)

    def measure_after(self, same_size: int) -> None:
        self.same_size_bytes = max(same_size, 1 << 20)
        sizes = [self.bytes] * MEASUREMENTS + [self.same_size_bytes] * MEASUREMENTS
        values = measure(sizes, self.threads)
        self.after, self.same_size = values[:MEASUREMENTS], values[MEASUREMENTS:]

    @property
    def gbps(self) -> float:
        """Median of all measurements."""
        return median([*self.before, *self.after])

    def to_dict(self) -> dict[str, Any]:
        return {
            "gbps": round(self.gbps, 3),
            "before_gbps": round(median(self.before), 3),
            "after_gbps": round(median(self.after), 3),
            "threads": self.threads,
            "bytes": self.bytes,
            "before": [round(v, 3) for v in self.before],
            "after": [round(v, 3) for v in self.after],
            "same_size_bytes": self.same_size_bytes,
            "same_size_gbps": round(median(self.same_size), 3),
        }
