# SPDX-License-Identifier: Apache-2.0
"""The decoder on the device, in one format and one way of decoding."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .. import reference
from ..oracle import oracle_script
from ..stats import median
from ..traffic import traffic

if TYPE_CHECKING:
    from edge.cuda import CudaDecoder

PASS_ROWS = (1, 2, 4, 5, 8, 16)


def evidence_layers(layers: int) -> range:
    """The later half, as a report has them."""
    return range(layers // 2, layers)


def measure(
    kept: str, stored: str, kv: str, way: str, *, tokens: int, repeat: int, copy_gbps: float
) -> Iterator[dict[str, Any]]:
    """Microseconds per token; then with drafts; then of passes over several rows; then whether the CPU agrees; then how
    long the persistent kernel's first block waits and works in each kind of stage.

    Parameters
    ----------
    kept, stored, kv : str
        Weights on the device, weights in the file, cache.
    way : {"steps", "persistent"}
    tokens, repeat : int
    copy_gbps : float
        Of the device's memory.

    Raises
    ------
    EdgeError
        The device does not take it, or computes something else than the CPU.
    """
    import numpy as np

    from edge.cuda import CudaDecoder
    from edge.cuda_check import check_agreement
    from edge.decoder import Decoder, GenerationOptions

    spec, prefix = reference.SPEC, reference.PREFIX
    weights = reference.decoder_weights(stored, lambda line: None)
    layers = spec["layers"]
    rng = np.random.default_rng(0)
    shape = (layers, spec["heads"], prefix, spec["head_dim"])
    keys, values = (rng.standard_normal(shape, np.float32) for _ in range(2))
    bias = rng.random((layers, prefix), np.float32)

    def make() -> CudaDecoder:
        made = CudaDecoder(
            spec,
            weights,
            kv_dtype=kv,  # type: ignore[arg-type]
            weight_dtype="fp16",
            evidence_layers=evidence_layers(layers),
            way=way,  # type: ignore[arg-type]
        )
        made.set_prefix(keys, values, bias)
        return made

    decoder = make()
    first = rng.standard_normal(spec["vocab"], np.float32)
    plain = GenerationOptions(max_new_tokens=tokens, repetition_penalty=1.2, draft=False)
    text = decoder.generate(first, plain)
    runs = [decoder.generate(first, plain).decode_seconds * 1e6 / (tokens - 1) for _ in range(repeat)]
    us = median(runs)
    # Float matrices are read as they are kept; biases and norms, which stay float32, are too few to count.
    read = traffic(weights, spec, kv_dtype=kv, prefix=prefix, prompt=0, tokens=tokens, screened=False)
    total = read.total if stored != "none" else read.weights // 2 + read.cache
    yield {
        "weights": kept,
        "kv_dtype": kv,
        "way": way,
        "us_per_token": round(us, 2),
        "us_per_token_min": round(min(runs), 2),
        "runs": [round(value, 2) for value in runs],
        "bytes_per_token": total,
        "share_of_copy": round(total / us / 1e3 / copy_gbps, 4),
        "text": hashlib.sha256(np.array(text.token_ids, np.int32).tobytes()).hexdigest()[:16],
    }
    script = oracle_script(text.token_ids, spec["vocab"])
    drafted = [decoder.generate(first, plain, draft_script=script) for _ in range(repeat)]
    yield {
        "drafted": {
            "us_per_token": round(median([d.decode_seconds for d in drafted]) * 1e6 / (tokens - 1), 2),
            "tokens_per_pass": round(drafted[0].tokens_per_pass, 3),
            "same_text": all(d.token_ids == text.token_ids for d in drafted),
            "drafts": "of the known text, right as often as the demo model's",
        }
    }
    yield {"pass_us": _passes(decoder, first, text.token_ids)}
    cpu = Decoder(spec, weights, kv_dtype=kv, screen_head=False, sketch=False)  # type: ignore[arg-type]
    check_agreement(decoder, cpu)
    yield {"agrees_with_cpu": True}
    if way == "persistent":
        yield {"stages": _stages(lambda: make().generate(first, plain))}


def _passes(decoder: CudaDecoder, first: Any, text: list[int]) -> dict[str, float]:
    """Microseconds of a pass by its number of rows: texts whose drafts are all right."""
    from edge.decoder import GenerationOptions

    costs = {}
    for rows in PASS_ROWS:
        options = GenerationOptions(max_new_tokens=len(text), repetition_penalty=1.2)
        script = [text[at : at + rows - 1] for at in range(len(text))]
        runs = [decoder.generate(first, options, draft_script=script) for _ in range(3)]
        costs[str(rows)] = round(median([run.decode_seconds / run.passes for run in runs]) * 1e6, 2)
    return costs


def _stages(write: Callable[[], object]) -> dict[str, Any]:
    """What a decoder that is made and writes a text under ``$EDGE_CUDA_TRACE`` prints, as numbers: microseconds per
    token from embedding to head, and of each kind of stage [waiting, working]."""
    os.environ["EDGE_CUDA_TRACE"] = "1"
    kept = os.dup(2)
    with tempfile.TemporaryFile() as told:
        os.dup2(told.fileno(), 2)
        try:
            write()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            del os.environ["EDGE_CUDA_TRACE"]
        told.seek(0)
        text = told.read().decode(errors="replace")
    whole = re.search(r"passes: ([0-9.]+) us each .* at ([0-9.]+) MHz", text)
    stages: dict[str, Any] = {"us_per_token": float(whole[1]), "mhz": float(whole[2])} if whole else {}
    for name, waiting, working in re.findall(r"^(\w+) +([0-9.]+) +([0-9.]+)$", text, re.MULTILINE):
        stages[name] = [float(waiting), float(working)]
    return stages
