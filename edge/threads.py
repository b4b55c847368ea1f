# SPDX-License-Identifier: Apache-2.0
"""How many threads this process should use."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from edge.errors import ProcessingError, UsageError
from edge.numeric import as_whole

MAX_THREADS = 512
NO_THREAD = "no further thread can be started: the limit of processes is reached (ulimit -u, a container's pids)"


@contextlib.contextmanager
def starting_threads() -> Iterator[None]:
    """Say what it means that a thread could not be started inside.

    Raises
    ------
    ProcessingError
    """
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        raise ProcessingError(NO_THREAD) from None


def default_threads() -> int:
    """Physical cores this process may run on, no more than the control group's CPU quota.

    Both inference and decoding are bound by units that hardware threads of one core share.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // 2)
    cpus = os.sched_getaffinity(0)
    cores = len({_core(cpu) for cpu in cpus})
    return max(1, min(cores, _quota()))


def usable_processors() -> int:
    """Hardware threads this process may run on, no more than the control group's CPU quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _quota()))


def check_threads(threads: int | None) -> int:
    """`threads`, or the default for ``None``.

    Raises
    ------
    UsageError
        Not a whole number from 1 to 512.
    """
    if threads is None:
        return min(default_threads(), MAX_THREADS)
    count = as_whole(threads)
    if count is None or not 1 <= count <= MAX_THREADS:
        raise UsageError(f"threads must be a whole number from 1 to {MAX_THREADS}")
    return count


def _core(cpu: int) -> tuple[str, str]:
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (folder / "physical_package_id").read_text().strip(), (folder / "core_id").read_text().strip()
    except OSError:
        return "cpu", str(cpu)


def _quota() -> int:
    """The CPU quota of the control group (version 2, else 1) in CPUs, rounded down as the kernel does: a thread that
    has a CPU for a part of the time makes all others wait. At least 1; very large without a quota."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = (Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return 1 << 30
    try:
        share = int(limit) / int(period)  # version 2 says "max", version 1 says -1, where there is none
    except (ValueError, ZeroDivisionError):
        return 1 << 30
    return max(1, math.floor(share)) if share > 0 else 1 << 30


BYTES_PER_THREAD = 2 << 20
ROWS_PER_PASS = 4
"""Tokens that a pass over the decoder checks together where drafts are good."""


def decode_threads(threads: int, weight_bytes: int, *, draft: bool = False) -> int:
    """At most ``threads``, and no more than the decoder's weights can keep busy; with drafts every weight works more.

    A token of a small model takes so little time that meeting at the barriers costs more than a further thread saves,
    and on a busy machine every meeting waits for the slowest. Token ids do not depend on the number of threads.
    """
    work = weight_bytes * (ROWS_PER_PASS if draft else 1)
    return max(1, min(threads, work // BYTES_PER_THREAD))
