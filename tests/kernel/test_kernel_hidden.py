# SPDX-License-Identifier: Apache-2.0
"""Image keys that a strict mask hides from every decode row are left out of the cache, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import twin
from small import caches, isas, need, prefix_of, spec_of, weights_of

import edge._kernel as kernel

SPEC = spec_of(layers=4, vocab=300, max_positions=420)
WEIGHTS = weights_of(SPEC, "int8")
LENGTH = 300
LOWEST = np.finfo(np.float32).min


def film(seed: int) -> dict[str, Any]:
    """A strict mask whose first layer hides nothing, and whose second hides everything."""
    prefix = prefix_of(SPEC, LENGTH, seed)
    prefix["strict"][0], prefix["strict"][1] = prefix["soft"][0], LOWEST
    return prefix


def decoder_of(prefix: dict[str, Any], drop: bool, **options: Any) -> kernel.Decoder:
    decoder = kernel.Decoder(SPEC, WEIGHTS, **({"threads": 2, "evidence_layers": [0, 1, 3]} | options))
    decoder.set_prefix(prefix["keys"], prefix["values"], prefix["strict"], drop)
    return decoder


@isas
@caches
def test_tokens_logits_and_evidence_stay(isa: str, kv: str) -> None:
    need(isa)
    ids = np.random.default_rng(5).integers(0, 300, 20).astype(np.int32)
    for seed in range(3):
        prefix = film(seed)
        full, less = (decoder_of(prefix, drop, isa=isa, kv_dtype=kv) for drop in (False, True))
        seen = prefix["strict"] > LOWEST
        assert full.kept_keys == seen.size
        assert less.kept_keys == seen.sum() < 0.6 * seen.size
        assert less.cache_bytes == full.cache_bytes * seen.sum() // seen.size
        assert twin.nmse(less.forward(ids, True), full.forward(ids, True)) < 1e-10
        options = {"forced_ids": [1, 2, 3], "max_new_tokens": 100, "repetition_penalty": 1.2}
        want, got = full.generate(None, **options), less.generate(None, **options)
        assert got.token_ids == want.token_ids
        assert len(got.token_ids) == 100
        np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
        np.testing.assert_allclose(got.evidence, want.evidence, rtol=1e-3, atol=1e-7)
        prefix["strict"][0] = LOWEST
        other = decoder_of(prefix, True, isa=isa, kv_dtype=kv).generate(None, **options)
        assert not other.evidence[:, ~seen[3]].any()
        assert other.evidence[:, seen[3]].all()


def test_same_bits_for_any_threads_and_chunks() -> None:
    prefix = film(7)
    ids = np.random.default_rng(5).integers(0, 300, 40).astype(np.int32)
    cuts = {1: [40], 2: [1] * 40, 3: [3, 16, 5, 16], 5: [7, 16, 16, 1]}
    results = []
    for threads, parts in cuts.items():
        decoder = decoder_of(prefix, True, threads=threads)
        ends = np.cumsum(parts)
        logits = [decoder.forward(ids[end - n : end], True) for n, end in zip(parts, ends, strict=True)]
        text = decoder.generate(prefix["first_logits"], max_new_tokens=20)
        results.append((np.concatenate(logits), text.logprobs, text.evidence))
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, first)


def test_nothing_is_left_out_without_need() -> None:
    prefix = film(1)
    prefix["strict"] = prefix["soft"]
    full, less = decoder_of(prefix, False), decoder_of(prefix, True)
    assert less.kept_keys == full.kept_keys == SPEC["layers"] * LENGTH
    ids = np.arange(5, dtype=np.int32)
    np.testing.assert_array_equal(less.forward(ids, False), full.forward(ids, False))


def test_rows_that_would_see_them_are_refused() -> None:
    prefix = film(1)
    decoder = decoder_of(prefix, True)
    with pytest.raises(ValueError, match="left out"):
        decoder.forward(np.arange(5, dtype=np.int32), False)
    for rows in ("prefill", "none"):
        with pytest.raises(ValueError, match="left out"):
            decoder.generate(prefix["first_logits"], bias_rows=rows)
    assert decoder.text_rows == 0
    decoder.set_prefix(prefix["keys"], prefix["values"], prefix["strict"])
    decoder.generate(prefix["first_logits"], bias_rows="none", max_new_tokens=2)
