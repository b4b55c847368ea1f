# SPDX-License-Identifier: Apache-2.0
"""The whole decoder against its twin, and results that must not depend on threads or chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import twin
from small import caches, decoder_of, isas, need, precisions, prefix_of, spec_of, weights_of

# Squared error over squared signal, float32 against float64. With a half cache the few values that round the
# other way dominate, and more so with an int8 cache.
TOLERANCE = {"fp32": 2e-11, "fp16": 2e-7, "int8": 2e-5}

SHAPES: dict[str, dict[str, Any]] = {
    "small": {},
    "odd": {"layers": 2, "hidden": 60, "heads": 5, "kv_heads": 5, "head_dim": 12, "mlp": 100, "vocab": 333},
    "erf_untied_offset": {"layers": 2, "activation": "gelu_erf", "tied_head": False, "position_offset": 2},
}


@isas
@precisions
@caches
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [None, "soft", "strict", "long"])
def test_forward(isa: str, precision: str, kv: str, shape: str, bias: str | None) -> None:
    need(isa)
    spec = spec_of(**SHAPES[shape])
    weights, prefix = weights_of(spec, precision), prefix_of(spec, 130)
    decoder = decoder_of(spec, weights, prefix, bias, isa=isa, kv_dtype=kv)
    ids = np.random.default_rng(5).integers(0, spec["vocab"], 21).astype(np.int32)
    got = np.concatenate([decoder.forward(ids[:17], True), decoder.forward(ids[17:], False)])
    slow = twin.Twin(spec, weights, kv)
    slow.set_prefix(prefix["keys"], prefix["values"], prefix[bias] if bias else None)
    want = np.stack([slow.step(int(t), i < 17)[0] for i, t in enumerate(ids)])
    assert twin.nmse(got, want) < TOLERANCE[kv]


@isas
@precisions
@pytest.mark.parametrize(("kv", "bias"), [("fp32", "strict"), ("fp16", "long")])
def test_same_bits_for_any_threads_and_chunks(isa: str, precision: str, kv: str, bias: str) -> None:
    need(isa)
    spec = spec_of(layers=2, vocab=300)
    weights, prefix = weights_of(spec, precision), prefix_of(spec, 230)
    # Long enough to cross from the second block of keys into the third.
    ids = np.random.default_rng(5).integers(0, 300, 30).astype(np.int32)
    cuts = {1: [30], 2: [1] * 30, 3: [2, 3, 4, 5, 6, 7, 3], 4: [16, 1, 13], 7: [15, 15]}
    logits, texts = [], []
    for threads, parts in cuts.items():
        decoder = decoder_of(spec, weights, prefix, bias, isa=isa, kv_dtype=kv, threads=threads, evidence_layers=[1])
        ends = np.cumsum(parts)
        chunks = [decoder.forward(ids[end - n : end], True) for n, end in zip(parts, ends, strict=True)]
        logits.append(np.concatenate(chunks))
        result = decoder.generate(prefix["first_logits"], max_new_tokens=12, repetition_penalty=1.1)
        sampled = decoder.generate(
            prefix["first_logits"], forced_ids=list(range(17)), max_new_tokens=8, temperature=1.3, top_k=50,
            top_p=0.9, seed=4,
        )  # fmt: skip
        texts.append((result, sampled))
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])
    for pair in texts[1:]:
        for one, first in zip(pair, texts[0], strict=True):
            assert one.token_ids == first.token_ids
            np.testing.assert_array_equal(one.logprobs, first.logprobs)
            np.testing.assert_array_equal(one.evidence, first.evidence)


@isas
@precisions
@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
@pytest.mark.parametrize("prompt", [False, True], ids=["first", "prompt"])
def test_generate(isa: str, precision: str, rows: str, prompt: bool) -> None:
    """Greedy ids, log-probabilities and evidence against the twin's own loop."""
    need(isa)
    spec = spec_of(layers=2)
    weights, prefix = weights_of(spec, precision), prefix_of(spec, 140)
    layers = [0, 1]
    decoder = decoder_of(spec, weights, prefix, "soft", isa=isa, evidence_layers=layers)
    begin, forced = ([5], [9, 17, 4]) if prompt else ([], [])
    result = decoder.generate(
        None if prompt else prefix["first_logits"], begin_ids=begin, forced_ids=forced, bias_rows=rows,
        max_new_tokens=25, repetition_penalty=1.2, suppressed_ids=[3, 8],
    )  # fmt: skip

    slow = twin.Twin(spec, weights)
    slow.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
    logits, mass = prefix["first_logits"], np.zeros((2, 140))
    for token in begin + forced:
        logits, mass = slow.step(token, rows != "none")
    ids: list[int] = []
    for n in range(25):
        ids.append(int(np.argmax(twin.adjusted(logits, ids, 1.2, [3, 8]))))
        assert abs(result.logprobs[n] - twin.log_softmax(logits)[ids[-1]]) < 2e-4
        np.testing.assert_allclose(result.evidence[n], mass[layers].mean(0), atol=2e-6, rtol=1e-4)
        logits, mass = slow.step(ids[-1], rows == "all")
    assert result.token_ids == ids
    assert result.stop_reason == "length"
    assert result.forced_ids == forced
    assert result.evidence.shape == (25, 140)
    if not prompt:
        assert not result.evidence[0].any()


@caches
def test_rewind(kv: str) -> None:
    spec = spec_of()
    weights, prefix = weights_of(spec), prefix_of(spec, 127)
    decoder = decoder_of(spec, weights, prefix, kv_dtype=kv)
    ids = np.arange(20, dtype=np.int32)
    first = decoder.forward(ids, True)
    decoder.rewind(7)
    decoder.forward(ids[::-1].copy(), True)
    decoder.rewind(7)
    np.testing.assert_array_equal(decoder.forward(ids[7:], True), first[7:])
    decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
    np.testing.assert_array_equal(decoder.forward(ids, True), first)
    with pytest.raises(ValueError, match="rewind"):
        decoder.rewind(21)


def test_decoders_share_weights() -> None:
    """Two decoders on the same arrays, interleaved; the arrays outlive every other reference."""
    spec = spec_of()
    weights, prefix = weights_of(spec), prefix_of(spec, 40)
    one, two = (decoder_of(spec, weights, prefix, threads=n) for n in (1, 3))
    del weights
    ids = np.arange(10, dtype=np.int32)
    first = one.forward(ids[:5], True)
    np.testing.assert_array_equal(two.forward(ids, True)[:5], first)
    one.forward(ids[5:], True)
    assert one.text_rows == two.text_rows == 10


def test_layouts_of_weights() -> None:
    """Arrays that are not C-contiguous or not aligned are taken too, and give the same bits."""
    spec = spec_of()
    weights, prefix = weights_of(spec, "mixed"), prefix_of(spec, 40)
    ids = np.arange(10, dtype=np.int32)
    want = decoder_of(spec, weights, prefix).forward(ids, True)

    def odd(array: np.ndarray) -> np.ndarray:
        if array.ndim == 2:
            return np.asfortranarray(array)
        raw = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
        return raw.view(array.dtype)

    np.testing.assert_array_equal(
        decoder_of(spec, {k: odd(v) for k, v in weights.items()}, prefix).forward(ids, True), want
    )


@isas
@pytest.mark.parametrize("kv", ["fp32", "fp16"])
@pytest.mark.parametrize("bias", [None, "soft"])
def test_what_is_not_a_number_stays_so(isa: str, kv: str, bias: str | None) -> None:
    """A query that is none is not taken for one that sees nothing."""
    need(isa)
    spec = spec_of(layers=2)
    weights, prefix = weights_of(spec), prefix_of(spec, 70)
    weights["layers.0.qkv.weight"][3, 5] = np.nan
    decoder = decoder_of(spec, weights, prefix, bias, isa=isa, kv_dtype=kv)
    assert not np.isfinite(decoder.forward(np.array([3], np.int32), bias is not None)).any()
    rows = np.random.default_rng(0).standard_normal((70, spec["hidden"]), np.float32)
    assert not np.isfinite(decoder.prefill(rows, prefix[bias] if bias else None, bias=bias is not None)).any()
