# SPDX-License-Identifier: Apache-2.0
"""Reports of several films at once are those of each film alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import chest_picture

import edge

EXAMPLE = Path(__file__).parents[2] / "examples" / "phantom.dcm"


@pytest.fixture(scope="module")
def demo() -> edge.Engine:
    return edge.load(threads=2)


@pytest.fixture(scope="module")
def films() -> list[Any]:
    """Different enough for texts of different lengths."""
    picture = chest_picture()
    return [EXAMPLE, picture, picture[:, ::-1].copy(), (picture // 2).astype(picture.dtype), picture[::-1].copy()]


def same(one: edge.Report, other: edge.Report) -> None:
    for name in (
        "findings",
        "token_ids",
        "logprobs",
        "sentences",
        "stop_reason",
        "warnings",
        "model",
        "input",
        "cache",
    ):
        assert getattr(one, name) == getattr(other, name), name
    if one.mask is not None:
        np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 16])
def test_same_reports_in_order(demo: edge.Engine, films: list[Any], at_once: int) -> None:
    alone = [demo.report(film) for film in films]
    assert len({report.findings for report in alone}) > 2
    made = list(demo.reports(iter(films), at_once=at_once))
    assert len(made) == len(films)
    for report, expected in zip(made, alone, strict=True):
        assert isinstance(report, edge.Report)
        same(report, expected)
    assert [r.decoding.get("texts", 1) for r in made] == {
        1: [1] * 5, 2: [2, 2, 2, 2, 1], 3: [3, 3, 3, 2, 2], 5: [5] * 5, 16: [5] * 5,
    }[at_once]  # fmt: skip
    if at_once > 1:
        assert all(
            sum(r.timings_ms[k] for k in ("vision", "first_token", "decode")) <= r.timings_ms["total"] for r in made
        )


@pytest.mark.parametrize("options", [{"draft": False}, {"prompt": "The heart"}, {"bias_rows": "none"}, {"beams": 3}])
def test_options(demo: edge.Engine, films: list[Any], options: dict[str, Any]) -> None:
    alone = [demo.report(film, max_new_tokens=40, **options) for film in films]
    for report, expected in zip(demo.reports(films, at_once=4, max_new_tokens=40, **options), alone, strict=True):
        same(report, expected)
        if "beams" in options:
            assert report.decoding.get("texts", 1) <= 16 // 3


def test_a_film_that_is_refused(demo: edge.Engine, films: list[Any], tmp_path: Path) -> None:
    """Its error stands in its place, and the others are reported all the same."""
    missing = tmp_path / "missing.dcm"
    for at_once in (1, 4):
        made = list(demo.reports([films[0], missing, films[1]], at_once=at_once))
        assert isinstance(made[1], edge.InputError)
        same(made[0], demo.report(films[0]))
        same(made[2], demo.report(films[1]))
    assert [type(r) for r in demo.reports([missing, missing], at_once=2)] == [type(made[1])] * 2
    assert list(demo.reports([])) == []


def test_open_films_are_not_disturbed(demo: edge.Engine, films: list[Any]) -> None:
    """A session whose image was in the decoder looks for it again after a group."""
    session = demo.open(films[0])
    before = session.report()
    list(demo.reports(films[1:4], at_once=3))
    after = session.report()
    assert (after.token_ids, after.logprobs) == (before.token_ids, before.logprobs)


def test_groups_come_one_by_one(demo: edge.Engine, films: list[Any]) -> None:
    """A film is not read before its group's turn, and others may report between groups."""
    taken: list[int] = []

    def source() -> Any:
        for index, film in enumerate(films):
            taken.append(index)
            yield film

    made = demo.reports(source(), at_once=2)
    first = next(made)
    assert taken == [0, 1]
    assert isinstance(first, edge.Report)
    same(demo.report(films[0]), first)
    assert len(list(made)) == 4


def test_refusals(demo: edge.Engine, films: list[Any]) -> None:
    for at_once in (0, 17, 2.0, True):
        with pytest.raises(edge.UsageError, match="1 to 16"):
            demo.reports(films, at_once=at_once)  # type: ignore[arg-type]
    with pytest.raises(edge.UsageError):
        demo.reports(films, max_new_tokens=0)


def test_cancel(demo: edge.Engine, films: list[Any]) -> None:
    from edge.decoder import cancel_token

    token = cancel_token()
    token.cancel()
    with pytest.raises(edge.Cancelled):
        list(demo.reports(films, cancel=token))
