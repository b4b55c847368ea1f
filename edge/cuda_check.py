# SPDX-License-Identifier: Apache-2.0
"""What is done with a decoder on a GPU before it is trusted: a comparison with the CPU's, and a few timings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.cuda import CudaDecoder, Way
from edge.decoder import Decoder
from edge.errors import DeviceError
from edge.generation import Generation, GenerationOptions

log = logging.getLogger("edge")

# Squared error over squared signal between the logits of the device and of the CPU, by how the weights are kept. A
# wrong index or a missing barrier is off by far more.
_AGREEMENT = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 2e-2}

_TOKENS = 33
_ROWS = (1, 2, 4, 5, 8, 16)
_RUNS = 3


def check_agreement(decoder: CudaDecoder, cpu: Decoder) -> None:
    """Compare a device's decoder with the CPU's on the same weights: a chunk of rows, then a greedy text.

    A few milliseconds, so that nothing that the kernels' tests on other hardware could not show - a driver, a card, a
    compiler - ever writes a report unnoticed. The text is written in all ways; where the persistent kernel's differs
    from that of recorded steps, it is left out. Both decoders lose their prefix.

    Raises
    ------
    DeviceError
        They do not agree.
    """
    spec = decoder.spec
    rng = np.random.default_rng(0)
    room = spec["max_positions"] - spec.get("position_offset", 0)
    length = max(1, min(150, room - 12))
    shape = (spec["layers"], spec["heads"], length, spec["head_dim"])
    keys, values = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    bias = rng.random((spec["layers"], length), dtype=np.float32)
    for one in (decoder, cpu):
        one.set_prefix(keys, values, bias)
    ids = rng.integers(0, spec["vocab"], min(5, room - length)).astype(np.int32)
    got, want = decoder.forward(ids), cpu.forward(ids)
    error = _nmse(got, want)
    tokens = min(6, room - length - len(ids))
    if tokens > 0:
        options = GenerationOptions(forced_ids=tuple(int(i) for i in ids), max_new_tokens=tokens, draft=False)
        text = _same_in_all_ways(decoder, lambda: decoder.generate(None, options))
        # The CPU on the device's own text: a near-tie may go either way, the probabilities may not.
        cpu.rewind(0)
        rows = cpu.forward([*ids, *text.token_ids[:-1]])[len(ids) - 1 :]
        expected = [_log_softmax(row)[token] for row, token in zip(rows, text.token_ids, strict=True)]
        error = max(error, _nmse(np.exp(text.logprobs), np.exp(np.array(expected))))
    limit = max(_AGREEMENT[decoder.weight_dtype], 1e-3 if decoder.kv_dtype == "int8" else 0.0)
    if not error <= limit:
        raise DeviceError(
            f"{decoder.device} does not compute what the CPU computes (error {error:.1e}, at most {limit:.0e} is "
            "expected): it is not used"
        )


def tune(decoder: CudaDecoder, prefix: int) -> None:
    """Keep the way of writing that is faster on this card, and tell the drafter what passes over several rows cost.

    A few texts of some thirty tokens, behind a prefix of zeros; some tens of milliseconds. What is written does not
    depend on what is found: the ways have the same bits, and drafts change no text. ``$EDGE_CUDA_TUNE`` = off leaves
    everything as it is. The decoder loses its prefix.

    Parameters
    ----------
    decoder : CudaDecoder
        Keeps the way that it was asked for, unless that was auto.
    prefix : int
        Rows of the image.
    """
    if os.environ.get("EDGE_CUDA_TUNE") == "off":
        return
    spec = decoder.spec
    room = spec["max_positions"] - spec.get("position_offset", 0)
    length = max(1, min(prefix, room - _TOKENS))
    tokens = min(_TOKENS, room - length)
    if tokens < 3:
        return
    decoder.set_prefix(*(np.zeros((spec["layers"], spec["heads"], length, spec["head_dim"]), np.float32),) * 2)
    first = np.zeros(spec["vocab"], np.float32)
    options = GenerationOptions(max_new_tokens=tokens, draft=False)
    text = _same_in_all_ways(decoder, lambda: decoder.generate(first, options)).token_ids
    plain: dict[Way, float] = {}
    for turn in range(_RUNS + 1):
        for way in decoder.ways:
            decoder.use_way(way)
            seconds = decoder.generate(first, options).decode_seconds / (tokens - 1)
            if turn:  # the first one warms up
                plain[way] = min(seconds, plain.get(way, seconds))
    costs = {way: _pass_costs(decoder, way, first, text) for way in decoder.ways}
    drafts = decoder.draft_table is not None
    # With drafts the host waits for every pass, whose rows then count: those of four are the rule.
    takes = {way: costs[way][3] if drafts else plain[way] for way in decoder.ways}
    best = min(takes, key=lambda way: takes[way])
    kept = best if decoder.asked_way == "auto" else decoder.asked_way
    decoder.use_way(kept)
    one = costs[kept][0]
    decoder.pass_costs = tuple(max(1.0, cost / one) for cost in costs[kept])
    log.info(
        "texts are written by %s: %s; a pass over 4 rows costs %.2f of one over one row, over 16 rows %.2f",
        kept,
        ", ".join(f"{way} {seconds * 1e6:.0f} us per token" for way, seconds in plain.items()),
        decoder.pass_costs[3],
        decoder.pass_costs[15],
    )


def _same_in_all_ways(decoder: CudaDecoder, write: Callable[[], Generation]) -> Generation:
    """A text as recorded steps write it; the persistent kernel, whose bits are the same, is not trusted otherwise."""
    before = decoder.way
    texts = []
    for way in decoder.ways:
        decoder.use_way(way)
        texts.append(write())
    decoder.use_way(before)
    if any(
        text.token_ids != texts[0].token_ids or text.logprobs.tobytes() != texts[0].logprobs.tobytes() for text in texts
    ):
        decoder.distrust_persistent()
    return texts[0]


def _pass_costs(decoder: CudaDecoder, way: Way, first: npt.NDArray[np.float32], text: list[int]) -> list[float]:
    """Seconds of a pass over 1 to 16 rows; between the measured numbers of rows a straight line."""
    decoder.use_way(way)
    options = GenerationOptions(max_new_tokens=len(text))
    measured = []
    for rows in _ROWS:
        script = [text[at : at + rows - 1] for at in range(len(text))]
        runs = [decoder.generate(first, options, draft_script=script) for _ in range(_RUNS + 1)]
        measured.append(min(run.decode_seconds / max(run.passes, 1) for run in runs[1:]))
    return [float(cost) for cost in np.interp(range(1, 17), _ROWS, measured)]


def _nmse(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(((got - want) ** 2).sum() / max(float((want**2).sum()), 1e-300))


def _log_softmax(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = row.astype(np.float64) - float(row.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
