# SPDX-License-Identifier: Apache-2.0
"""Sentences of long and odd texts: split in one pass, and as by the plain algorithm that reads the text anew at every
stop."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.text import _ABBREVIATIONS, _MAYBE, _add, sentence_spans

_STOP = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n[^\S\n]*\n")
_WORD = re.compile(r"[^\s(\[\"']+$")


def plain_spans(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    begin = 0
    for stop in _STOP.finditer(text):
        if _plainly_ends(text, begin, stop):
            _add(spans, text, begin, stop.end())
            begin = stop.end()
    _add(spans, text, begin, len(text))
    return spans


def _plainly_ends(text: str, begin: int, stop: re.Match[str]) -> bool:
    if stop.group()[0] != ".":
        return True
    before = text[begin : stop.start()]
    word = _WORD.search(before)
    if word is None:
        return True
    bare = word.group().lower()
    rest = text[stop.end() :].lstrip()
    if bare in _MAYBE:
        return not rest or (rest[0].isupper() if bare not in ("no", "nos") else not rest[0].isdigit())
    if bare in _ABBREVIATIONS:
        return not rest
    if len(bare) == 1 and bare.isalpha():
        return not rest or not word.group().isupper()
    if bare.isdigit() and len(bare) <= 2:
        head = before[: word.start()]
        return not rest or not (head.strip() == "" or head.rstrip(" \t").endswith("\n"))
    return True


PIECES = (
    "no. ", "nos. ", "Dr. ", "e.g. ", "a.m. ", "L. ", "l. ", "1. ", "12. ", "123. ", "No. 1 ", "Lungs are clear. ",
    "lungs", "Is it? ", "...", ". ", ". . ", "!", ")", "]", '"', "'", "(", "[", " ", "  ", "\t", "\n", "\n\n", " \n \n",
    "\r\n", "\x0b", "\x1f", "\xa0", "\u2028", "\u3000", "1", "3", "A", "z", "_", "-", "Ä. ", "é. ", "²", "٣", "۱. ",
    "İ. ", "ß. ", "心. ", "Ⅳ. ",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.text(max_size=40)))
@example("1\n. a")
@example("a\n\n. 1. b")
@example("\x0b 1. b. \x0b\n 2. c")
def test_the_sentences_are_those_of_the_plain_algorithm(text: str) -> None:
    assert sentence_spans(text) == plain_spans(text)


HOSTILE = {
    "abbreviations": "no. 1 ",
    "numbers that begin lines": "1. \n",
    "initials": "L. ",
    "stops that end nothing": ".",
    "stops and closers": ".)",
    "one long word": "x",
    "white space": " ",
    "lines": "\n ",
    "lone stops": ". ",
}


class Counted(str):
    """A text that counts the characters that are taken out of it."""

    taken = 0

    def __getitem__(self, at: object) -> str:
        piece = super().__getitem__(at)  # type: ignore[index]
        self.taken += len(piece)
        return piece


@pytest.mark.parametrize("behind", ["", "x", ". y"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_part_of_a_text_is_looked_at_again_and_again(name: str, behind: str) -> None:
    text = Counted("    " + HOSTILE[name] * 3000 + behind)
    spans = sentence_spans(text)
    assert text.taken <= 4 * len(text)
    assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())
    small = "    " + HOSTILE[name] * 60 + behind
    assert sentence_spans(small) == plain_spans(small)


@pytest.mark.parametrize("piece", [".", "?)", ".!?", "no. 1 ", "1. \n"])
def test_a_long_text_of_one_kind(piece: str) -> None:
    """Also where only the expression for stops looks: the plain algorithm takes minutes for each of these."""
    text = piece * (300_000 // len(piece)) + "x"
    assert sum(b - a for a, b in sentence_spans(text)) >= len("".join(text.split()))
