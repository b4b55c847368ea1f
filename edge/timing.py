# SPDX-License-Identifier: Apache-2.0
"""A clock for stages that follow each other."""

from __future__ import annotations

from time import perf_counter


class Clock:
    """Milliseconds of stages that follow each other."""

    def __init__(self) -> None:
        self._begin = self._last = perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str, *, once: bool = False) -> None:
        if once and stage in self._laps:
            return
        now = perf_counter()
        self._laps[stage] = now - self._last
        self._last = now

    def finish(self) -> dict[str, float]:
        laps = {stage: round(seconds * 1e3, 3) for stage, seconds in self._laps.items()}
        return {**laps, "total": round((perf_counter() - self._begin) * 1e3, 3)}
