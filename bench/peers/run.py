# SPDX-License-Identifier: Apache-2.0
"""One run of the comparison: the jobs of its peers, its rounds with the read bandwidth beside them, its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import bandwidth, machine
from ..reference import PREFIX, cache_folder
from .job import Job
from .result import assemble
from .session import Session
from .variants import Variant

TOKENS, QUICK_TOKENS = 100, 12
SECONDS = 5.0
BANDWIDTH_SECONDS = 0.2


@dataclass
class Run:
    """Lengths and threads of a run, and what it measured of the machine.

    Attributes
    ----------
    quick : bool
        Few tokens: to see that all runs.
    speeds : dict of int to list of float
        GB/s read by 1 .. `threads` threads, one value per round.
    """

    threads: int
    quick: bool = False
    llama_bench: str | None = None
    rounds: int = 0
    speeds: dict[int, list[float]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return QUICK_TOKENS if self.quick else TOKENS

    def job(self, variant: Variant) -> Job:
        return Job(
            peer=variant.peer,
            weights=variant.weights,
            kv=variant.kv,
            threads=self.threads,
            prefix=PREFIX,
            tokens=self.tokens,
            seconds=SECONDS,
            cache=str(cache_folder()),
            llama_bench=self.llama_bench,
            tasks=variant.tasks,
        )

    def round(self, session: Session) -> None:
        """The read bandwidth of 1, 2, 4 .. threads, then one turn of every task."""
        counts = sorted({1, *(1 << i for i in range(1, 10) if 1 << i < self.threads), self.threads})
        for threads in counts:
            (speed,) = bandwidth.measure([bandwidth.buffer_bytes()], threads, BANDWIDTH_SECONDS)
            self.speeds.setdefault(threads, []).append(speed)
        session.round()
        self.rounds += 1

    def result(self, session: Session, busy: float | None) -> dict[str, Any]:
        """The figures; `busy` processors before the start."""
        call = {"threads": self.threads, "prefix": PREFIX, "tokens": self.tokens, "rounds": self.rounds}
        isa = next((entry.info["isa"] for entry in session.entries if "isa" in entry.info), None)
        described = {**machine.describe(isa), "busy_processors": busy}
        return assemble(session.entries, call=call, bandwidth=self.speeds, machine=described)
