# SPDX-License-Identifier: Apache-2.0
"""Text: sentences, streams, warnings."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from handmade import SAMPLE
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.text import TextDecoder, TextStream, clean, cut_at_sentence, sentence_spans, text_warnings


def split(text: str) -> list[str]:
    return [text[a:b] for a, b in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("One", ["One"]),
        ("One. Two.", ["One.", "Two."]),
        ("Dr. Smith was told. Fine.", ["Dr. Smith was told.", "Fine."]),
        (
            "Dr. ___ was told at 10:30 a.m. on ___ by phone.",
            ["Dr. ___ was told at 10:30 a.m. on ___ by phone."],
        ),
        ("Told at 10:30 a.m. The lungs are clear.", ["Told at 10:30 a.m.", "The lungs are clear."]),
        ("A 1.5 cm nodule. No effusion.", ["A 1.5 cm nodule.", "No effusion."]),
        ("Nodule of 5. No effusion.", ["Nodule of 5.", "No effusion."]),
        ("1. Clear lungs. 2. Normal heart.", ["1. Clear lungs.", "2. Normal heart."]),
        ("FINDINGS:\n\nClear lungs.\n\nNo effusion", ["FINDINGS:", "Clear lungs.", "No effusion"]),
        ("The lungs\nare clear.\nNo effusion.", ["The lungs\nare clear.", "No effusion."]),
        ("Atelectasis vs. pneumonia. No effusion.", ["Atelectasis vs. pneumonia.", "No effusion."]),
        ("Is it? Yes! Well...", ["Is it?", "Yes!", "Well..."]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("lungs are clear . no effusion .", ["lungs are clear .", "no effusion ."]),
        ("Opacity in the L. lung. Clear R. lung.", ["Opacity in the L. lung.", "Clear R. lung."]),
        ("Lines, tubes, etc. are in place. Good.", ["Lines, tubes, etc. are in place.", "Good."]),
        ("Effusion: no. 2 lines are seen.", ["Effusion: no. 2 lines are seen."]),
        ("Effusion: no. Lines are seen.", ["Effusion: no.", "Lines are seen."]),
        ("Clear. . . Next.", ["Clear. . .", "Next."]),
        ("See fig. 2 for this. Ok.", ["See fig. 2 for this.", "Ok."]),
    ],
)
def test_split(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


@given(st.text(alphabet="aB.!? \n\"'1_-Dr", max_size=60))
def test_spans_are_in_order_and_lose_nothing(text: str) -> None:
    spans = sentence_spans(text)
    assert all(a < b for a, b in spans)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    kept = "".join(text[a:b] for a, b in spans)
    lost = [c for i, c in enumerate(text) if not any(a <= i < b for a, b in spans)]
    assert all(c.isspace() for c in lost)
    assert "".join(kept.split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two", "One."),
        ("One. Two.", "One. Two."),
        ("One", "One"),
        ("", ""),
        ("One. Dr. Two", "One."),
    ],
)
def test_cut(text: str, cut: str) -> None:
    assert cut_at_sentence(text) == cut


def test_clean() -> None:
    assert clean("a\x1b[2Jb\r\nc\x9bd\u202ee\td\u2028\x00") == "a[2Jb\ncde\td"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Dr. ___ was told.", "___"),
        ("The heart is unchanged.", "unchanged"),
        ("Compared to ___, no change.", "compared"),
        ("Interval removal of the tube.", "interval"),
        ("Again seen is an effusion.", "again"),
        ("Stable cardiomegaly.", "stable"),
        ("As on the previous film.", "previous"),
    ],
)
def test_warnings(text: str, word: str) -> None:
    assert any(word in warning for warning in text_warnings(text))


@pytest.mark.parametrize("text", ["The heart is normal.", "Against the wall.", "Unstable.", "Newly placed tube.", ""])
def test_no_warnings(text: str) -> None:
    assert text_warnings(text) == []


@pytest.fixture(scope="module")
def decoder(pristine: Path) -> TextDecoder:
    return TextDecoder(pristine / "tokenizer.json", 320)


@pytest.mark.parametrize("text", [SAMPLE, "é ü 心 😀 ok. 心心.", " leading and trailing  ", ""])
@pytest.mark.parametrize("whole", [False, True])
def test_stream_of_a_text(decoder: TextDecoder, text: str, whole: bool) -> None:
    ids = decoder.encode(text)
    stream = TextStream(decoder, whole_sentences=whole)
    pieces = [stream.push(i) for i in ids]
    pieces.append(stream.finish(text.strip()))
    assert "".join(pieces) == text.strip()
    assert not any("\ufffd" in piece for piece in pieces)
    if whole:
        assert all(piece.rstrip().endswith((".", "!", "?")) for piece in pieces[:-1] if piece)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 319), max_size=40), forced=st.integers(0, 10), whole=st.booleans())
def test_stream_of_any_tokens(decoder: TextDecoder, ids: list[int], forced: int, whole: bool) -> None:
    text, ends = decoder.ends(ids)
    assert ends == sorted(ends)
    assert len(ends) == len(ids)
    final = cut_at_sentence(text.strip()) if whole else text.strip()
    stream = TextStream(decoder, ids[:forced], whole_sentences=whole)
    pieces = [stream.push(i) for i in ids[forced:]]
    assert "".join([*pieces, stream.finish(final)]) == final


def test_special_tokens_are_skipped(decoder: TextDecoder) -> None:
    assert decoder.decode([0]) == ""
    assert decoder.decode([0, *decoder.encode("ok"), 0]) == "ok"


def test_a_context_puts_nothing_on_stdout(pristine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The library lists ids without a token there when it writes a tokenizer."""
    data = json.loads((pristine / "tokenizer.json").read_text())
    token = next(token for token, number in data["model"]["vocab"].items() if number == 300)
    data["model"]["vocab"][token] = 330
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert TextDecoder(tmp_path / "tokenizer.json", 331).encode_plain("No effusion.")
    assert capfd.readouterr() == ("", "")


def test_texts_are_neither_padded_nor_cut(pristine: Path, decoder: TextDecoder, tmp_path: Path) -> None:
    """A tokenizer's file may hold the lengths of the batches that it was trained with."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pristine / "tokenizer.json"))
    for name, change in {
        "padded": lambda: tokenizer.enable_padding(length=1 << 8),
        "cut": lambda: (tokenizer.no_padding(), tokenizer.enable_truncation(3)),
    }.items():
        change()
        tokenizer.save(str(tmp_path / f"{name}.json"))
        other = TextDecoder(tmp_path / f"{name}.json", 320)
        assert len(decoder.encode(SAMPLE)) not in (3, 256)
        assert other.encode(SAMPLE) == decoder.encode(SAMPLE)
        assert other.encode_plain(SAMPLE) == decoder.encode_plain(SAMPLE)
