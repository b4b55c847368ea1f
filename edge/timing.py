# SPDX-License-Identifier: Apache-2.0
"""A clock for stages that follow each other."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter


class Clock:
    """Seconds of stages that follow each other.

    Parameters
    ----------
    earlier : mapping of str to float, optional
        Seconds of stages that were done before: they count as if they had come right before this clock's start.
    """

    def __init__(self, earlier: Mapping[str, float] | None = None) -> None:
        self.laps: dict[str, float] = dict(earlier or {})
        self._last = perf_counter()
        self._begin = self._last - sum(self.laps.values())

    def lap(self, stage: str, *, once: bool = False) -> None:
        if once and stage in self.laps:
            return
        now = perf_counter()
        self.laps[stage] = now - self._last
        self._last = now

    def finish(self) -> dict[str, float]:
        """Milliseconds of every stage, and ``total``."""
        laps = {stage: round(seconds * 1e3, 3) for stage, seconds in self.laps.items()}
        return {**laps, "total": round((perf_counter() - self._begin) * 1e3, 3)}
