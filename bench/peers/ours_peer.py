# SPDX-License-Identifier: Apache-2.0
"""Ours: the decoding kernel alone, and the whole model from pixels to the last token."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from edge.errors import EdgeError

from .. import reference
from ..oracle import oracle_script
from ..traffic import screens, traffic
from .gpt2 import pixels
from .job import Job, Missing, each_or_why, time_once

PENALTY = 1.2


class Ours:
    """The kernel with random prefix keys and values; nothing is drafted, the key bias is on in all rows."""

    def __init__(self, job: Job) -> None:
        import numpy as np

        from edge.decoder import Decoder, GenerationOptions

        self.job = job
        self._script: list[list[int]] = []
        self._narrow: tuple[str, ...] = ()  # matrices whose activations may have 8 bits in a prefill
        layers = int(reference.SPEC["layers"])
        weights = reference.decoder_weights("none" if job.weights == "fp32" else job.weights, lambda _line: None)
        asked = ["vision_prefill"] if set(job.tasks) - {"decode"} else []
        self._graphs, why = each_or_why(asked, self._graph)
        self._decoder = Decoder(
            reference.SPEC,
            weights,
            kv_dtype=job.kv,  # type: ignore[arg-type]
            threads=job.threads,
            evidence_layers=range(layers // 2, layers),
            prefill_int8=self._narrow,
        )
        rng = np.random.default_rng(0)
        shape = (layers, reference.SPEC["kv_heads"], job.prefix, reference.SPEC["head_dim"])
        self._prefix = (
            rng.standard_normal(shape, np.float32),
            rng.standard_normal(shape, np.float32),
            rng.random((layers, job.prefix), np.float32),
        )
        self._first = rng.standard_normal(reference.SPEC["vocab"], np.float32)
        self._options = GenerationOptions(
            max_new_tokens=job.tokens, repetition_penalty=PENALTY, bias_rows="all", draft=False
        )
        left_out = {task: why["vision_prefill"] for task in job.tasks if why and task != "decode"}
        moved = traffic(
            weights,
            reference.SPEC,
            kv_dtype=self._decoder.kv_dtype,
            prefix=job.prefix,
            prompt=0,
            tokens=job.tokens,
            screened=screens(self._decoder.isa),
        )
        self.info = {"bytes_per_token": moved.total, "isa": self._decoder.isa, "left_out": left_out}

    def run(self, task: str) -> float:
        if task == "decode":
            for _ in range(2):  # the other engines compute a prefill first: they are awake when they decode
                self._decoder.set_prefix(*self._prefix)
                spent = self._generate(self._first)
            return spent
        vision, picture = self._graphs["vision_prefill"], pixels()
        if task == "vision_prefill":
            return time_once(lambda: vision.run(picture, bias=True).fill(self._decoder), self.job)
        script = self._drafts(vision, picture) if task == "report_drafted" else []

        def report() -> None:
            first = vision.run(picture, bias=True).fill(self._decoder)
            self._decoder.generate(first, self._options, draft_script=script)

        return time_once(report, self.job)

    def _drafts(self, vision: Any, picture: Any) -> list[list[int]]:
        """Its text, right and wrong as the demo model's drafts are: none guesses what random weights write."""
        if not self._script:
            text = self._decoder.generate(vision.run(picture, bias=True).fill(self._decoder), self._options)
            self._script = oracle_script(text.token_ids, reference.SPEC["vocab"])
        return self._script

    def _generate(self, first: Any) -> float:
        """Milliseconds per decode step: the first token needs none."""
        times: list[float] = []
        self._decoder.generate(first, self._options, on_token=lambda *_: times.append(perf_counter()))
        return (times[-1] - times[0]) * 1e3 / (len(times) - 1)

    def _graph(self, _task: str) -> Any:
        """The vision graph of a whole random model, which holds the prefill too."""
        from edge.bundle import Bundle
        from edge.vision import VisionSession

        try:
            folder = reference.reference_bundle(self.job.weights, lambda _line: None)
        except reference.ExporterMissing as error:
            raise Missing(str(error)) from None
        bundle = Bundle.open(folder)
        self._narrow = bundle.manifest.prefill_int8
        return VisionSession(bundle, device="cpu", threads=self.job.threads)


def load(job: Job) -> Ours:
    """Raises :class:`Missing` where this build has no such precision."""
    try:
        return Ours(job)
    except (EdgeError, KeyError) as error:
        raise Missing(f"this build does not run {job.weights} weights with a {job.kv} cache ({error})") from None
