# SPDX-License-Identifier: Apache-2.0
"""Read bandwidth of this machine, measured by turns with the decode steps that it bounds.

Measured by a child process, so that its buffer does not count as the model's memory. The child keeps the buffer
and its threads, asleep, from the first measurement to the last.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from edge.errors import ProcessingError

from .machine import available_memory
from .stats import median

MEASUREMENTS = 3
SECONDS = 0.1
LARGEST = 1 << 30
"""Bytes of the buffer, where memory allows: far more than any cache holds."""

Measure = Callable[[], float]
"""GB/s, right now."""

_CHILD = """
import json, sys
try:
    from edge._kernel import ReadMeter
except ImportError as error:
    sys.exit(f"the compiled decoding kernel does not load or is of another version ({error})")
size, threads = map(int, sys.argv[1:])
meter = ReadMeter(size, threads)
for line in sys.stdin:
    print(json.dumps(meter.passes(float(line))), flush=True)
"""


def buffer_bytes() -> int:
    """Size of the buffer: 1 GiB, or an eighth of the memory that is free."""
    return max(1 << 24, min(LARGEST, available_memory() // 8))


class Meter:
    """A child process that reads one buffer with `threads` threads whenever it is asked to."""

    def __init__(self, size: int, threads: int) -> None:
        call = [sys.executable, "-P", "-c", _CHILD, str(size), str(threads)]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(call, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child and free its buffer."""
        child = self._child
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        child.wait()

    def passes(self, seconds: float = SECONDS) -> list[float]:
        """GB/s (1e9 bytes per second) of every pass over the buffer within `seconds`; at least three.

        Raises
        ------
        ProcessingError
            The measurement failed.
        """
        child = self._child
        assert child.stdin
        assert child.stdout
        assert child.stderr
        answer = ""
        with contextlib.suppress(OSError):
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        if not answer:
            reason = (child.stderr.read().strip().splitlines() or [f"exit code {child.wait()}"])[-1]
            raise ProcessingError(f"the read bandwidth could not be measured: {reason}")
        return [float(value) for value in json.loads(answer)]


def measure(sizes: Sequence[int], threads: int, seconds: float = SECONDS) -> list[float]:
    """GB/s at which `threads` threads read a buffer of each size: the median pass.

    Raises
    ------
    ProcessingError
        The measurement failed.
    """
    values = []
    for size in sizes:
        with Meter(size, threads) as meter:
            values.append(median(meter.passes(seconds)))
    return values


@dataclass
class Bandwidth:
    """Read bandwidth before, between and after the runs; each value is the median pass of 0.1 s.

    Attributes
    ----------
    threads : int
    bytes : int
        Size of the buffer.
    before, between, after : list of float
        GB/s.
    same_size_bytes, same_size : int, list of float
        The same for a buffer as large as what one decode step reads: where that fits into the caches it is
        the bound that applies.
    """

    threads: int
    bytes: int
    before: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    same_size_bytes: int = 0
    same_size: list[float] = field(default_factory=list)
    _meter: Meter | None = None

    def __enter__(self) -> Bandwidth:
        self._meter = Meter(self.bytes, self.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._meter is not None:
            self._meter.close()

    def _now(self) -> float:
        assert self._meter is not None
        return median(self._meter.passes())

    def measure_before(self) -> None:
        self.before = [self._now() for _ in range(MEASUREMENTS)]

    def measure_between(self) -> float:
        """Between two runs; GB/s."""
        self.between.append(self._now())
        return self.between[-1]

    def measure_after(self, same_size: int) -> None:
        self.after = [self._now() for _ in range(MEASUREMENTS)]
        self.same_size_bytes = max(same_size, 1 << 20)
        with Meter(self.same_size_bytes, self.threads) as meter:
            self.same_size = [median(meter.passes()) for _ in range(MEASUREMENTS)]

    @property
    def values(self) -> list[float]:
        """All measurements, in their order."""
        return [*self.before, *self.between, *self.after]

    @property
    def gbps(self) -> float:
        """Median of all measurements."""
        return median(self.values)

    def to_dict(self) -> dict[str, Any]:
        return {
            "gbps": round(self.gbps, 3),
            "min_gbps": round(min(self.values), 3),
            "max_gbps": round(max(self.values), 3),
            "before_gbps": round(median(self.before), 3),
            "after_gbps": round(median(self.after), 3),
            "threads": self.threads,
            "bytes": self.bytes,
            "before": [round(v, 3) for v in self.before],
            "between": [round(v, 3) for v in self.between],
            "after": [round(v, 3) for v in self.after],
            "same_size_bytes": self.same_size_bytes,
            "same_size_gbps": round(median(self.same_size), 3),
        }
