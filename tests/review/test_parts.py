# SPDX-License-Identifier: Apache-2.0
"""Open films and their bounds; grey values; edited drafts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edge
from edge.film import Voi
from edge.review.limits import Limits
from edge.review.picture import grey_values, picture
from edge.review.refusals import Refusal, described
from edge.review.sessions import Sessions

pytest.importorskip("uvicorn", reason='the page is not tested: pip install "edge-report[web]"')


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def add(sessions: Sessions, nbytes: int = 1, before: str = "") -> Any:
    film: Any = SimpleNamespace()
    return sessions.open(film, None, "", nbytes, before)


def test_films_are_forgotten() -> None:
    time = Time()
    sessions = Sessions(Limits(idle_seconds=10.0), time)
    one, two = add(sessions), add(sessions)
    time.now = 8.0
    assert sessions.get(one.id) is one
    time.now = 12.0
    with pytest.raises(Refusal, match="not open any more"):
        sessions.get(two.id)
    one.running.add(token := edge.CancelToken())
    time.now = 60.0
    assert sessions.get(one.id) is one  # somebody waits for it
    sessions.close(one.id)
    assert token.cancelled


def test_films_are_bounded() -> None:
    time = Time()
    sessions = Sessions(Limits(sessions=3, session_bytes=100), time)
    films = []
    for now in range(3):
        time.now = now
        films.append(add(sessions, 10))
    time.now = 5
    sessions.get(films[0].id)
    newest = add(sessions, 10)
    assert len(sessions) == 3
    with pytest.raises(Refusal):
        sessions.get(films[1].id)  # the longest unused
    large = add(sessions, 85)
    assert sessions.nbytes <= 100
    assert sessions.get(large.id) is large
    sessions.grown(large, 200)  # alone it may
    assert len(sessions) == 1
    for film in (large, newest):
        film.running.add(edge.CancelToken())
    with pytest.raises(Refusal, match="try again"):
        add(sessions, 10)
    assert add(sessions, 10, large.id).id != large.id  # its own place is free


def film_of(pixels: Any, valid: Any = None, window: Voi | None = None) -> Any:
    film = edge.read_film(np.eye(64, dtype=np.uint8))
    film.pixels, film.valid, film.window = np.asarray(pixels, np.float32), valid, window
    return film


def test_grey_values_are_kept() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(-1024, 3072, (70, 80)).astype(np.float32)
    values, low, step = grey_values(film_of(pixels))
    assert values.dtype == np.dtype("<u2")
    np.testing.assert_array_equal(values * step + low, pixels)
    values, low, step = grey_values(film_of(pixels % 200))
    assert values.dtype == np.uint8
    fine = rng.random((70, 80)).astype(np.float32)
    values, low, step = grey_values(film_of(fine))
    np.testing.assert_allclose(values * step + low, fine, atol=step)
    wide = pixels * 100
    values, low, step = grey_values(film_of(wide))
    np.testing.assert_allclose(values * step + low, wide, atol=step)
    valid = np.ones(pixels.shape, bool)
    valid[:5] = False
    pixels[:5] = -30000
    values, low, step = grey_values(film_of(pixels, valid))
    assert low >= -1024
    assert not values[:5].any()
    assert not grey_values(film_of(np.full((70, 80), 7.0)))[0].any()


@pytest.mark.parametrize("mirror", [None, 4095.0])
@pytest.mark.parametrize("kind", ["LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"])
def test_the_films_window_is_shown(kind: Any, mirror: float | None) -> None:
    """What the page makes of a window is what the film asks for."""
    import json

    pixels = np.arange(4096, dtype=np.float32).reshape(64, 64)
    table = np.linspace(0, 1, 2000, dtype=np.float32) ** 2
    voi = Voi(kind, center=1800.0, width=1500.0, first=600.0, table=table, mirror=mirror)
    data = picture(film_of(pixels, None, voi), {"intensity": {"mode": "percentile"}}, {})
    meta = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    shown = meta["windows"][0]
    if "table" in shown:
        place = (pixels - meta["low"]) / (meta["high"] - meta["low"]) * (len(shown["table"]) - 1)
        grey = np.asarray(shown["table"])[np.rint(place).astype(int)] / 255
    else:
        grey = np.clip((pixels - shown["black"]) / (shown["white"] - shown["black"]), 0, 1)
    np.testing.assert_allclose(grey, voi.apply(pixels), atol=0.006)
    assert meta["low"] <= shown["black"] < shown["white"]
    beside = Voi("LINEAR", center=90_000.0, width=10.0, mirror=mirror)  # on which the page would begin all black
    data = picture(film_of(pixels, None, beside), {"intensity": {"mode": "percentile"}}, {})
    meta = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    assert [window["name"] for window in meta["windows"]] == ["Auto", "Full"]


def test_an_edited_report(engine: edge.Engine, phantom: Any) -> None:
    report = engine.report(phantom)
    own = [sentence.text for sentence in report.sentences]
    assert report.with_text(own) is report
    assert report.with_text([f"  {own[0]}\n", *own[1:], " . "]) is report
    edited = report.with_text([own[1], "Something\x1b[2J else.", *own[2:]])
    assert edited.findings.startswith(f"{own[1]} Something[2J else. ")
    assert edited.sentences[0] == report.sentences[1]
    assert edited.sentences[1].confidence is None
    assert edited.sentences[1].evidence is None
    assert edited.token_ids == ()
    assert "sentence 2 of" in edited.edited
    assert report.edited == ""
    assert report.with_text(own[:-1]).edited.startswith("Edited by hand: 1 of the model's sentences")
    assert "order" in report.with_text(own[::-1]).edited
    assert report.with_text([]).findings == ""


def test_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    from edge_bench.complete import main

    assert main(["--rounds", "2", "--threads", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["in the engine", "over HTTP", "fresh"]
    assert all("first word" in line and "n=2" in line for line in lines[1:])


def test_errors_that_are_not_ours_are_not_quoted() -> None:
    assert "SECRET" not in described(ValueError("SECRET"))["message"]
    assert described(edge.UsageError("one line"))["message"] == "one line"
