# SPDX-License-Identifier: Apache-2.0
"""llama.cpp: its own ``llama-bench`` on a GGUF file written from the peers' weights."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from edge.weights import settle

from .gpt2 import SPEC, folder, weights
from .job import Job, made_once, require
from .llama_build import find

_NAMES = {"attn_norm": "attn_norm", "qkv": "attn_qkv", "attn_out": "attn_output"}
_NAMES |= {"mlp_norm": "ffn_norm", "mlp_in": "ffn_up", "mlp_out": "ffn_down"}
KV_TYPES = {"fp32": "f32", "fp16": "f16", "q8_0": "q8_0"}


def write_gguf(path: Path, kind: str) -> None:
    """Write a GPT-2 with all matrices in one of ggml's formats, the tied embedding included.

    GGUF matrices are [out, in] as ours are (the checkpoints' Conv1D is transposed). The made-up vocabulary
    serves the loader only: nothing is tokenized.
    """
    import gguf
    import numpy as np

    given = weights()
    stored = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
    stored["q4_0"] = gguf.GGMLQuantizationType.Q4_0
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_context_length(SPEC["max_positions"])
    writer.add_embedding_length(SPEC["hidden"])
    writer.add_block_count(SPEC["layers"])
    writer.add_feed_forward_length(SPEC["mlp"])
    writer.add_head_count(SPEC["heads"])
    writer.add_layer_norm_eps(SPEC["norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(SPEC["vocab"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * SPEC["vocab"])
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def add(name: str, array: Any) -> None:
        data = np.ascontiguousarray(array, np.float32)
        if data.ndim == 2 and name != "position_embd.weight":
            kind_of = stored[kind]
            writer.add_tensor(name, gguf.quants.quantize(data, kind_of), raw_dtype=kind_of)
        else:
            writer.add_tensor(name, data)

    add("token_embd.weight", given["embed.weight"])
    add("position_embd.weight", given["positions.weight"])
    for i in range(SPEC["layers"]):
        for ours, theirs in _NAMES.items():
            for part in ("weight", "bias"):
                add(f"blk.{i}.{theirs}.{part}", given[f"layers.{i}.{ours}.{part}"])
    for part in ("weight", "bias"):
        add(f"output_norm.{part}", given[f"final_norm.{part}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settle(path)  # its mapping deserves huge pages as much as ours


class LlamaBench:
    """Runs the program anew for each turn; it warms up by itself."""

    def __init__(self, job: Job, program: Path) -> None:
        self.job = job
        self._program = program
        kind = job.weights
        self._model = made_once(folder(job) / f"gpt2-{kind}.gguf", lambda at: write_gguf(at, kind))
        self.info: dict[str, Any] = {"versions": {}}

    def run(self, task: str) -> float:
        job = self.job
        lengths = ["-p", "0", "-n", str(job.tokens), "-d", str(job.prefix)]
        if task == "prefill":
            lengths = ["-p", str(job.prefix), "-n", "0", "-ub", str(job.prefix)]
        cache = KV_TYPES[job.kv]
        call = [str(self._program), "-m", str(self._model), "-t", str(job.threads), *lengths]
        call += ["-fa", "1", "-ctk", cache, "-ctv", cache, "-ngl", "0", "-r", "1", "-o", "json"]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode != 0:
            words = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
            raise RuntimeError(f"llama-bench: {words[-1][:200]}")
        (figures,) = json.loads(done.stdout)
        self.info["versions"]["llama.cpp"] = str(figures.get("build_commit"))
        rows = 1 if task == "prefill" else job.tokens
        return float(figures["avg_ns"]) / 1e6 / rows


def load(job: Job) -> LlamaBench:
    program = find(job.llama_bench, Path(job.cache))
    require("gguf")
    return LlamaBench(job, program)
