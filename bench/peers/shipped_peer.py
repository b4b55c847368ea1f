# SPDX-License-Identifier: Apache-2.0
"""The reference as it is shipped: one PyTorch model in fp32 that generates with the library's defaults.

Both segmenters run, the bias is computed, and the text is written by ``generate`` with the scaled-dot-product
path and its dynamic cache, which is how both public code bases run by default.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from .gpt2 import pixels
from .job import Job, require

PENALTY = 1.2


class Shipped:
    def __init__(self, job: Job) -> None:
        import torch
        from edge_export.random_checkpoint import config_of, random_model

        self.info: dict[str, Any] = {"versions": require("torch", "transformers")}
        torch.set_num_threads(job.threads)
        self.job = job
        self._model = random_model(config_of("reference"))
        # Random weights must not end the text early.
        self._model.decoder.generation_config.eos_token_id = None
        self._model.decoder.generation_config.pad_token_id = 0

    def run(self, task: str) -> float:
        import torch

        picture = torch.from_numpy(pixels())
        with torch.no_grad():
            begin = perf_counter()
            prefix = self._model.prefix(picture)
            self._model.anatomy(self._model.mask(picture))
            ids = self._model.decoder.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
                max_new_tokens=self.job.tokens,
                do_sample=False,
                repetition_penalty=PENALTY,
            )
            spent = perf_counter() - begin
        if ids.shape[1] != self.job.tokens:
            raise RuntimeError(f"{ids.shape[1]} tokens instead of {self.job.tokens}")
        return spent * 1e3


def load(job: Job) -> Shipped:
    require("torch", "transformers", "edge_export")
    return Shipped(job)
