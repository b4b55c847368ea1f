# SPDX-License-Identifier: Apache-2.0
"""Steps of a check: each within its time, none of which keeps those behind it from theirs. Standard library only."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from .child import Child

SHORTEST = 5.0
"""Seconds below which a step is not begun."""


@dataclass
class Step:
    """What one step did.

    Attributes
    ----------
    name : str
    status : str
        ``ok``, ``failed``, ``late`` (it ran out of time) or ``skipped``.
    seconds : float
    reason : str
        Of a failure or a skip, in one line.
    output : str
        The end of what it printed.
    """

    name: str
    status: str
    seconds: float = 0.0
    reason: str = ""
    output: str = ""


@dataclass(frozen=True)
class Time:
    """Seconds of a step: at most, and what those before it must leave."""

    most: float
    least: float = 0.0


@dataclass
class Check:
    """The steps so far.

    Attributes
    ----------
    end : float
        On `clock`.
    plan : mapping of str to Time
        Steps in their order.
    environment : dict
        Of the commands.
    logs : Path
        Folder for what they print.
    tell : callable
        Is called after every step.
    """

    end: float
    plan: Mapping[str, Time]
    environment: dict[str, str]
    logs: Path
    tell: Callable[[], None] = lambda: None
    steps: list[Step] = field(default_factory=list)
    clock: Callable[[], float] = monotonic

    def limit(self, name: str) -> float:
        """Seconds that the step may take now."""
        behind = list(self.plan)[list(self.plan).index(name) + 1 :]
        left = self.end - self.clock() - sum(self.plan[later].least for later in behind)
        return min(self.plan[name].most, left)

    def run(
        self,
        name: str,
        call: Sequence[str | Path],
        cwd: Path,
        *,
        within: float | None = None,
        nothing: int | None = None,
    ) -> bool:
        """Run a command within its time; False where it failed.

        Parameters
        ----------
        within : float, optional
            Seconds; default: what the plan says.
        nothing : int, optional
            The exit code that says that there was nothing to do.
        """
        limit = self.limit(name) if within is None else within
        if limit < SHORTEST:
            return self.skip(name, "no time is left")
        child = self.begin(name, call, cwd)
        return child is not None and self.await_(name, child, limit, nothing=nothing)

    def begin(self, name: str, call: Sequence[str | Path], cwd: Path) -> Child | None:
        """Begin a command that others may run beside; None where it cannot be begun."""
        print(f"gpu_check: {name}", file=sys.stderr, flush=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name.replace(' ', '-')}.log"
        try:
            return Child(call, log, environment=self.environment, cwd=cwd)
        except OSError as error:
            self._add(Step(name, "failed", 0.0, f"{call[0]}: {error.strerror}"))
            return None

    def await_(self, name: str, child: Child, limit: float, *, nothing: int | None = None) -> bool:
        """Wait for a command that was begun; False where it failed or had to be ended."""
        in_time = child.wait(limit)
        seconds, text = round(child.seconds, 1), child.text()
        if not in_time:
            reason = f"more than {limit:.0f} s" + ("; it cannot be ended" if child.code is None else "")
            self._add(Step(name, "late", seconds, reason, text[-12000:]))
            return False
        if child.code == nothing and nothing is not None:
            return self.skip(name, "there is nothing of it here")
        if child.code != 0:
            last = (text.splitlines() or [""])[-1][:300]
            self._add(Step(name, "failed", seconds, f"exit code {child.code}: {last}", text[-12000:]))
            return False
        self._add(Step(name, "ok", seconds, output=text[-1500:]))
        return True

    def skip(self, name: str, reason: str) -> bool:
        """Leave a step out; False."""
        self._add(Step(name, "skipped", reason=reason))
        return False

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self.tell()


def stop(child: Child | None) -> None:
    """Let a command in the background pause, while something is timed."""
    if child is not None and not child.is_over():
        child.signal(signal.SIGSTOP)


def go_on(child: Child | None) -> None:
    if child is not None and not child.is_over():
        child.signal(signal.SIGCONT)
