# SPDX-License-Identifier: Apache-2.0
"""A clock for stages that follow each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter


class Clock:
    """Seconds of stages that follow each other.

    Parameters
    ----------
    earlier : mapping of str to float, optional
        Seconds of stages that were done before: they count as if they had come right before this clock's start.
    parts : mapping of str to (str, float), optional
        Stages and how many of their seconds a part of them took.
    """

    def __init__(
        self, earlier: Mapping[str, float] | None = None, parts: Mapping[str, tuple[str, float]] | None = None
    ) -> None:
        self.laps: dict[str, float] = dict(earlier or {})
        self.parts: dict[str, tuple[str, float]] = dict(parts or {})
        self._last = perf_counter()
        self._begin = self._last - sum(self.laps.values())

    def lap(self, stage: str, *, once: bool = False) -> None:
        if once and stage in self.laps:
            return
        now = perf_counter()
        self.laps[stage] = now - self._last
        self._last = now

    @contextmanager
    def part(self, name: str, of: str) -> Iterator[None]:
        """The block is a part of a stage, stated behind it."""
        begin = perf_counter()
        yield
        self.parts[name] = (of, perf_counter() - begin)

    def finish(self) -> dict[str, float]:
        """Milliseconds of every stage and part, and ``total``."""
        total = perf_counter() - self._begin
        named: dict[str, float] = {}
        for stage, seconds in self.laps.items():
            named[stage] = seconds
            named |= {name: part for name, (of, part) in self.parts.items() if of == stage}
        return {name: round(seconds * 1e3, 3) for name, seconds in (named | {"total": total}).items()}
