# SPDX-License-Identifier: Apache-2.0
"""CTranslate2: its GPT-2 specification filled with the peers' weights."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from .gpt2 import SPEC, folder, prompt, weights
from .job import WARM_STEPS, Job, made_once, require


def convert(path: Path, quantization: str) -> None:
    """Write a CTranslate2 model folder."""
    import numpy as np
    from ctranslate2.specs import TransformerDecoderModelSpec
    from ctranslate2.specs.common_spec import Activation

    given = {name: np.array(array) for name, array in weights().items()}  # its quantizer works in place

    def fill(target: Any, name: str) -> None:
        norm = hasattr(target, "gamma")
        setattr(target, "gamma" if norm else "weight", given[f"{name}.weight"])
        setattr(target, "beta" if norm else "bias", given[f"{name}.bias"])

    spec = TransformerDecoderModelSpec.from_config(
        SPEC["layers"], SPEC["heads"], pre_norm=True, activation=Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = given["embed.weight"]
    decoder.position_encodings.encodings = given["positions.weight"]
    decoder.projection.weight = given["embed.weight"].copy()
    fill(decoder.layer_norm, "final_norm")
    for i, layer in enumerate(decoder.layer):
        fill(layer.self_attention.layer_norm, f"layers.{i}.attn_norm")
        fill(layer.self_attention.linear[0], f"layers.{i}.qkv")
        fill(layer.self_attention.linear[1], f"layers.{i}.attn_out")
        fill(layer.ffn.layer_norm, f"layers.{i}.mlp_norm")
        fill(layer.ffn.linear_0, f"layers.{i}.mlp_in")
        fill(layer.ffn.linear_1, f"layers.{i}.mlp_out")
    spec.register_vocabulary([f"t{i}" for i in range(SPEC["vocab"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "t0"
    spec.validate()
    spec.optimize(quantization=quantization)
    path.mkdir()
    spec.save(str(path))


class CTranslate2:
    def __init__(self, job: Job) -> None:
        import ctranslate2

        self.info: dict[str, Any] = {"versions": require("ctranslate2")}
        self.job = job
        kind = {"fp32": "float32", "int8": "int8"}[job.weights]
        path = made_once(folder(job) / f"ctranslate2-{kind}", lambda at: convert(at, kind))
        self._generator = ctranslate2.Generator(
            str(path), device="cpu", compute_type=kind, intra_threads=job.threads, inter_threads=1
        )
        self.info["compute_type"] = self._generator.compute_type
        self._tokens = [f"t{i}" for i in prompt(job.prefix)]

    def run(self, task: str) -> float:
        """One generation: the first token comes out of the prefill, the others are decode steps."""
        count = self.job.tokens + 1 if task == "decode" else 1
        times = self._generate(count)
        if task == "prefill":
            return (times[1] - times[0]) * 1e3
        return (times[-1] - times[1 + WARM_STEPS]) * 1e3 / (len(times) - 2 - WARM_STEPS)

    def _generate(self, count: int) -> list[float]:
        times = [perf_counter()]
        self._generator.generate_batch(
            [self._tokens],
            include_prompt_in_result=False,
            max_length=count,
            min_length=count,
            sampling_topk=1,
            end_token=[],
            callback=lambda _step: times.append(perf_counter()) or False,  # type: ignore[func-returns-value]
        )
        if len(times) != count + 1:
            raise RuntimeError(f"{len(times) - 1} tokens instead of {count}")
        return times


def load(job: Job) -> CTranslate2:
    require("ctranslate2")
    return CTranslate2(job)
