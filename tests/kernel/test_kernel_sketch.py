# SPDX-License-Identifier: Apache-2.0
"""A float32 decoder that is drafted by its own copy in 8 bits: the same text bit by bit, in fewer passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edge_export.draft_table import Piece, build_table
from numpy.typing import NDArray
from small import caches, isas, need, prefix_of, spec_of, weights_of
from test_kernel_cross import IMAGE, KINDS
from test_kernel_draft import same
from test_kernel_lanes import SHAPES, alone

import edge._kernel as kernel

VOCAB = 700
SKETCH: dict[str, Any] = {"sketch": True, "draft_costs": [1 + 0.03 * i for i in range(16)]}
"""Costs as if the decoder were read from memory: long drafts pay."""
KINDS_TOO: dict[str, dict[str, Any]] = {"prefix": {"vocab": VOCAB}} | KINDS
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty": {"repetition_penalty": 1.3, "suppressed_ids": list(range(0, 150, 3)), "bias_rows": "prefill"},
    "reward": {"repetition_penalty": 0.7, "forced_ids": [3, 9, 1]},
    "stop": {"stop_ids": list(range(0, 200, 9)), "bias_rows": "none"},
}


def pair(spec: dict[str, Any], weights: dict[str, NDArray[Any]], **options: Any) -> list[kernel.Decoder]:
    """Without and with a sketch."""
    options = {"threads": 2, "evidence_layers": [0, 1]} | options
    return [kernel.Decoder(spec, weights, sketch=sketch, **options) for sketch in (False, True)]


def wild(weights: dict[str, NDArray[Any]], seed: int = 5) -> None:
    """One large number in many rows: what else is in them has few of the 8 bits."""
    rng = np.random.default_rng(seed)
    for name, matrix in weights.items():
        if matrix.ndim == 2 and name.startswith("layers."):
            rows = rng.permutation(len(matrix))[: len(matrix) // 2]
            matrix[rows, rng.integers(0, matrix.shape[1], len(rows))] *= 30


@isas
@pytest.mark.parametrize("kind", KINDS_TOO)
@pytest.mark.parametrize("rules", RULES)
def test_same_text(isa: str, kind: str, rules: str) -> None:
    spec = spec_of(**KINDS_TOO[kind])
    weights, prefix = weights_of(spec), prefix_of(spec, IMAGE - 7)
    texts = []
    for decoder in pair(spec, weights, isa=need(isa)):
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=60, **SKETCH, **RULES[rules]))
        assert decoder.text_rows == 1 + len(RULES[rules].get("forced_ids", ())) + len(texts[0].token_ids) - (
            texts[0].stop_reason == "length"
        )
    plain, drafted = texts
    same(plain, drafted)
    assert plain.sketch_passes == 0
    if plain.passes > 5:
        assert drafted.passes < plain.passes / 2
        assert drafted.sketch_passes >= drafted.drafted > 0


@caches
@pytest.mark.parametrize("kind", ["prefix", "post"])
@pytest.mark.parametrize("bias", ["soft", "strict", None])
def test_every_cache(kv: str, kind: str, bias: str | None) -> None:
    """And film after film, with prompts that share rows with the text before."""
    spec = spec_of(**KINDS_TOO[kind])
    weights = weights_of(spec)
    plain, sketched = pair(spec, weights, kv_dtype=kv)
    for number, length in enumerate((143, 20, 143, 100)):
        prefix = prefix_of(spec, length, seed=number)
        for decoder in (plain, sketched):
            decoder.set_prefix(prefix["keys"], prefix["values"], prefix[bias] if bias else None, bias == "strict")
        for begin in ([4], [4, 5], [4, 5, 6], [7]):
            options = {"begin_ids": begin, "max_new_tokens": 30, "repetition_penalty": 1.1}
            want, got = plain.generate(None, **options), sketched.generate(None, **SKETCH, **options)
            same(want, got)
            assert got.accepted > got.drafted // 2


def test_guesses_that_are_wrong() -> None:
    """Rows whose copy says little: the sketch is often wrong, and then asked less."""
    spec = spec_of(**KINDS_TOO["prefix"])
    weights, prefix = weights_of(spec), prefix_of(spec, 60)
    wild(weights)
    texts = []
    for decoder in pair(spec, weights):
        decoder.set_prefix(prefix["keys"], prefix["values"], None)
        texts += [decoder.generate(None, begin_ids=[at], max_new_tokens=200, **SKETCH) for at in range(5)]
    refuted = 0
    for plain, drafted in zip(texts[:5], texts[5:], strict=True):
        same(plain, drafted)
        refuted += drafted.drafted - drafted.accepted
    assert refuted > 20


@pytest.mark.parametrize("kind", ["prefix", "pre"])
def test_beside_table_and_text(kind: str) -> None:
    """A table of what the decoder writes: the sketch needs fewer passes, and so does the decoder."""
    spec = spec_of(**KINDS_TOO[kind])
    weights, prefix = weights_of(spec), prefix_of(spec, 90)
    plain, sketched = pair(spec, weights)
    for decoder in (plain, sketched):
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
    options = {"begin_ids": [4], "max_new_tokens": 80, "repetition_penalty": 1.2}
    want = plain.generate(None, **options)
    table = kernel.DraftTable(**build_table([Piece(want.token_ids)] * 9), vocab=spec["vocab"])
    alone_, beside = (
        sketched.generate(None, **SKETCH, draft=draft, draft_table=table if draft else None, **options)
        for draft in (False, True)
    )
    for text in (alone_, beside):
        same(want, text)
    assert beside.sketch_passes < alone_.sketch_passes / 2
    only_table = plain.generate(None, sketch=True, draft=True, draft_table=table, **options)
    same(want, only_table)
    assert only_table.sketch_passes == 0


def test_any_threads() -> None:
    spec = spec_of(**KINDS_TOO["post"])
    weights, prefix = weights_of(spec), prefix_of(spec, 140)
    texts = []
    for threads in (1, 2, 5):
        decoder = pair(spec, weights, threads=threads)[1]
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=50, **SKETCH))
    for text in texts[1:]:
        assert (text.passes, text.drafted, text.accepted) == (texts[0].passes, texts[0].drafted, texts[0].accepted)
        assert text.token_ids == texts[0].token_ids
        np.testing.assert_array_equal(text.logprobs, texts[0].logprobs)


def test_behind_a_prefill() -> None:
    """Keys and values that the decoder computed itself, hidden ones left out."""
    spec = spec_of(vocab=VOCAB)
    weights = weights_of(spec)
    embeddings = np.random.default_rng(2).standard_normal((70, spec["hidden"])).astype(np.float32)
    strict = prefix_of(spec, 70)["strict"]
    for bias, drop in ((None, False), (strict, False), (strict, True)):
        texts = []
        for decoder in pair(spec, weights):
            logits = decoder.prefill(embeddings, bias, drop_hidden=drop)
            texts.append(decoder.generate(logits, max_new_tokens=60, **SKETCH))
        same(*texts)
        assert texts[1].accepted > 20


def test_the_last_positions() -> None:
    """No guess reaches beyond the positions or the cap."""
    spec = spec_of(max_positions=64)
    weights = weights_of(spec)
    for length in range(50, 64):
        prefix = prefix_of(spec, length)
        texts, rows = [], []
        for decoder in pair(spec, weights, threads=1):
            decoder.set_prefix(prefix["keys"], prefix["values"], None)
            texts.append(decoder.generate(prefix["first_logits"], max_new_tokens=50, **SKETCH))
            rows.append(decoder.text_rows)
        same(*texts)
        assert rows == [64 - length] * 2


def test_an_end_in_the_middle() -> None:
    """Callbacks that stop a text, or fail, and tokens that follow: rows of guesses are gone."""
    spec = spec_of(vocab=VOCAB)
    weights, prefix = weights_of(spec), prefix_of(spec, 50)
    plain, sketched = pair(spec, weights)
    for decoder in (plain, sketched):
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
    for end in range(12):
        rows = []
        for decoder in (plain, sketched):
            told: list[int] = []

            def on_token(token: int, logprob: float, told: list[int] = told, end: int = end) -> bool:
                told.append(token)
                if len(told) > end and end % 2:
                    raise KeyError("from the callback")
                return len(told) <= end

            options = {"begin_ids": [4], "max_new_tokens": 30, "on_token": on_token, **SKETCH}
            if end % 2:
                with pytest.raises(KeyError):
                    decoder.generate(None, **options)
            else:
                assert decoder.generate(None, **options).stop_reason == "cancelled"
            assert decoder.text_rows == end + 1
            rows.append(decoder.forward(np.array([1, 2], np.int32), True))
        np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize("kind", SHAPES)
def test_several_texts_share_their_passes_instead(kind: str) -> None:
    spec = spec_of(**SHAPES[kind])
    plain, sketched = pair(spec, weights_of(spec))
    films = [prefix_of(spec, n, seed=n) for n in (33, 70)]
    options = {"begin_ids": [5], "max_new_tokens": 30}
    want = [alone(plain, film, options) for film in films]
    for lane, film in enumerate(films):
        sketched.set_lane_prefix(lane, film["keys"], film["values"], film["soft"])
    texts = [(lane, None, kernel.TextOptions(**options, sketch=True), None) for lane in range(2)]
    for text, expected in zip(sketched.generate_texts(texts), want, strict=True):
        same(expected, text)
        assert text.sketch_passes == 0
    # One of them alone is drafted, in whatever lane it is.
    (text,) = sketched.generate_texts(texts[1:])
    same(want[1], text)
    assert text.accepted > 0


def test_where_there_is_nothing_to_draft() -> None:
    spec = spec_of()
    prefix = prefix_of(spec, 40)
    calm = {"begin_ids": [4], "max_new_tokens": 20}
    for precision, sketch, options in (
        ("int8", True, calm),
        ("int4", True, calm),
        ("fp32", None, calm),  # small: it stays in the processor's cache
        ("fp32", True, calm | {"temperature": 0.8, "seed": 3}),
        ("fp32", True, calm | {"beams": 3}),
        ("fp32", True, calm | {"no_repeat_ngram": 2}),
        ("fp32", True, calm | {"draft_script": [[1, 2]] * 20}),
    ):
        decoder = kernel.Decoder(spec, weights_of(spec, precision), threads=1, sketch=sketch)
        decoder.set_prefix(prefix["keys"], prefix["values"], None)
        assert decoder.generate(None, sketch=True, **options).sketch_passes == 0


def test_by_default_for_large_ones() -> None:
    """From 32 MiB of float32 in the layers on, and beside matrices of other types."""
    spec = spec_of(layers=3, hidden=256, heads=4, kv_heads=4, head_dim=64, mlp=5500, vocab=300)
    weights, prefix = weights_of(spec), prefix_of(spec, 30)
    decoder = kernel.Decoder(spec, weights, threads=2)
    decoder.set_prefix(prefix["keys"], prefix["values"], None)
    plain = decoder.generate(None, begin_ids=[4], max_new_tokens=40)
    drafted = decoder.generate(None, begin_ids=[4], max_new_tokens=40, sketch=True)
    same(plain, drafted)
    assert drafted.passes < plain.passes / 2
    mixed = spec_of(**KINDS_TOO["post"])
    film = prefix_of(mixed, IMAGE)
    texts = []
    for one in pair(mixed, weights_of(mixed, "mixed")):
        one.set_prefix(film["keys"], film["values"], None)
        texts.append(one.generate(None, begin_ids=[4], max_new_tokens=40, sketch=True))
    same(*texts)
    assert texts[1].accepted > 0


def test_table_and_text_go_on_without_it() -> None:
    """Where the sketch is nearly always wrong, what else can draft still does."""
    spec = spec_of(**KINDS_TOO["prefix"])
    weights, prefix = weights_of(spec), prefix_of(spec, 60)
    for name, array in weights.items():  # a large number that meets nothing but zeros leaves no bits for the others
        if "_norm." in name and name.startswith("layers."):
            array[0] = 0.0
        elif name.endswith(("qkv.weight", "mlp_in.weight")):
            array[:, 0] = 1e5
    plain, sketched = pair(spec, weights)
    for decoder in (plain, sketched):
        decoder.set_prefix(prefix["keys"], prefix["values"], None)
    options = {"begin_ids": [4], "max_new_tokens": 200}
    want = plain.generate(None, **options)
    table = kernel.DraftTable(**build_table([Piece(want.token_ids)] * 9), vocab=spec["vocab"])
    sketch, beside = (
        sketched.generate(None, **SKETCH, draft=draft, draft_table=table if draft else None, **options)
        for draft in (False, True)
    )
    same(want, sketch)
    same(want, beside)
    assert sketch.accepted < sketch.drafted // 2
    assert beside.accepted > 60
    assert beside.sketch_passes < 60


def test_short_texts_need_none() -> None:
    """Rounding a film for the sketch takes longer than a few tokens; once done it serves them, too."""
    spec = spec_of()
    prefix = prefix_of(spec, 100)
    decoder = pair(spec, weights_of(spec))[1]
    decoder.set_prefix(prefix["keys"], prefix["values"], None)
    assert decoder.generate(None, begin_ids=[4], max_new_tokens=4, **SKETCH).sketch_passes == 0
    assert decoder.generate(None, begin_ids=[4], max_new_tokens=20, **SKETCH).sketch_passes > 0
    assert decoder.generate(None, begin_ids=[4], max_new_tokens=4, **SKETCH).sketch_passes > 0
    decoder.set_prefix(prefix["keys"], prefix["values"], None)
    assert decoder.generate(None, begin_ids=[4], max_new_tokens=4, **SKETCH).sketch_passes == 0


@pytest.mark.parametrize("isa", kernel.isa_supported())
def test_not_where_bytes_are_slow(isa: str) -> None:
    spec = spec_of(layers=3, hidden=256, heads=4, kv_heads=4, head_dim=64, mlp=5500, vocab=300)
    assert kernel.Decoder(spec, weights_of(spec), threads=1, isa=isa).sketches == (isa != "generic")
    assert kernel.Decoder(spec, weights_of(spec), threads=1, isa=isa, sketch=True).sketches


def test_cancelling_while_it_guesses() -> None:
    spec = spec_of()
    prefix = prefix_of(spec, 100)
    decoder = pair(spec, weights_of(spec))[1]
    decoder.set_prefix(prefix["keys"], prefix["values"], None)
    cancel = kernel.CancelToken()
    told: list[int] = []

    def on_token(token: int, logprob: float) -> None:
        told.append(token)
        if len(told) == 5:
            cancel.cancel()

    text = decoder.generate(None, begin_ids=[4], max_new_tokens=60, on_token=on_token, cancel=cancel, **SKETCH)
    assert (text.stop_reason, text.token_ids) == ("cancelled", told)
    assert decoder.text_rows == 5
