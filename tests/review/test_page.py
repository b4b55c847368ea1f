# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, used as a person uses it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_browser
from client import Client
from PIL import Image

import edge

pytest.importorskip("uvicorn", reason='the page is not tested: pip install "edge-report[web]"')
pytestmark = pytest.mark.skipif(
    find_browser() is None,
    reason="no Chromium or Chrome on the path (EDGE_TEST_BROWSER names one): the page is not clicked",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def page(browser: Browser, client: Client) -> Iterator[Browser]:
    """The empty page; afterwards the browser has had nothing to complain about, and has asked nobody else."""
    browser.go("about:blank")
    browser.problems.clear()
    browser.requests.clear()
    browser.go(f"http://127.0.0.1:{client.port}/")
    browser.wait("document.querySelector('#model').textContent")
    yield browser
    expected = ("422", "one film")
    assert [problem for problem in browser.problems if not any(word in problem for word in expected)] == []
    own = (f"http://127.0.0.1:{client.port}/", f"blob:http://127.0.0.1:{client.port}/", "about:")
    assert [url for url in browser.requests if not url.startswith(own)] == []


@pytest.fixture
def reported(page: Browser, films: dict[str, Path]) -> Browser:
    """The page with the draft of a small film."""
    return report(page, films["frontal"])


def report(page: Browser, film: Path) -> Browser:
    page.drop(film)
    page.wait("document.querySelectorAll('#sentences li').length")
    return page


def texts(page: Browser) -> list[str]:
    return page.eval("[...document.querySelectorAll('#sentences textarea')].map(area => area.value)")


def canvas(page: Browser, name: str) -> np.ndarray:
    """What is drawn on a canvas: [rows, columns, RGBA]."""
    page.eval("new Promise(seen => requestAnimationFrame(() => requestAnimationFrame(seen)))")
    url = page.eval(f"document.querySelector('#{name}').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def test_nothing_yet(page: Browser) -> None:
    assert page.seen("#notice")
    assert "Not a medical device" in page.text("#notice")
    assert "synthetic phantoms" in page.text("#model-notice")
    assert page.seen("#choose")
    for hidden in ("#tools", "#saving", "#adding", "#problem", "#refused", "#token-form"):
        assert not page.seen(hidden)


def test_a_film_is_dropped(page: Browser, engine: edge.Engine, phantom: Path) -> None:
    report(page, phantom)
    want = engine.report(phantom)
    assert texts(page) == [sentence.text for sentence in want.sentences]
    sure = page.eval("[...document.querySelectorAll('.sure')].map(e => e.textContent)")
    assert sure == [f"confidence {round(sentence.confidence * 100)} %" for sentence in want.sentences]
    assert page.seen("#notice")
    assert page.seen("#model-notice")
    assert "not about how likely a finding is" in page.text("#meaning")
    assert page.seen("#meaning")
    assert not page.seen("#drop")
    assert page.text("#which") == "phantom.dcm  ·  DX PA  ·  1532 × 1600"
    # The canvas shows the film through its own window.
    film = edge.read_film(phantom)
    shown = canvas(page, "grey")[..., 0]
    scale = min(shown.shape[0] / film.pixels.shape[0], shown.shape[1] / film.pixels.shape[1])
    size = (round(film.pixels.shape[1] * scale), round(film.pixels.shape[0] * scale))
    small = Image.fromarray((film.window.apply(film.pixels) * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    left = (shown.shape[1] - size[0]) // 2
    middle = shown[: size[1], left : left + size[0]].astype(float)
    assert np.abs(middle - np.asarray(small, float)).mean() < 3.0


def test_window_by_mouse_and_keys(reported: Browser) -> None:
    page = reported
    before, figure = canvas(page, "grey"), page.text("#window")
    page.drag("#grey", 80, 0)  # wider
    assert page.text("#window") != figure
    wide = canvas(page, "grey")
    assert wide[..., 0].std() < before[..., 0].std()
    page.drag("#grey", 0, -80)  # up is brighter
    assert canvas(page, "grey")[..., 0].mean() > wide[..., 0].mean()
    assert page.eval("document.querySelector('#windows [aria-pressed=true]')") is None
    page.click("#windows button")
    np.testing.assert_array_equal(canvas(page, "grey"), before)
    page.click("#invert")
    film = before[..., 0] > 0
    assert (canvas(page, "grey")[..., 0][film] == 255 - before[..., 0][film]).all()
    page.click("#invert")
    page.click("#grey")
    for key in ("ArrowUp", "ArrowLeft", "+", "+"):
        page.key(key)
    assert not np.array_equal(canvas(page, "grey"), before)
    page.key("0")
    page.click("#windows button")
    np.testing.assert_array_equal(canvas(page, "grey"), before)


def test_zoom_and_pan(reported: Browser) -> None:
    page = reported
    fit = canvas(page, "grey")
    page.wheel("#grey", -300)
    page.until(lambda: not np.array_equal(canvas(page, "grey"), fit), "zoomed")
    near = canvas(page, "grey")
    page.drag("#grey", 60, 40, modifiers=8)  # with shift
    assert not np.array_equal(canvas(page, "grey"), near)
    page.drag("#grey", 60, 40, button="right")
    page.click("#zoom-fit")
    np.testing.assert_array_equal(canvas(page, "grey"), fit)


def test_a_sentence_lights_up_where_the_model_looked(page: Browser, engine: edge.Engine, phantom: Path) -> None:
    report(page, phantom)
    sentences = engine.report(phantom).sentences
    assert not canvas(page, "marks").any()
    for number in (4, 6):
        page.hover(f"#sentences li:nth-child({number})")
        page.wait(f"document.querySelector('#sentences li:nth-child({number})').classList.contains('lit')")
        marks = canvas(page, "marks")
        evidence = sentences[number - 1].evidence
        assert evidence is not None
        rows, columns = np.nonzero(marks[..., 3] == 255)  # the lines, and the number at the peak
        grey = canvas(page, "grey").shape
        width = grey[0] * 1532 / 1600
        peak = ((evidence.peak[1] + 0.5) / 16 * width + (grey[1] - width) / 2, (evidence.peak[0] + 0.5) / 16 * grey[0])
        assert np.hypot(columns - peak[0], rows - peak[1]).min() < 3
    page.hover("h1")
    assert not canvas(page, "marks").any()
    page.eval("document.querySelector('#sentences li:nth-child(2) textarea').focus()")  # the keyboard does it, too
    assert canvas(page, "marks").any()


def test_outline(reported: Browser) -> None:
    page = reported
    page.click("#mask")
    assert canvas(page, "marks").any()
    assert page.eval("document.querySelector('#mask').ariaPressed") == "true"
    page.click("#mask")
    assert not canvas(page, "marks").any()


def test_the_model_finishes_a_sentence(page: Browser, engine: edge.Engine, phantom: Path) -> None:
    report(page, phantom)
    film = engine.open(phantom)
    before = texts(page)
    page.click("#add")
    page.type("The heart")
    page.key("Tab")
    page.wait("document.querySelector('#status').textContent.startsWith('Finished')")
    want = film.complete(" ".join([*before, "The heart"]), partial_word=True)
    assert texts(page) == [*before, "The heart" + want.text]
    assert page.text("#sentences li:last-child .tag") == "begun by you"
    assert page.text("#sentences li:last-child .sure") == f"confidence {round(want.sentences[0].confidence * 100)} %"
    page.key("Escape")  # takes it back
    assert texts(page) == [*before, "The heart"]
    page.click("#sentences li:last-child .finish")
    page.wait("document.querySelector('#status').textContent.startsWith('Finished')")
    assert texts(page) == [*before, "The heart" + want.text]
    page.key("Tab")  # a finished sentence lets the focus go on
    assert page.eval("document.activeElement.tagName") == "BUTTON"
    page.key("Tab", shift=True)
    assert page.eval("document.activeElement.tagName") == "TEXTAREA"


def test_the_keyboard_is_never_trapped(reported: Browser) -> None:
    page = reported
    page.click("#add")
    page.type("The heart")
    page.key("Escape")
    page.key("Tab")
    assert page.eval("document.activeElement.tagName") == "BUTTON"
    assert texts(page)[-1] == "The heart"


def test_editing_and_saving(reported: Browser) -> None:
    page = reported
    own = texts(page)
    page.click("#sentences li:nth-child(2) textarea")
    page.key("End")
    page.type(" Changed.")
    assert page.text("#sentences li:nth-child(2) .tag") == "edited"
    assert not page.seen("#sentences li:nth-child(2) .sure")
    page.hover("#sentences li:nth-child(3)")
    page.click("#sentences li:nth-child(3) .remove")
    want = [own[0], f"{own[1]} Changed.", *own[3:]]
    assert texts(page) == want
    saved = {}
    for form, suffix in (("sr", "dcm"), ("fhir", "json"), ("text", "txt")):
        page.click(f"#save-{form}")
        page.wait(f"document.querySelector('#status').textContent.startsWith('Saved draft-{form}')")
        name = page.text("#status").split()[1].rstrip(",")
        assert name.endswith(suffix)
        path = page.downloads / name
        page.until(lambda path=path: path.exists() and path.stat().st_size, name)
        saved[form] = path.read_bytes()
    import pydicom

    sr = pydicom.dcmread(io.BytesIO(saved["sr"]))
    assert sr.VerificationFlag == "UNVERIFIED"
    items = sr.ContentSequence[-1].ContentSequence
    assert [i.TextValue for i in items if i.ConceptNameCodeSequence[0].CodeValue == "121071"] == want
    assert any(i.TextValue.startswith("Edited by hand: sentence 2") for i in items)
    assert "Edited by hand" in json.loads(saved["fhir"])["conclusion"]
    assert "\n".join(want) in saved["text"].decode()
    page.click("#sentences li:nth-child(2) .finish")  # restore
    assert texts(page)[1] == own[1]


def test_what_is_refused(page: Browser, films: dict[str, Path]) -> None:
    page.drop(films["letter"])
    page.wait("document.querySelector('#refused').getClientRects().length")
    assert "PDF" in page.text("#refused-text")
    assert not page.seen("#force")
    assert page.seen("#choose")
    page.drop(films["lateral"])
    page.wait("document.querySelector('#force').getClientRects().length")
    assert "lateral" in page.text("#refused-text")
    page.click("#force")
    page.wait("document.querySelectorAll('#sentences li').length")
    assert "by force" in page.text("#warnings")
    page.drop(films["frontal"], films["other"])
    page.wait("document.querySelector('#refused').getClientRects().length")
    assert "2 files" in page.text("#refused-text")
    page.click("#back")
    assert page.seen("#tools")
    assert not page.seen("#drop")


def test_another_film_by_the_picker(reported: Browser, films: dict[str, Path], engine: edge.Engine) -> None:
    page = reported
    page.choose("#file", films["other"])
    want = engine.report(films["other"])
    page.until(lambda: texts(page) == [sentence.text for sentence in want.sentences], "the other film's text")
    assert not canvas(page, "marks").any()


def test_token(browser: Browser, serve: Callable[..., Client]) -> None:
    client = serve("--token", "a-token-of-a-good-length")
    browser.go(f"http://127.0.0.1:{client.port}/")
    browser.wait("document.querySelector('#token-form').getClientRects().length")
    browser.click("#token")
    browser.type("a-token-of-a-good-length")
    browser.key("Enter")
    browser.wait("document.querySelector('#choose').getClientRects().length")
    browser.go("about:blank")
    browser.go(f"http://127.0.0.1:{client.port}/#token=a-token-of-a-good-length")
    browser.wait("document.querySelector('#choose').getClientRects().length")
    assert browser.eval("location.hash") == ""
