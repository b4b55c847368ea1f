# SPDX-License-Identifier: Apache-2.0
"""Ours: ``Engine.report`` from the array of a film to the report; reading and resizing it are counted."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..peers.job import Job
from .inputs import SINGLE, beams_of, digest, film
from .shapes import bundle

QUANTIZE = {"fp32": "none", "int8": "int8", "int4": "int4"}


class Ours:
    """Only a sketch drafts, where there is one: random texts repeat themselves, which would flatter other drafts."""

    def __init__(self, job: Job) -> None:
        from edge.bundle import Bundle
        from edge.engine import Engine

        from ..reports_part import without_stop

        folder = bundle(job.shape, QUANTIZE[job.weights])
        self._engine = Engine(
            without_stop(Bundle.open(folder), job.tokens), threads=job.threads, device="cpu", draft="sketch"
        )
        self._film = film()
        self.info: dict[str, Any] = {"isa": self._engine.isa, "texts": {}}
        for task in job.tasks:
            report = self._report(task)
            self.info["vision"] = report.software["vision"]
            assert len(report.token_ids) == job.tokens
            self.info["texts"][task] = digest(report.token_ids)
            if task == "greedy":
                self.info["tokens_per_pass"] = report.decoding["tokens_per_pass"]

    def _report(self, task: str) -> Any:
        draft = False if task == SINGLE else None
        return self._engine.report(self._film, force=True, beams=beams_of(task), draft=draft)

    def run(self, task: str) -> float:
        begin = perf_counter()
        self._report(task)
        return (perf_counter() - begin) * 1e3


def load(job: Job) -> Ours:
    return Ours(job)
