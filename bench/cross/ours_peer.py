# SPDX-License-Identifier: Apache-2.0
"""Ours: ``Engine.report`` from the array of a film to the report; reading and resizing it are counted."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..peers.job import Job
from .inputs import beams_of, digest, film
from .shapes import bundle

QUANTIZE = {"fp32": "none", "int8": "int8", "int4": "int4"}


class Ours:
    """Nothing is drafted: random texts repeat themselves, which would flatter drafts."""

    def __init__(self, job: Job) -> None:
        from edge.bundle import Bundle
        from edge.engine import Engine

        from ..reports_part import without_stop

        folder = bundle(job.shape, QUANTIZE[job.weights])
        self._engine = Engine(
            without_stop(Bundle.open(folder), job.tokens), threads=job.threads, device="cpu", draft=False
        )
        self._film = film()
        self.info: dict[str, Any] = {"isa": self._engine.isa, "texts": {}}
        for task in job.tasks:
            report = self._report(task)
            self.info["vision"] = report.software["vision"]
            assert len(report.token_ids) == job.tokens
            self.info["texts"][task] = digest(report.token_ids)

    def _report(self, task: str) -> Any:
        return self._engine.report(self._film, force=True, beams=beams_of(task))

    def run(self, task: str) -> float:
        begin = perf_counter()
        self._report(task)
        return (perf_counter() - begin) * 1e3


def load(job: Job) -> Ours:
    return Ours(job)
