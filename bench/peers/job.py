# SPDX-License-Identifier: Apache-2.0
"""What a peer is asked to do, and the little they share: lengths, a deadline, files made once."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

INSTALL = 'pip install "edge-report[bench]"'
WARM_STEPS = 4


class Missing(Exception):
    """The peer cannot run here; the message says what to install or to give."""


@dataclass(frozen=True)
class Job:
    """One variant of a peer and the lengths it is timed at.

    Attributes
    ----------
    peer, weights, kv : str
        Module of the peer (``<peer>_peer`` here; with a dot: any module that has ``load(job)``), and the
        precision of weights and cache.
    threads : int
    prefix, tokens : int
        Cached positions before the first decode step, and decode steps.
    seconds : float
        A decode turn ends after so long, even before all steps are made.
    cache : str
        Folder for files that are made once.
    llama_bench : str or None
        The llama-bench program.
    shape : str
        Which model, where a peer knows several.
    tasks : sequence of str
        What it will be asked: all that takes long the first time is done while loading.
    """

    peer: str
    weights: str
    kv: str
    threads: int
    prefix: int = 1024
    tokens: int = 100
    seconds: float = 5.0
    cache: str = ""
    llama_bench: str | None = None
    tasks: Sequence[str] = ()
    shape: str = ""


class Runner(Protocol):
    """A loaded peer.

    ``info`` goes into the results: ``versions``, ``bytes_per_token`` where the peer knows better than its
    precision tells, and ``left_out``, tasks it cannot run and why.
    """

    info: dict[str, Any]

    def run(self, task: str) -> float:
        """Milliseconds of one turn of a task: per token for ``decode``, whole for the others."""


def require(*modules: str) -> dict[str, str]:
    """Versions of packages that must be installed.

    Raises
    ------
    Missing
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Missing(f"{', '.join(missing)} not installed: {INSTALL}")
    versions = {}
    for name in modules:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def each_or_why(tasks: Iterable[str], make: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What ``make(task)`` returns, by task, and why for tasks where it raised :class:`Missing`."""
    made: dict[str, Any] = {}
    why: dict[str, str] = {}
    for task in tasks:
        try:
            made[task] = make(task)
        except Missing as error:
            why[task] = str(error)
    return made, why


def time_steps(step: Callable[[int], object], job: Job) -> float:
    """Mean milliseconds of ``step(i)``, after a few that warm up; ends at the deadline.

    ``step(i)`` decodes the token at text position `i`.
    """
    for i in range(WARM_STEPS):
        step(i)
    done, begin = 0, perf_counter()
    while True:
        step(WARM_STEPS + done)
        done += 1
        spent = perf_counter() - begin
        if done + WARM_STEPS >= job.tokens or spent > job.seconds:
            return spent * 1e3 / done


def time_once(call: Callable[[], object], job: Job) -> float:
    """Milliseconds of a call, after one that warms up (itself the figure where it is slow)."""
    begin = perf_counter()
    call()
    spent = perf_counter() - begin
    if spent < job.seconds / 2:
        begin = perf_counter()
        call()
        spent = perf_counter() - begin
    return spent * 1e3


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made by ``make(path)`` the first time: in a temporary folder beside it, then renamed."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder(path.parent) as work:
        make(work / path.name)
        os.replace(work / path.name, path)
    return path


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
