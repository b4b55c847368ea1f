# SPDX-License-Identifier: Apache-2.0
"""Texts of several films in one pass over the weights: each is, bit by bit, the one that it is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small import isas, need, prefix_of, spec_of, weights_of
from test_kernel_cross import KINDS

import edge._kernel as kernel

SHAPES: dict[str, dict[str, Any]] = {"prefix": {}, "pre": KINDS["pre"], "post": KINDS["post"]}
LENGTHS = (140, 33, 128, 7, 90)
"""Of the films."""
EVIDENCE = [0, 1]

OPTIONS: tuple[dict[str, Any], ...] = (
    {"begin_ids": [5], "max_new_tokens": 40, "repetition_penalty": 1.2},
    {"begin_ids": [5, 6], "forced_ids": list(range(30)), "max_new_tokens": 25, "bias_rows": "prefill"},
    {"begin_ids": [9], "max_new_tokens": 60, "no_repeat_ngram": 2, "min_new_tokens": 9, "stop_ids": list(range(40))},
    {"begin_ids": [3], "max_new_tokens": 30, "temperature": 0.9, "seed": 4, "bias_rows": "none"},
    {"begin_ids": [1, 2], "max_new_tokens": 33, "beams": 3, "sequences": 3, "length_penalty": 0.7},
)


def build(kind: str, precision: str, **options: Any) -> tuple[kernel.Decoder, dict[str, Any], list[dict[str, Any]]]:
    spec = spec_of(**SHAPES[kind])
    decoder = kernel.Decoder(
        spec, weights_of(spec, precision), **({"threads": 2, "evidence_layers": EVIDENCE} | options)
    )
    return decoder, spec, [prefix_of(spec, n, seed=20 + i) for i, n in enumerate(LENGTHS)]


def alone(decoder: kernel.Decoder, film: dict[str, Any], options: dict[str, Any]) -> Any:
    decoder.set_prefix(film["keys"], film["values"], film["soft"])
    return decoder.generate(None, **options)


def same(one: Any, other: Any) -> None:
    assert one.token_ids == other.token_ids
    assert one.stop_reason == other.stop_reason
    np.testing.assert_array_equal(one.logprobs, other.logprobs)
    np.testing.assert_array_equal(one.evidence, other.evidence)
    assert one.sequences == other.sequences
    np.testing.assert_array_equal(one.scores, other.scores)


@isas
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("precision", "kv"), [("fp32", "fp32"), ("int8", "fp16"), ("int4", "int8"), ("mixed", "fp16")])
def test_same_as_alone(isa: str, kind: str, precision: str, kv: str) -> None:
    """Prompts and lengths of every kind, greedy, sampled, under rules and with beams, side by side."""
    decoder, _, films = build(kind, precision, isa=need(isa), kv_dtype=kv)
    want = [alone(decoder, film, options) for film, options in zip(films, OPTIONS, strict=True)]
    assert len({tuple(text.token_ids) for text in want}) == len(want)
    for threads in (1, 3):
        decoder, _, films = build(kind, precision, isa=isa, kv_dtype=kv, threads=threads)
        for lane, film in enumerate(films):
            decoder.set_lane_prefix(lane, film["keys"], film["values"], film["soft"])
        texts = [(lane, None, kernel.TextOptions(**options), None) for lane, options in enumerate(OPTIONS)]
        for _ in range(2):  # what a lane keeps of its text serves the second time
            for text, expected in zip(decoder.generate_texts(texts), want, strict=True):
                same(text, expected)
        for text, expected in zip(decoder.generate_texts(texts[::-2]), want[::-2], strict=True):
            same(text, expected)


@pytest.mark.parametrize("kind", SHAPES)
def test_drafts(kind: str) -> None:
    """Guesses of several texts share what is left of a pass; right ones save passes, wrong ones change nothing."""
    decoder, _, films = build(kind, "fp32")
    options = {"begin_ids": [5], "max_new_tokens": 40}
    want = [alone(decoder, film, options) for film in films[:4]]
    for lane, film in enumerate(films[:4]):
        decoder.set_lane_prefix(lane, film["keys"], film["values"], film["soft"])
    plain = decoder.generate_texts([(lane, None, kernel.TextOptions(**options), None) for lane in range(4)])
    scripts = [
        [text.token_ids[at : at + 8] if lane != 2 else [7, 7] for at in range(40)] for lane, text in enumerate(want)
    ]
    drafted = decoder.generate_texts(
        [(lane, None, kernel.TextOptions(**options, draft_script=scripts[lane]), None) for lane in range(4)]
    )
    guessed = decoder.generate_texts(
        [(lane, None, kernel.TextOptions(**options, draft=True), None) for lane in range(4)]
    )
    for lane in range(4):
        for text in (plain[lane], drafted[lane], guessed[lane]):
            same(text, want[lane])
        assert plain[lane].passes == 39
    assert drafted[0].passes == 10  # 16 rows for four texts
    assert drafted[2].passes > 30


def test_first_logits_and_strict_masks() -> None:
    """Lanes keep different keys of their images, and a text may begin without a prompt."""
    decoder, _, films = build("prefix", "fp32")
    options = {"max_new_tokens": 30}
    want = []
    for film in films[:3]:
        decoder.set_prefix(film["keys"], film["values"], film["strict"], True)
        want.append(decoder.generate(film["first_logits"], **options))
    for lane, film in enumerate(films[:3]):
        decoder.set_lane_prefix(lane, film["keys"], film["values"], film["strict"], True)
    texts = [(lane, film["first_logits"], kernel.TextOptions(**options), None) for lane, film in enumerate(films[:3])]
    for text, expected in zip(decoder.generate_texts(texts), want, strict=True):
        same(text, expected)


def test_prefill_in_lanes() -> None:
    decoder, spec, _ = build("prefix", "fp32")
    rng = np.random.default_rng(8)
    images = [rng.standard_normal((n, spec["hidden"])).astype(np.float32) for n in (40, 66, 51)]
    want = []
    for image in images:
        logits = decoder.prefill(image)
        want.append(decoder.generate(logits, max_new_tokens=20))
    firsts = [decoder.prefill(image, lane=lane) for lane, image in enumerate(images)]
    options = kernel.TextOptions(max_new_tokens=20)
    results = decoder.generate_texts([(lane, first, options, None) for lane, first in enumerate(firsts)])
    for text, expected in zip(results, want, strict=True):
        same(text, expected)


def test_other_lanes_stay() -> None:
    """A new film, a text and a rewind in one lane leave the others as they are."""
    decoder, _, films = build("pre", "fp32")
    want = alone(decoder, films[1], OPTIONS[0])
    for lane in (0, 1, 2):
        decoder.set_lane_prefix(lane, films[lane]["keys"], films[lane]["values"], films[lane]["soft"])
    decoder.set_prefix(films[3]["keys"], films[3]["values"])
    decoder.generate(None, begin_ids=[4], max_new_tokens=50)
    decoder.rewind(3)
    decoder.set_lane_prefix(2, films[4]["keys"], films[4]["values"])
    same(decoder.generate_texts([(1, None, kernel.TextOptions(**OPTIONS[0]), None)])[0], want)


def test_callbacks_and_cancelling() -> None:
    """A callback ends its own text only; the token ends all."""
    decoder, _, films = build("pre", "fp32")
    for lane in range(3):
        decoder.set_lane_prefix(lane, films[lane]["keys"], films[lane]["values"], films[lane]["soft"])
    options = kernel.TextOptions(begin_ids=[5], max_new_tokens=20)
    seen: list[list[int]] = [[], [], []]

    def keep(lane: int, most: int) -> Any:
        return lambda token, _logprob: seen[lane].append(token) or len(seen[lane]) < most

    results = decoder.generate_texts([(lane, None, options, keep(lane, (99, 4, 99)[lane])) for lane in range(3)])
    assert [text.token_ids for text in results] == seen
    assert [text.stop_reason for text in results] == ["length", "cancelled", "length"]
    assert [len(ids) for ids in seen] == [20, 4, 20]
    cancel = kernel.CancelToken()

    def stop(token: int, _logprob: float) -> None:
        cancel.cancel()

    results = decoder.generate_texts([(0, None, options, None), (2, None, options, stop)], cancel=cancel)
    assert {text.stop_reason for text in results} == {"cancelled"}
    assert max(len(text.token_ids) for text in results) <= 2


def test_refusals() -> None:
    decoder, _, films = build("pre", "fp32")
    film = films[0]
    options = kernel.TextOptions(begin_ids=[5], max_new_tokens=4)
    with pytest.raises(ValueError, match="0 to 15"):
        decoder.set_lane_prefix(16, film["keys"], film["values"])
    with pytest.raises(ValueError, match="0 to 15"):
        decoder.set_lane_prefix(-1, film["keys"], film["values"])
    with pytest.raises(ValueError, match="set_prefix"):
        decoder.generate_texts([(0, None, options, None)])
    decoder.set_lane_prefix(3, film["keys"], film["values"])
    for lane in (0, 2, 4, -1):
        with pytest.raises(ValueError, match="set_prefix"):
            decoder.generate_texts([(lane, None, options, None)])
    with pytest.raises(ValueError, match="share a lane"):
        decoder.generate_texts([(3, None, options, None)] * 2)
    for lane in range(5):
        decoder.set_lane_prefix(lane, film["keys"], film["values"])
    beams = kernel.TextOptions(begin_ids=[5], max_new_tokens=4, beams=4)
    with pytest.raises(ValueError, match="20 rows together"):
        decoder.generate_texts([(lane, None, beams, None) for lane in range(5)])
    assert decoder.generate_texts([]) == []
    with pytest.raises(TypeError):
        kernel.TextOptions(beam=4)
