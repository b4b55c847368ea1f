# SPDX-License-Identifier: Apache-2.0
"""optimum: ``ORTModelForVision2Seq.generate`` on ONNX Runtime, from the pixels to the ids."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..peers.job import Job, Missing, require
from .inputs import beams_of, digest, pixels
from .shapes import SHAPES, optimum_folder


class Optimum:
    def __init__(self, job: Job) -> None:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForVision2Seq

        versions = require("optimum", "onnxruntime", "transformers")
        self.info: dict[str, Any] = {"versions": versions, "texts": {}, "cache": SHAPES[job.shape]["optimum_cache"]}
        torch.set_num_threads(job.threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        self._model = ORTModelForVision2Seq.from_pretrained(
            optimum_folder(job.shape), session_options=options, use_cache=self.info["cache"]
        )
        self._pixels = torch.from_numpy(pixels(job.shape))
        self._tokens = job.tokens
        for task in job.tasks:
            ids = self._generate(task)[0, 1:]
            assert len(ids) == job.tokens
            self.info["texts"][task] = digest(ids)

    def _generate(self, task: str) -> Any:
        return self._model.generate(
            self._pixels,
            num_beams=beams_of(task),
            do_sample=False,
            max_length=None,
            min_new_tokens=self._tokens,
            max_new_tokens=self._tokens,
        )

    def run(self, task: str) -> float:
        begin = perf_counter()
        self._generate(task)
        return (perf_counter() - begin) * 1e3


def load(job: Job) -> Optimum:
    require("optimum", "onnxruntime", "torch")
    if SHAPES[job.shape]["optimum_cache"] is None:
        raise Missing("optimum does not export this encoder")
    return Optimum(job)
