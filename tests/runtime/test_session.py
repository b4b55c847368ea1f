# SPDX-License-Identifier: Apache-2.0
"""Open films: looked at once, written about as often as wanted."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from handmade import chest_picture

import edge


@pytest.fixture(scope="module")
def demo() -> edge.Engine:
    return edge.load(threads=1)


@pytest.fixture(scope="module")
def phantom() -> Path:
    return Path(__file__).parents[2] / "examples" / "phantom.dcm"


@pytest.fixture(scope="module")
def film(demo: edge.Engine, phantom: Path) -> edge.FilmSession:
    return demo.open(phantom)


def same(a: edge.Report, b: edge.Report) -> bool:
    return (a.findings, a.token_ids, a.logprobs, a.sentences) == (b.findings, b.token_ids, b.logprobs, b.sentences)


def test_report_is_the_engines(demo: edge.Engine, film: edge.FilmSession, phantom: Path) -> None:
    fresh = demo.report(phantom)
    assert same(film.report(), fresh)
    assert film.report().warnings == fresh.warnings
    assert film.mask is not None
    assert film.nbytes > film.mask.nbytes


def test_beams_of_an_open_film(demo: edge.Engine, film: edge.FilmSession, phantom: Path) -> None:
    assert film.report(beams=3).token_ids == demo.report(phantom, beams=3).token_ids
    with pytest.raises(edge.UsageError, match="beams"):
        film.report(beams=17)


@pytest.mark.parametrize("text", ["The heart", "No", "There is a", "The lungs are clear. Heart size is", "Left. "])
def test_completion_has_the_ids_of_a_fresh_report(
    demo: edge.Engine, film: edge.FilmSession, phantom: Path, text: str
) -> None:
    fresh = demo.report(phantom, prompt=text.rstrip())
    film.report()  # its rows are in the cache now
    whole = film.complete(text, sentences=None)
    assert whole.token_ids == fresh.token_ids
    assert whole.logprobs == fresh.logprobs
    assert (text + whole.text).strip() == fresh.findings
    assert whole.stop_reason == fresh.stop_reason
    one = film.complete(text)
    assert one.token_ids == fresh.token_ids[: len(one.token_ids)]
    assert one.stop_reason == "sentence"
    assert whole.text.startswith(one.text)
    assert one.text.endswith(".")
    written = next(s for s in fresh.sentences if s.confidence is not None)
    assert one.sentences == (written,)  # with its confidence and where the model looked


@pytest.mark.parametrize(
    ("begun", "word"), [("The hea", "The heart"), ("No tu", "No tubes"), ("Lungs are clear. No pneumo", "pneumothorax")]
)
def test_a_word_begun(film: edge.FilmSession, begun: str, word: str) -> None:
    """Typed within a word, it goes on as it does behind the whole word."""
    pieces: list[str] = []
    found = film.complete(begun, partial_word=True, on_text=pieces.append)
    assert "".join(pieces) == found.text
    assert word in begun + found.text
    whole = (begun + found.text)[: (begun + found.text).index(word) + len(word)]
    assert whole + film.complete(whole).text == begun + found.text
    assert found.stop_reason == "sentence"
    assert (begun + found.text).endswith(found.sentences[-1].text)


@pytest.mark.parametrize("text", ["The heart is", "No tubes. ", "No pneumothorax,", "The qqqzzx"])
def test_whole_words_are_left_alone(film: edge.FilmSession, text: str) -> None:
    """Whatever is not begun goes on as given; what the model has no word for is still finished."""
    found = film.complete(text, partial_word=True)
    if "q" not in text:
        assert found.token_ids == film.complete(text).token_ids
    assert found.text


def test_tokens_that_agree(demo: edge.Engine) -> None:
    text = demo._text
    pieces = [text.decode([token]) for token in range(demo.manifest.decoder["vocab"])]
    for begun in (" heart", " hea", "N", "\u00e4", " ", "zzzz", " pneumothorax and"):
        want = [i for i, one in enumerate(pieces) if one and (one.startswith(begun) or begun.startswith(one))]
        assert text.agreeing(begun) == [i for i in want if "\ufffd" not in pieces[i]]


def test_nothing_given(film: edge.FilmSession) -> None:
    assert film.complete("", sentences=None).text == film.report().findings
    assert film.complete(" \n", sentences=2).text == " ".join(s.text for s in film.report().sentences[:2])


def test_streamed_pieces_are_the_text(film: edge.FilmSession) -> None:
    for text in ("The heart", "The heart ", ""):
        pieces: list[str] = []
        assert film.complete(text, on_text=pieces.append).text == "".join(pieces)
        assert len(pieces) > 1


def test_films_keep_apart(demo: edge.Engine, film: edge.FilmSession) -> None:
    """Two open films share a decoder: each has its own prefix in it when its turn comes."""
    other = demo.open(chest_picture())
    want = [(f.report(), f.complete("The heart")) for f in (film, other)]
    assert want[0][0].token_ids != want[1][0].token_ids
    found: list[bool] = []

    def work(index: int) -> None:
        for _ in range(5):
            session = (film, other)[index]
            found.append(same(session.report(), want[index][0]))
            found.append(session.complete("The heart").token_ids == want[index][1].token_ids)

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_prefix_is_copied_once(demo: edge.Engine, film: edge.FilmSession, phantom: Path) -> None:
    decoder = demo._decoder
    film.report()
    before = decoder.prefix_serial
    film.report()
    film.complete("The heart")
    assert decoder.prefix_serial == before
    demo.report(phantom)
    film.complete("The heart")
    assert decoder.prefix_serial == before + 2


def test_cap_and_cancel(film: edge.FilmSession) -> None:
    short = film.complete("The heart", max_new_tokens=1)
    assert short.stop_reason == "length"
    assert len(short.token_ids) == 1
    token = edge.CancelToken()
    token.cancel()
    with pytest.raises(edge.Cancelled):
        film.complete("The heart", cancel=token)
    with pytest.raises(KeyboardInterrupt):
        film.complete("The heart", on_text=lambda _piece: (_ for _ in ()).throw(KeyboardInterrupt))
    assert film.complete("The heart", max_new_tokens=1).token_ids == short.token_ids


def test_room(demo: edge.Engine, film: edge.FilmSession) -> None:
    assert film.room("") == demo.manifest.text_room
    text = "clear " * 400
    assert film.room(text) < 1
    while film.room(text) < 1:
        text = text[6:]
    film.complete(text, max_new_tokens=film.room(text))


def test_wrong_use(demo: edge.Engine, film: edge.FilmSession) -> None:
    with pytest.raises(edge.UsageError, match="too long"):
        film.complete("clear " * 2000)
    with pytest.raises(edge.UsageError, match="must be a text"):
        film.complete(b"The")  # type: ignore[arg-type]
    with pytest.raises(edge.UsageError, match="sentences"):
        film.complete("The", sentences=0)
    with pytest.raises(edge.UsageError, match="bias rows"):
        demo.open(np.eye(80, dtype=np.uint8), bias_rows="some")
