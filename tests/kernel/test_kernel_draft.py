# SPDX-License-Identifier: Apache-2.0
"""Drafting: whatever is drafted, and whatever stops a text, the result is that of one token per pass, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from edge_export.draft_table import Piece, build_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import caches, decoder_of, isas, need, precisions, prefix_of, spec_of, weights_of

import edge._kernel as kernel

SPEC = spec_of(layers=2, hidden=32, heads=2, kv_heads=2, mlp=64, vocab=60, max_positions=64, position_offset=2)
WEIGHTS = weights_of(SPEC, seed=3)
ROWS = SPEC["max_positions"] - SPEC["position_offset"]
PREFIXES = [prefix_of(SPEC, length, seed=length) for length in range(1, 50)]


def same(plain: kernel.GenerationResult, drafted: kernel.GenerationResult) -> None:
    assert drafted.token_ids == plain.token_ids
    assert drafted.stop_reason == plain.stop_reason
    np.testing.assert_array_equal(drafted.logprobs, plain.logprobs)
    np.testing.assert_array_equal(drafted.evidence, plain.evidence)
    chosen = plain.passes + plain.accepted
    assert plain.drafted == 0
    assert drafted.passes + drafted.accepted == chosen
    assert drafted.accepted <= drafted.drafted


def random_case(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a generation; and a prefix with its bias."""
    ids = lambda most: [int(i) for i in rng.integers(0, 60, rng.integers(0, most + 1))]  # noqa: E731
    options = {
        "begin_ids": ids(2),
        "forced_ids": ids(5) if rng.random() < 0.4 else [],
        "bias_rows": str(rng.choice(["all", "prefill", "none"])),
        "max_new_tokens": int(rng.integers(1, 60)),
        "repetition_penalty": float(rng.choice([1.0, 1.2, 0.8, 3.0])),
        "stop_ids": ids(3),
        "suppressed_ids": ids(4),
    }
    prefix = PREFIXES[int(rng.integers(len(PREFIXES)))]
    bias = None if rng.random() < 0.2 else prefix[str(rng.choice(["soft", "strict"]))]
    return options, {"prefix": prefix, "bias": bias}


def proposals(rng: np.random.Generator, kind: int, text: list[int]) -> list[list[int]]:
    """A draft for each number of tokens written: right, half right, random, wrong, one word again and again."""
    script = []
    for at in range(60):
        right = text[at : at + 20]
        noise = [int(i) for i in rng.integers(0, 60, rng.integers(0, 24))]
        if kind == 0:
            script.append(right)
        elif kind == 1:
            good = int(rng.integers(0, 6))
            script.append(right[:good] + noise)
        elif kind == 2:
            script.append(noise)
        elif kind == 3:
            script.append([(i + 1) % 60 for i in right])
        else:
            script.append([int(rng.integers(0, 60))] * int(rng.integers(1, 18)))
    return script


def test_thousands_of_texts() -> None:
    """Random options, prompts, biases and drafts of every kind, a table learnt from the plain texts included."""
    rng = np.random.default_rng(7)
    decoder = kernel.Decoder(SPEC, WEIGHTS, threads=1, evidence_layers=[1])
    table, texts, accepted, tabled = None, [], 0, 0
    for number in range(2000):
        options, film = random_case(rng)
        decoder.set_prefix(film["prefix"]["keys"], film["prefix"]["values"], film["bias"])
        first = film["prefix"]["first_logits"]
        plain = decoder.generate(first, **options)
        rows = decoder.text_rows
        kind = number % 7
        if kind < 5:
            script = proposals(rng, kind, plain.token_ids)
            drafted = decoder.generate(first, **options, draft_script=script)
            accepted += drafted.accepted
        else:
            drafted = decoder.generate(first, **options, draft=True, draft_table=table if kind == 5 else None)
            tabled += drafted.drafted
        same(plain, drafted)
        assert decoder.text_rows == rows
        texts.append(Piece(plain.token_ids))
        if number % 400 == 50:
            table = kernel.DraftTable(**build_table(texts), vocab=60)
    assert accepted > 5000
    assert tabled > 100


@isas
@precisions
def test_every_kernel(isa: str, precision: str) -> None:
    kv = "fp32" if precision == "fp32" else "fp16"
    spec = spec_of()
    prefix = prefix_of(spec, 120)
    weights = weights_of(spec, precision)
    texts = set()
    for threads in (1, 3):
        decoder = decoder_of(
            spec, weights, prefix, isa=need(isa), kv_dtype=kv, threads=threads, evidence_layers=[1, 2]
        )  # fmt: skip
        options = {"max_new_tokens": 25, "repetition_penalty": 1.3}
        plain = decoder.generate(prefix["first_logits"], **options)
        text = plain.token_ids
        for length in (1, 2, 5, 15):
            script = [text[at : at + length] for at in range(25)]
            drafted = decoder.generate(prefix["first_logits"], **options, draft_script=script)
            same(plain, drafted)
            assert drafted.passes == -(-24 // (length + 1))
            script = [[*text[at : at + length // 2], 5, 6, 7] for at in range(25)]
            same(plain, decoder.generate(prefix["first_logits"], **options, draft_script=script))
        texts.add(tuple(text))
    assert len(texts) == 1


@isas
@caches
@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_a_wrong_draft_that_is_no_number(isa: str, kv: str, what: float) -> None:
    """A row of the embedding that is not finite, drafted and refuted, leaves no trace in the rows before it."""
    spec = spec_of(tied_head=False)
    prefix = prefix_of(spec, 120)  # the text's keys end one block and begin another
    weights = weights_of(spec)
    options = {"max_new_tokens": 25, "repetition_penalty": 1.3}
    text = decoder_of(spec, weights, prefix, isa=need(isa), kv_dtype=kv).generate(prefix["first_logits"], **options)
    bad = next(i for i in range(spec["vocab"]) if i not in text.token_ids)
    weights["embed.weight"][bad, ::7] = what
    decoder = decoder_of(spec, weights, prefix, isa=isa, kv_dtype=kv, evidence_layers=[1, 2])
    plain = decoder.generate(prefix["first_logits"], **options)
    assert plain.token_ids == text.token_ids
    for right in (0, 1, 3, 6, 14):
        script = [[*plain.token_ids[at : at + right], bad, *plain.token_ids[at + right :]] for at in range(25)]
        same(plain, decoder.generate(prefix["first_logits"], **options, draft_script=script))
    # What is drafted and right stays as it is without drafts: an error.
    for script in ([], [text.token_ids[at : at + 5] for at in range(25)]):
        weights["embed.weight"][text.token_ids[9]] = what
        decoder = decoder_of(spec, weights, prefix, isa=isa, kv_dtype=kv)
        with pytest.raises(RuntimeError, match="not finite"):
            decoder.generate(prefix["first_logits"], **options, draft_script=script)


@pytest.fixture(scope="module")
def decoder() -> kernel.Decoder:
    return decoder_of(SPEC, WEIGHTS, prefix_of(SPEC, 20), threads=1, evidence_layers=[0, 1])


FIRST = prefix_of(SPEC, 20)["first_logits"]
drafts = st.lists(st.lists(st.integers(0, 59), max_size=40), max_size=45)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=drafts,
    right=st.integers(0, 5),
    penalty=st.sampled_from([1.0, 1.2, 0.5]),
    stops=st.lists(st.integers(0, 59), max_size=2),
    suppressed=st.lists(st.integers(0, 59), max_size=20),
    forced=st.lists(st.integers(0, 59), max_size=3),
    cap=st.integers(0, 60),
)
def test_any_draft(
    decoder: kernel.Decoder, script: list[list[int]], right: int, penalty: float, stops: list[int],
    suppressed: list[int], forced: list[int], cap: int,
) -> None:  # fmt: skip
    options = {
        "max_new_tokens": cap, "repetition_penalty": penalty, "stop_ids": stops, "suppressed_ids": suppressed,
        "forced_ids": forced,
    }  # fmt: skip
    plain = decoder.generate(FIRST, **options)
    mixed = [plain.token_ids[at : at + right] + draft for at, draft in enumerate(script)]
    same(plain, decoder.generate(FIRST, **options, draft_script=mixed))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=12), min_size=1), stop=st.booleans())
def test_any_table(decoder: kernel.Decoder, texts: list[list[int]], stop: bool) -> None:
    """Tables of texts the decoder does not write, repeated so that the table is sure of itself."""
    table = kernel.DraftTable(**build_table([Piece(text) for text in texts] * 9), vocab=60)
    plain = decoder.generate(FIRST, max_new_tokens=40)
    options = {"max_new_tokens": 40, "stop_ids": [plain.token_ids[20]] if stop else []}
    same(decoder.generate(FIRST, **options), decoder.generate(FIRST, **options, draft=True, draft_table=table))


def each_end(text: list[int]) -> Iterator[int]:
    yield from range(len(text))


def test_callbacks_come_one_by_one(decoder: kernel.Decoder) -> None:
    """Each token is told once, in order; a callback can stop the text after any of them, inside a pass too."""
    text = decoder.generate(FIRST, max_new_tokens=30).token_ids
    script = [text[at : at + 9] for at in range(30)]
    for end in each_end(text):
        plain_rows, seen = [], []
        for extra in ({}, {"draft_script": script}):
            told: list[int] = []

            def on_token(token: int, logprob: float, told: list[int] = told, end: int = end) -> bool:
                told.append(token)
                return len(told) <= end

            result = decoder.generate(FIRST, max_new_tokens=30, on_token=on_token, **extra)
            assert result.stop_reason == "cancelled"
            assert result.token_ids == told == text[: end + 1]
            plain_rows.append(decoder.text_rows)
            seen.append(decoder.forward(np.array([1, 2], np.int32), True))
        assert plain_rows[0] == plain_rows[1] == end
        np.testing.assert_array_equal(seen[0], seen[1])


def test_cancelling_between_tokens_of_a_pass(decoder: kernel.Decoder) -> None:
    text = decoder.generate(FIRST, max_new_tokens=30).token_ids
    cancel = kernel.CancelToken()
    told: list[int] = []

    def on_token(token: int, logprob: float) -> None:
        told.append(token)
        if len(told) == 5:
            cancel.cancel()

    script = [text[at : at + 15] for at in range(30)]
    result = decoder.generate(FIRST, max_new_tokens=30, on_token=on_token, cancel=cancel, draft_script=script)
    assert result.stop_reason == "cancelled"
    assert result.token_ids == told == text[:5]
    assert decoder.text_rows == 4


def test_an_exception_leaves_the_cache_right(decoder: kernel.Decoder) -> None:
    text = decoder.generate(FIRST, max_new_tokens=30).token_ids
    told: list[int] = []

    def fail(token: int, logprob: float) -> None:
        told.append(token)
        if len(told) == 4:
            raise KeyError("from the callback")

    with pytest.raises(KeyError):
        decoder.generate(FIRST, max_new_tokens=30, on_token=fail, draft_script=[text[at : at + 15] for at in range(30)])
    assert decoder.text_rows == 3


def test_the_last_positions() -> None:
    """No draft reaches beyond the positions or the cap, and the text ends where it does without."""
    for length in range(ROWS - 12, ROWS + 1):
        decoder = decoder_of(SPEC, WEIGHTS, prefix_of(SPEC, length), threads=1)
        plain = decoder.generate(FIRST, max_new_tokens=50)
        rows = decoder.text_rows
        script = [(plain.token_ids + [1] * 20)[at : at + 15] for at in range(50)]
        same(plain, decoder.generate(FIRST, max_new_tokens=50, draft_script=script))
        assert decoder.text_rows == rows == ROWS - length
        assert len(plain.token_ids) == ROWS - length + 1


def test_a_loop_is_drafted_from_itself(decoder: kernel.Decoder) -> None:
    """Without a table: a text that repeats itself is copied from itself."""
    options = {"max_new_tokens": 40, "suppressed_ids": [i for i in range(60) if i not in (3, 7)]}
    plain = decoder.generate(FIRST, **options)
    drafted = decoder.generate(FIRST, **options, draft=True)
    same(plain, drafted)
    assert drafted.passes < plain.passes


def test_a_sampled_text_is_not_drafted(decoder: kernel.Decoder) -> None:
    options = {"max_new_tokens": 40, "temperature": 1.5, "seed": 4}
    plain = decoder.generate(FIRST, **options)
    drafted = decoder.generate(FIRST, **options, draft=True)
    same(plain, drafted)
    assert drafted.drafted == 0
    with pytest.raises(ValueError, match="sampled"):
        decoder.generate(FIRST, **options, draft_script=[[1]])


def test_bad_drafts_are_refused(decoder: kernel.Decoder) -> None:
    for bad in (60, -1, 2**31 - 1):
        with pytest.raises(ValueError, match="draft_script holds"):
            decoder.generate(FIRST, draft_script=[[1], [2, bad]])
    table = kernel.DraftTable(**build_table([Piece([1, 2, 3])] * 3), vocab=61)
    with pytest.raises(ValueError, match="another vocabulary"):
        decoder.generate(FIRST, draft=True, draft_table=table)


def test_a_useless_table_is_given_up(decoder: kernel.Decoder) -> None:
    """A table that is sure of itself and always wrong costs a few rows, not one per token."""
    options = {"max_new_tokens": 40, "repetition_penalty": 5.0}  # nothing to copy from
    text = decoder.generate(FIRST, **options).token_ids
    never = next(i for i in range(60) if i not in text)
    arrays = {
        "children": np.array([1, 1], np.int32), "tokens": np.array([-1], np.int32),
        "next": np.array([never], np.int32), "share": np.array([0.95], np.float32),
    }  # fmt: skip
    drafted = decoder.generate(FIRST, **options, draft=True, draft_table=kernel.DraftTable(**arrays, vocab=60))
    assert drafted.token_ids == text
    assert drafted.accepted == 0
    assert 0 < drafted.drafted < 30


GOOD = build_table([Piece([5, 6, 7, 8]), Piece([5, 6, 9, 8]), Piece([6, 9, 8], begins=False)] * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"next": (0, 60)}, "outside the vocabulary"),
        ({"next": (0, -1)}, "outside the vocabulary"),
        ({"tokens": (1, 60)}, "outside the vocabulary"),
        ({"tokens": (1, -2)}, "outside the vocabulary"),
        ({"tokens": (2, 59)}, "not sorted"),
        ({"children": (0, 0)}, "no tree"),
        ({"children": (1, 1)}, "no tree"),
        ({"children": (1, 2**31 - 1)}, "no tree"),
        ({"children": (-1, 1000)}, "no tree"),
        ({"children": (2, -(2**31))}, "no tree"),
        ({"share": (0, float("nan"))}, "share"),
        ({"share": (0, float("inf"))}, "share"),
        ({"share": (1, 0.0)}, "share"),
        ({"share": (1, 1.5)}, "share"),
    ],
)
def test_hostile_tables(change: dict[str, tuple[int, float]], message: str) -> None:
    kernel.DraftTable(**GOOD, vocab=60)
    arrays = {name: array.copy() for name, array in GOOD.items()}
    for name, (at, value) in change.items():
        arrays[name][at] = value
    with pytest.raises(ValueError, match=message):
        kernel.DraftTable(**arrays, vocab=60)


def test_misshapen_tables() -> None:
    for name in GOOD:
        with pytest.raises(ValueError, match=r"same length|no tree"):
            kernel.DraftTable(**(GOOD | {name: GOOD[name][:-1]}), vocab=60)
        with pytest.raises(ValueError, match="one dimension"):
            kernel.DraftTable(**(GOOD | {name: GOOD[name].reshape(1, -1)}), vocab=60)
        with pytest.raises((ValueError, TypeError)):
            kernel.DraftTable(**(GOOD | {name: GOOD[name].astype(np.float64)}), vocab=60)
    with pytest.raises(ValueError, match="no nodes"):
        kernel.DraftTable(**({n: a[:0] for n, a in GOOD.items()} | {"children": np.ones(1, np.int32)}), vocab=60)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_as_a_table(data: st.DataObject) -> None:
    """Whatever the arrays hold, a table is refused or answers with an id of the vocabulary."""
    nodes = data.draw(st.integers(1, 6))
    number = st.one_of(st.integers(-2, 8), st.integers(-(2**31), 2**31 - 1))
    column = lambda n: np.array(data.draw(st.lists(number, min_size=n, max_size=n)), np.int32)  # noqa: E731
    try:
        table = kernel.DraftTable(
            children=column(nodes + 1), tokens=column(nodes), next=column(nodes),
            share=np.full(nodes, 0.5, np.float32), vocab=8,
        )  # fmt: skip
    except ValueError:
        return
    token, share = table.guess(data.draw(st.lists(st.integers(0, 7), max_size=8)))
    assert 0 <= token < 8
    assert share == 0.5
