# SPDX-License-Identifier: Apache-2.0
"""The full-size decoder with random weights: logits against fp32 under teacher forcing, size, and time per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .. import reference
from ..stats import median, rounded
from ..traffic import weight_bytes
from .formats import Format, make_decoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.decoder import Decoder

CHUNK = 16
TIMED_TOKENS = 24

Say = Callable[[str], None]


def run_forcing(
    formats: Sequence[Format], *, films: int, rows: int, rounds: int, threads: int, seed: int, say: Say
) -> list[dict[str, Any]]:
    """Compare every format with the first.

    Each of `films` random prefixes is followed by the same `rows` random tokens in every format. Times are medians
    over `rounds` in which every format has one turn.

    Returns
    -------
    list of dict
        ``logit_nmse`` (squared error over squared logits), ``same_token`` (share of rows with the same arg-max),
        ``weights_mb`` and ``cache_mb`` (1e6 bytes that a token reads, at the mean length of the timed turns) and
        ``ms_per_token``.
    """
    import numpy as np

    spec = reference.SPEC
    weights = {
        name: reference.decoder_weights("none" if name == "fp32" else name, say)
        for name in dict.fromkeys(f.weights for f in formats)
    }
    decoders = [make_decoder(spec, weights[f.weights], f.cache, threads=threads) for f in formats]
    rng = np.random.default_rng(seed)
    error, size, same = np.zeros(len(formats)), 0.0, np.zeros(len(formats))
    for film in range(films):
        say(f"teacher forcing, film {film + 1} of {films}")
        prefix, ids = _inputs(rng), rng.integers(0, spec["vocab"], rows)
        truth = _logits(decoders[0], prefix, ids)
        size += float(np.square(truth, dtype=np.float64).sum())
        for index, decoder in enumerate(decoders):
            found = truth if index == 0 else _logits(decoder, prefix, ids)
            error[index] += float(np.square(found - truth, dtype=np.float64).sum())
            same[index] += int((found.argmax(1) == truth.argmax(1)).sum())
    say(f"{rounds} rounds of {TIMED_TOKENS} tokens in {len(formats)} formats")
    times = _times(decoders, _inputs(rng), rng.standard_normal(spec["vocab"], np.float32), rounds)
    results = []
    for index, form in enumerate(formats):
        results.append(
            {
                "logit_nmse": float(error[index] / size),
                "same_token": float(same[index] / (films * rows)),
                "weights_mb": round(weight_bytes(weights[form.weights], spec, screened=False) / 1e6, 1),
                "cache_mb": round(decoders[index]._kernel.cache_bytes / 1e6, 1),
                "ms_per_token": rounded(median(times[index])),
                "ms_per_token_runs": [rounded(ms) for ms in times[index]],
            }
        )
    return results


def _inputs(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Keys, values and key bias of a film."""
    import numpy as np

    spec = reference.SPEC
    shape = (spec["layers"], spec["kv_heads"], reference.PREFIX, spec["head_dim"])
    return (
        rng.standard_normal(shape, np.float32),
        rng.standard_normal(shape, np.float32),
        rng.random((spec["layers"], reference.PREFIX), np.float32),
    )


def _logits(decoder: Decoder, prefix: tuple[Any, Any, Any], ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    import numpy as np

    decoder.set_prefix(*prefix)
    return np.concatenate([decoder.forward(ids[at : at + CHUNK]) for at in range(0, len(ids), CHUNK)])


def _times(decoders: Sequence[Decoder], prefix: Any, first_logits: Any, rounds: int) -> list[list[float]]:
    """Milliseconds per token of every decoder in every round, by turns; one round before warms up."""
    from edge.decoder import GenerationOptions

    options = GenerationOptions(max_new_tokens=TIMED_TOKENS, repetition_penalty=1.2, draft=False)
    times: list[list[float]] = [[] for _ in decoders]
    for decoder in decoders:
        decoder.set_prefix(*prefix)
    for turn in range(rounds + 1):
        for decoder, found in zip(decoders, times, strict=True):
            stamps: list[float] = []
            decoder.generate(first_logits, options, on_token=lambda *_, stamps=stamps: stamps.append(perf_counter()))  # type: ignore[misc]
            if turn:
                found.append((stamps[-1] - stamps[0]) / (len(stamps) - 1) * 1e3)
    return times
