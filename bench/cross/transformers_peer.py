# SPDX-License-Identifier: Apache-2.0
"""PyTorch: ``VisionEncoderDecoderModel.generate`` with its cache and SDPA, from the pixels to the ids."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..machine import processor_flags
from ..peers.job import Job, Missing, require
from ..peers.transformers_peer import BFLOAT16
from .inputs import beams_of, digest, pixels
from .shapes import folder


class Transformers:
    def __init__(self, job: Job) -> None:
        import torch
        from transformers import VisionEncoderDecoderModel

        self.info: dict[str, Any] = {"versions": require("torch", "transformers"), "texts": {}}
        torch.set_num_threads(job.threads)
        torch.set_grad_enabled(False)
        dtype = torch.bfloat16 if job.weights == "bf16" else torch.float32
        self._model = VisionEncoderDecoderModel.from_pretrained(folder(job.shape), torch_dtype=dtype).eval()
        self._pixels = torch.from_numpy(pixels(job.shape)).to(dtype)
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


def load(job: Job) -> Transformers:
    require("torch", "transformers")
    if job.weights == "bf16" and not BFLOAT16 & set(processor_flags()):
        raise Missing("this processor has no bfloat16 instructions")
    return Transformers(job)
