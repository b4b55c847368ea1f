# SPDX-License-Identifier: Apache-2.0
"""Processes of peers that take turns: whoever is not asked is stopped, so that no thread pool disturbs another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from .job import Job
from .variants import Variant

LOAD_SECONDS = 900.0
"""Patience for loading: model files may have to be made first."""
Say = Callable[[str], None]


class GaveUp(Exception):
    """A peer did not answer in time, or its process ended."""


class Child:
    """The process of one peer, stopped between its turns.

    A process group of its own: Ctrl-C reaches us alone, and a stopped group that loses its parent is ended by
    the system.
    """

    def __init__(self, job: Job) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        threads = str(job.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.worker", json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            process_group=0,
        )
        self._buffer = b""

    def hear(self, seconds: float) -> dict[str, Any]:
        """The next answer; the process is stopped once it has come.

        Raises
        ------
        GaveUp
        """
        assert self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise GaveUp(f"no answer within {seconds:.0f} s")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise GaveUp(self._last_words())
            self._buffer += data
        self._signal(signal.SIGSTOP)
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, task: str, seconds: float) -> dict[str, Any]:
        """Let it run one task and wait for the answer.

        Raises
        ------
        GaveUp
        """
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"task": task}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise GaveUp(self._last_words()) from None
        return self.hear(seconds)

    def close(self) -> None:
        """End the process and whatever it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with code {code}" + (f": {lines[-1][:200]}" if lines else "")


@dataclass
class Entry:
    """A variant in a session.

    Attributes
    ----------
    info : dict
        What the peer said about itself when it was ready.
    runs : dict of list of float
        Milliseconds of each turn, by task.
    skipped : str
        Why it does not run; empty while it does.
    left_out : dict of str to str
        Tasks that it cannot run, and why.
    """

    variant: Variant
    info: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, list[float]] = field(default_factory=dict)
    skipped: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    child: Child | None = None


class Session:
    """Peers loaded side by side and asked by turns.

    Parameters
    ----------
    variants : iterable of Variant
    job : callable
        The job of a variant.
    limit : float
        Seconds after which a turn is given up, and the variant with it.
    """

    def __init__(self, variants: Iterable[Variant], job: Callable[[Variant], Job], *, limit: float, say: Say) -> None:
        self.entries = [Entry(variant) for variant in variants]
        self._job, self._limit, self._say = job, limit, say

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        for entry in self.entries:
            if entry.child is not None:
                entry.child.close()

    def start(self) -> None:
        """Load every peer, one after the other."""
        for entry in self.entries:
            self.load(entry)

    def load(self, entry: Entry) -> None:
        """Load one peer."""
        entry.child = Child(self._job(entry.variant))
        try:
            answer = entry.child.hear(LOAD_SECONDS)
        except GaveUp as error:
            answer = {"failed": str(error)}
        if "ready" in answer:
            entry.info = answer["ready"]
            entry.left_out = entry.info.pop("left_out", {})
            self._say(f"{entry.variant.name}: ready")
            for task, why in entry.left_out.items():
                self._say(f"{entry.variant.name}: without {task}: {why}")
        elif "missing" in answer:
            self._drop(entry, f"skipped: {answer['missing']}")
        else:
            self._drop(entry, f"failed: {answer['failed']}")

    def round(self) -> None:
        """One turn of every task of every peer."""
        for entry in self.entries:
            for task in entry.variant.tasks:
                if entry.child is None or task in entry.left_out:
                    continue
                try:
                    answer = entry.child.ask(task, self._limit)
                except GaveUp as error:
                    answer = {"failed": str(error)}
                    self._drop(entry, f"given up in {task}: {error}")
                    break
                if "ms" in answer:
                    entry.runs.setdefault(task, []).append(float(answer["ms"]))
                else:
                    self._drop(entry, f"failed in {task}: {answer['failed']}")

    def _drop(self, entry: Entry, why: str) -> None:
        entry.skipped = why
        self._say(f"{entry.variant.name}: {why}")
        if entry.child is not None:
            entry.child.close()
            entry.child = None
