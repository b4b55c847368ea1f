# SPDX-License-Identifier: Apache-2.0
"""Decoders with cross-attention, norms behind the sublayers, and heads with more than one product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import twin
from small import caches, decoder_of, isas, need, prefix_of, spec_of, weights_of
from test_kernel_decoder import TOLERANCE

import edge._kernel as kernel

IMAGE = 150
"""Keys of the image: more than one block of them."""

TYPED = [int(i) for i in np.random.default_rng(5).integers(0, 211, 135)[[4, 12]]]
"""Ids of the tests' texts behind which tokens are of another type."""

KINDS: dict[str, dict[str, Any]] = {
    "pre": {"cross_keys": IMAGE},
    "pre_embed_norm": {"cross_keys": IMAGE, "embed_norm": True, "embed_scale": 8.0, "position_offset": 2},
    "post": {
        "cross_keys": IMAGE, "norm_position": "post", "embed_norm": True, "activation": "gelu_erf",
        "head_transform": True, "head_bias": True, "norm_eps": 1e-12,
    },
    "post_untied": {
        "cross_keys": IMAGE, "norm_position": "post", "tied_head": False, "head_bias": True, "position_offset": 2,
        "layers": 2, "hidden": 60, "heads": 5, "kv_heads": 5, "head_dim": 12, "mlp": 100, "vocab": 333,
    },
    "post_types": {
        "cross_keys": IMAGE, "norm_position": "post", "embed_norm": True, "activation": "gelu_erf",
        "head_transform": True, "head_bias": True, "token_types": 3, "type_after": [TYPED[0], 1, TYPED[1], 2],
    },
    "post_prefix": {"norm_position": "post", "embed_norm": True, "head_transform": True},
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


def spec_kind(kind: str, **changes: Any) -> dict[str, Any]:
    return spec_of(**(KINDS[kind] | changes))


@isas
@pytest.mark.parametrize("precision", ["fp32", "mixed"])
@kinds
@pytest.mark.parametrize(("kv", "bias"), [("fp32", "strict"), ("fp16", None), ("int8", "soft")])
def test_forward(isa: str, precision: str, kind: str, kv: str, bias: str | None) -> None:
    need(isa)
    spec = spec_kind(kind)
    weights, prefix = weights_of(spec, precision), prefix_of(spec, IMAGE - 7)
    decoder = decoder_of(spec, weights, prefix, bias, isa=isa, kv_dtype=kv)
    ids = np.random.default_rng(5).integers(0, spec["vocab"], 21).astype(np.int32)
    got = np.concatenate([decoder.forward(ids[:17], True), decoder.forward(ids[17:], False)])
    slow = twin.Twin(spec, weights, kv)
    slow.set_prefix(prefix["keys"], prefix["values"], prefix[bias] if bias else None)
    want = np.stack([slow.step(int(t), i < 17)[0] for i, t in enumerate(ids)])
    assert twin.nmse(got, want) < 4 * TOLERANCE[kv]


@isas
@kinds
@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_same_bits_for_any_threads_and_chunks(isa: str, precision: str, kind: str) -> None:
    need(isa)
    spec = spec_kind(kind, layers=2)
    weights, prefix = weights_of(spec, precision), prefix_of(spec, IMAGE)
    ids = np.random.default_rng(5).integers(0, spec["vocab"], 135).astype(np.int32)
    cuts = {1: [135], 2: [1] * 20 + [115], 3: [20, 3, 40, 5, 60, 7]}
    logits, texts = [], []
    for threads, parts in cuts.items():
        decoder = decoder_of(spec, weights, prefix, "soft", isa=isa, threads=threads, evidence_layers=[1])
        ends = np.cumsum(parts)
        chunks = [decoder.forward(ids[end - n : end], True) for n, end in zip(parts, ends, strict=True)]
        logits.append(np.concatenate(chunks))
        texts.append(decoder.generate(None, begin_ids=[3, 4], max_new_tokens=12, draft=threads > 1))
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])
    for text in texts[1:]:
        assert text.token_ids == texts[0].token_ids
        np.testing.assert_array_equal(text.logprobs, texts[0].logprobs)
        np.testing.assert_array_equal(text.evidence, texts[0].evidence)


@isas
@kinds
@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
def test_generate(isa: str, kind: str, rows: str) -> None:
    """Greedy ids, log-probabilities and evidence from the cross-attention against the twin's own loop."""
    need(isa)
    spec = spec_kind(kind, layers=2)
    if kind == "post_types":
        spec["type_after"] = [9, 2, *(value for id_ in range(0, 195, 13) for value in (id_, 1))]
    weights, prefix = weights_of(spec), prefix_of(spec, 140)
    decoder = decoder_of(spec, weights, prefix, "soft", isa=isa, evidence_layers=[0, 1])
    result = decoder.generate(
        None, begin_ids=[5], forced_ids=[9, 17], bias_rows=rows, max_new_tokens=20, repetition_penalty=1.2
    )
    slow = twin.Twin(spec, weights)
    slow.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
    for token in (5, 9, 17):
        logits, mass = slow.step(token, rows != "none")
    ids: list[int] = []
    for n in range(20):
        ids.append(int(np.argmax(twin.adjusted(logits, ids, 1.2, []))))
        assert abs(result.logprobs[n] - twin.log_softmax(logits)[ids[-1]]) < 2e-4
        np.testing.assert_allclose(result.evidence[n], mass.mean(0), atol=2e-6, rtol=1e-4)
        logits, mass = slow.step(ids[-1], rows == "all")
    assert result.token_ids == ids
    assert result.evidence.shape == (20, 140)


@caches
def test_a_second_film(kv: str) -> None:
    """The image's keys are replaced, whatever text there was."""
    spec = spec_kind("post")
    weights, one, two = weights_of(spec), prefix_of(spec, IMAGE, 1), prefix_of(spec, 40, 2)
    decoder = decoder_of(spec, weights, one, kv_dtype=kv)
    ids = np.arange(20, dtype=np.int32)
    first = decoder.forward(ids, True)
    decoder.set_prefix(two["keys"], two["values"])
    assert decoder.text_rows == 0
    assert twin.nmse(decoder.forward(ids, True), first) > 1e-3
    decoder.set_prefix(one["keys"], one["values"], one["soft"])
    np.testing.assert_array_equal(decoder.forward(ids, True), first)


def test_text_has_every_position() -> None:
    spec = spec_kind("pre_embed_norm", max_positions=42)
    decoder = decoder_of(spec, weights_of(spec), prefix_of(spec, IMAGE))
    decoder.forward(np.zeros(40, np.int32), True)
    with pytest.raises(ValueError, match="do not fit"):
        decoder.forward(np.zeros(1, np.int32), True)


def test_refusals() -> None:
    spec = spec_kind("pre")
    weights = weights_of(spec)
    with pytest.raises(ValueError, match="takes 1 to 150"):
        decoder_of(spec, weights, prefix_of(spec, IMAGE + 1))
    long = prefix_of(spec, 40)
    with pytest.raises(ValueError, match="key_bias"):
        decoder_of(spec, weights, long, "long")
    with pytest.raises(ValueError, match=r"missing layers\.0\.cross_q\.weight"):
        kernel.Decoder(spec, weights_of(spec_of()), threads=1)
    with pytest.raises(ValueError, match=r"unexpected layers\.0\.cross_norm"):
        kernel.Decoder(spec_of(), weights, threads=1)
    with pytest.raises(ValueError, match="embed_scale"):
        kernel.Decoder(spec_kind("pre", embed_scale=0.0), weights, threads=1)
    with pytest.raises(ValueError, match=r"norm_position = 'sandwich'"):
        kernel.Decoder(spec_kind("pre", norm_position="sandwich"), weights, threads=1)
    for after in ([3], [3, 3], [211, 0], [0] * 34):
        with pytest.raises(ValueError, match="type_after must hold up to 16 pairs"):
            kernel.Decoder(spec_kind("post_types", type_after=after), weights, threads=1)


@isas
@pytest.mark.parametrize("kind", ["prefix", "pre", "post", "post_types"])
@pytest.mark.parametrize(("kv", "limit"), [("fp32", 1e-4), ("int8", 2e-2)])
def test_beams_see_their_own_text(isa: str, kind: str, kv: str, limit: float) -> None:
    """Every text's score is the sum of the log-probabilities that the text alone has."""
    need(isa)
    spec = spec_of() if kind == "prefix" else spec_kind(kind)
    switches = list(range(7, 208, 13))
    if kind == "post_types":  # of many ids, so that texts side by side are of different types
        spec["type_after"] = [value for n, id_ in enumerate(switches) for value in (id_, n % 3)]
    weights, prefix = weights_of(spec), prefix_of(spec, 130)
    decoder = decoder_of(spec, weights, prefix, "soft", isa=isa, kv_dtype=kv)
    result = decoder.generate(None, begin_ids=[5, 6], max_new_tokens=60, beams=6, sequences=6, length_penalty=0.0)
    assert len({tuple(ids) for ids in result.sequences}) == 6
    if kind == "post_types":
        assert len({str([i in switches for i in ids]) for ids in result.sequences}) > 1
    for ids, score in zip(result.sequences, result.scores, strict=True):
        assert len(ids) == 60
        decoder.rewind(0)
        rows = twin.log_softmax(decoder.forward(np.array([5, 6, *ids[:-1]], np.int32), True)[1:])
        assert abs(rows[np.arange(60), ids].sum() - score) < limit * 60


def test_rules_and_beams_that_cannot_be() -> None:
    spec = spec_of()
    decoder = decoder_of(spec, weights_of(spec), prefix_of(spec, 40), "long")
    with pytest.raises(ValueError, match="bias on text keys"):
        decoder.generate(None, begin_ids=[5], beams=2)
    for options, message in (
        ({"beams": 17}, "1 to 16"),
        ({"beams": 2, "sequences": 3}, "number of beams"),
        ({"beams": 2, "temperature": 1.0}, "not sampled"),
        ({"no_repeat_ngram": -1}, "negative"),
        ({"forced_end": 211}, "vocabulary"),
        ({"early_stopping": "maybe"}, "early_stopping"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder_of(spec, weights_of(spec), prefix_of(spec, 40)).generate(None, begin_ids=[5], **options)
