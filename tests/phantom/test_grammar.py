# SPDX-License-Identifier: Apache-2.0
"""The findings grammar: length, variety, vocabulary and what it must never write."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from edge_export.phantom import grammar
from edge_export.phantom.grammar import corpus, expand, random_labels, write_findings
from edge_export.phantom.labels import LABELS


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(corpus(2000, seed=11))


def test_corpus_is_reproducible(texts: list[str]) -> None:
    assert list(corpus(50, seed=11)) == texts[:50]
    assert list(corpus(50, seed=12)) != texts[:50]
    assert list(corpus(0, seed=1)) == []


def test_random_cases_are_distinct(texts: list[str]) -> None:
    assert len(set(texts)) >= 0.99 * len(texts)


@pytest.mark.parametrize(
    "labels",
    [
        (),
        ("cardiomegaly",),
        ("effusion_left_small",),
        ("nodule_right_mid", "pacemaker"),
        ("effusion_left_large", "pneumothorax_right", "opacity_left_lower", "edema", "central_line"),
    ],
)
def test_one_label_set_is_worded_in_many_ways(labels: tuple[str, ...]) -> None:
    rng = np.random.default_rng(3)
    drawn = {write_findings(labels, rng) for _ in range(500)}
    assert len(drawn) >= 0.95 * 500


def test_length_and_sentences(texts: list[str]) -> None:
    words = np.array([len(text.split()) for text in texts])
    assert words.min() >= 25
    assert words.max() <= 75
    assert 38 <= np.median(words) <= 50
    sentences = [text.count(".") for text in texts]
    assert min(sentences) >= 2
    assert max(sentences) <= 7


def test_vocabulary_is_small(texts: list[str]) -> None:
    words = set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    assert 100 <= len(words) <= 350


def test_surface_form(texts: list[str]) -> None:
    for text in texts:
        assert re.fullmatch(r"([A-Z][A-Za-z ,;-]*\. )*[A-Z][A-Za-z ,;-]*\.", text), text
        assert "  " not in text
        assert " ," not in text


def test_no_comparison_with_earlier_films(texts: list[str]) -> None:
    banned = re.compile(r"\b(prior|previous|unchanged|interval|new|again|stable|since|compar\w*|worse\w*|improv\w*)\b")
    assert not [text for text in texts if banned.search(text.lower())]


def test_sentences_of_one_text_differ(texts: list[str]) -> None:
    for text in texts:
        sentences = text.split(". ")
        assert len(set(sentences)) == len(sentences), text


@pytest.mark.parametrize("name", LABELS)
def test_every_label_alone_fits(name: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        assert 25 <= len(write_findings({name}, rng).split()) <= 75


def test_all_labels_at_once_are_still_written() -> None:
    many = frozenset(name for name in LABELS if not name.endswith("large"))
    text = write_findings(many, np.random.default_rng(0))
    assert text.endswith(".")


@pytest.mark.parametrize(
    "labels", [{"pneumonia"}, {"effusion_left_small", "effusion_left_large"}, {"cardiomegaly", ""}]
)
def test_bad_labels_are_refused(labels: set[str]) -> None:
    with pytest.raises(ValueError, match=r"unknown labels|two sizes"):
        write_findings(labels, np.random.default_rng(0))


def test_expand() -> None:
    rng = np.random.default_rng(0)
    seen = {expand("{a|b {c|d}|} x {|,} y", rng) for _ in range(200)}
    assert seen == {f"{head}x{comma} y" for head in ("a ", "b c ", "b d ", "") for comma in ("", ",")}


def test_random_labels_cover_the_set() -> None:
    rng = np.random.default_rng(1)
    sets = [random_labels(rng) for _ in range(1500)]
    assert set().union(*sets) == set(LABELS)
    assert frozenset() in sets


def test_grammar_uses_only_its_own_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("global random state used")

    target: Callable[..., None] = refuse
    monkeypatch.setattr(np.random, "random", target)
    monkeypatch.setattr(np.random, "choice", target)
    assert grammar.write_findings({"edema"}, np.random.default_rng(9)) == grammar.write_findings(
        {"edema"}, np.random.default_rng(9)
    )
