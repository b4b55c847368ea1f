# SPDX-License-Identifier: Apache-2.0
"""transformers on PyTorch: its GPT-2 with its dynamic cache and SDPA, and the model's vision networks."""

from __future__ import annotations

from typing import Any

from ..machine import processor_flags
from .gpt2 import SPEC, pixels, prompt, transformers_state
from .job import Job, Missing, each_or_why, require, time_once, time_steps
from .variants import VISION
from .vision_networks import network

BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor flags, of x86 and Arm."""


def gpt2(job: Job) -> Any:
    """A ``GPT2LMHeadModel`` with the peers' weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=SPEC["vocab"],
        n_positions=SPEC["max_positions"],
        n_embd=SPEC["hidden"],
        n_layer=SPEC["layers"],
        n_head=SPEC["heads"],
        n_inner=SPEC["mlp"],
    )
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    state = {name: torch.from_numpy(array.copy()) for name, array in transformers_state().items()}
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval()


class Transformers:
    """Prefilled once; every decode turn begins again behind the prefix."""

    def __init__(self, job: Job) -> None:
        import torch

        self.info: dict[str, Any] = {"versions": require("torch", "transformers")}
        torch.set_num_threads(job.threads)
        torch.set_grad_enabled(False)
        self.job = job
        self._dtype = torch.bfloat16 if job.weights == "bf16" else torch.float32
        self._model = gpt2(job).to(self._dtype)
        self._prefix = torch.from_numpy(prompt(job.prefix))[None]
        self._cache: Any = None
        self._pixels = torch.from_numpy(pixels()).to(self._dtype)
        asked = [task for task in job.tasks if task in VISION]
        self._networks, left_out = each_or_why(asked, lambda task: network(task).to(self._dtype))
        self.info["left_out"] = left_out

    def run(self, task: str) -> float:
        if task == "decode":
            return self._decode()
        if task == "prefill":
            return time_once(self._prefill, self.job)
        return time_once(lambda: self._networks[task](self._pixels), self.job)

    def _prefill(self) -> Any:
        from transformers import DynamicCache

        return self._model(
            self._prefix, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1
        ).past_key_values

    def _decode(self) -> float:
        if self._cache is None:
            self._cache = self._prefill()
        self._cache.crop(self.job.prefix)
        token = self._prefix[:, -1:]

        def step(_: int) -> None:
            nonlocal token
            logits = self._model(token, past_key_values=self._cache, use_cache=True).logits
            token = logits[:, -1].argmax(-1, keepdim=True)

        return time_steps(step, self.job)


def load(job: Job) -> Transformers:
    require("torch", "transformers")
    if job.weights == "bf16" and not BFLOAT16 & set(processor_flags()):
        raise Missing("this processor has no bfloat16 instructions; without them one prefill takes over a minute")
    return Transformers(job)
