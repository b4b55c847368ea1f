# SPDX-License-Identifier: Apache-2.0
"""The decoder alone: random image prefix, then a fixed number of tokens. Needs neither vision nor PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

from edge.errors import ProcessingError, UsageError

from . import machine
from .bandwidth import Measure
from .oracle import oracle_script
from .result import Part
from .stats import median, rounded, summary
from .traffic import screens, traffic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.decoder import Decoder, Generation, KvDtype

PENALTY = 1.2
WARM_UP = 1


def run_decoder(
    spec: Mapping[str, Any],
    load: Callable[[], Mapping[str, NDArray[np.generic]]],
    *,
    prefix: int,
    tokens: int,
    repeat: int,
    threads: int,
    kv_dtype: KvDtype | None = None,
    name: str,
    seed: int = 0,
    draft: bool = False,
    bandwidth: Measure | None = None,
) -> Part:
    """Time the decoder as a report uses it: key bias in all rows, evidence from the later half of the layers.

    Parameters
    ----------
    spec : mapping
        Decoder spec.
    load : callable
        Returns the weights; called once, timed as part of loading.
    prefix, tokens : int
        Rows of the image prefix; new tokens per run.
    repeat : int
        Timed runs, after one that is not.
    kv_dtype : {"fp32", "fp16", "int8"}, optional
        Of the KV cache; default: as the decoder chooses.
    seed : int
        Of the prefix's keys and values and of the first logits.
    draft : bool
        Time each run once more with drafts as good as the demo model's (:mod:`edge_bench.oracle`), by turns; a float32
        decoder's also with those of its sketch.
    bandwidth : callable, optional
        Measures the read bandwidth; called before and after each timed run.

    Raises
    ------
    UsageError
        So many tokens do not fit into the decoder's positions.
    """
    import numpy as np

    from edge.decoder import Decoder, GenerationOptions

    room = spec["max_positions"] - spec["position_offset"] - prefix
    if tokens > room:
        raise UsageError(f"--tokens {tokens}: at most {room} fit into this decoder's positions")
    machine.reset_peak()
    begin = perf_counter()
    weights = load()
    layers = int(spec["layers"])
    decoder = Decoder(
        spec,
        weights,
        kv_dtype=kv_dtype,
        threads=threads,
        evidence_layers=range(layers // 2, layers),
        sketch=None if draft else False,
    )
    load_ms = (perf_counter() - begin) * 1e3

    rng = np.random.default_rng(seed)
    shape = (layers, spec["kv_heads"], prefix, spec["head_dim"])
    inputs = (
        rng.standard_normal(shape, np.float32),
        rng.standard_normal(shape, np.float32),
        rng.random((layers, prefix), np.float32),
    )
    first_logits = rng.standard_normal(spec["vocab"], np.float32)
    options = GenerationOptions(max_new_tokens=tokens, repetition_penalty=PENALTY, bias_rows="all", draft=False)
    runs, steps, drafted, sketched, beside = [], [], [], [], []
    script: list[list[int]] = []
    for index in range(WARM_UP + repeat):
        timed = index >= WARM_UP
        before = bandwidth() if bandwidth and timed else 0.0
        stages, gaps = _run(decoder, inputs, first_logits, options)
        if timed:
            runs.append(stages)
            steps += gaps
        if bandwidth and timed:
            beside.append((before + bandwidth()) / 2)
        if draft:
            script = script or oracle_script(decoder.generate(first_logits, options).token_ids, spec["vocab"])
            decoder.set_prefix(*inputs)
            result = decoder.generate(first_logits, options, draft_script=script)
            if timed:
                drafted.append(result)
            if decoder.sketches:
                decoder.set_prefix(*inputs)
                result = decoder.generate(first_logits, options.but(draft="sketch"))
                if timed:
                    sketched.append(result)
    rss, peak = machine.resident_mb()
    return Part(
        name="decoder",
        tokens=tokens,
        runs=runs,
        traffic=traffic(
            weights,
            spec,
            kv_dtype=decoder.kv_dtype,
            prefix=prefix,
            prompt=0,
            tokens=tokens,
            screened=screens(decoder.isa),
        ),
        load_ms=load_ms,
        rss_mb=rss,
        rss_peak_mb=peak,
        isa=decoder.isa,
        model={
            "name": name,
            "precision": _precision(weights),
            "kv_dtype": decoder.kv_dtype,
            "prefix": prefix,
            "prompt": 0,
            "bias_rows": "all",
            "bundle_sha256": None,
            "seed": seed,
        },
        extra={
            "token_ms": {"min": rounded(min(steps)), **summary(steps)},
            **_drafting(drafted, sketched, runs, tokens),
        },
        beside_gbps=beside,
    )


def _precision(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """Of the smallest matrix."""
    stored = {array.dtype.name for array in weights.values()}
    return "int4" if "uint8" in stored else "int8" if "int8" in stored else "fp32"


def _drafting(
    drafted: Sequence[Generation], sketched: Sequence[Generation], runs: Sequence[Mapping[str, float]], tokens: int
) -> dict[str, Any]:
    """What drafts as good as the demo model's gain, and those of a sketch; nothing where none were timed."""
    plain = median([run["decode"] for run in runs]) / (tokens - 1)
    found = {}
    for name, drafts, results in (
        ("drafting", "of the known text, right as often as the demo model's", drafted),
        ("sketching", "of the decoder's sketch alone", sketched),
    ):
        if not results:
            continue
        ms = median([result.decode_seconds for result in results]) * 1e3 / (tokens - 1)
        found[name] = {
            "drafts": drafts,
            "ms_per_token": rounded(ms),
            "tokens_per_pass": rounded(results[0].tokens_per_pass),
            "drafted": results[0].drafted,
            "accepted": results[0].accepted,
            "speed_up": rounded(plain / ms),
        }
    return found


def _run(
    decoder: Decoder, inputs: tuple[Any, Any, Any], first_logits: Any, options: Any
) -> tuple[dict[str, float], list[float]]:
    """Milliseconds of the stages of one run, and of each token after the first."""
    times: list[float] = []

    def on_token(_token: int, _logprob: float) -> None:
        times.append(perf_counter())

    begin = perf_counter()
    decoder.set_prefix(*inputs)
    decoder.generate(first_logits, options, on_token=on_token)
    end = perf_counter()
    if len(times) != options.max_new_tokens:
        raise ProcessingError(f"{len(times)} tokens instead of {options.max_new_tokens}")
    stages = {
        "first_token": (times[0] - begin) * 1e3,
        "decode": (end - times[0]) * 1e3,
        "total": (end - begin) * 1e3,
    }
    return stages, [(after - before) * 1e3 for before, after in pairwise(times)]
