# SPDX-License-Identifier: Apache-2.0
"""Films prepared ahead: in order, no more than one ahead, errors in their place, and gone at once when left."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from handmade import chest_picture

import edge
from edge import prepare as module
from edge.errors import Cancelled, CannotRead
from edge.prepare import Ahead, Prepared, prepare
from edge.timing import Clock


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the films that were begun; films called "bad" cannot be read."""
    names: list[str] = []

    def fake(film: str, _image: Any, *, force: bool) -> Any:
        names.append(film)
        if film.startswith("bad"):
            raise CannotRead(film)
        return film

    monkeypatch.setattr(module, "prepare", fake)
    return names


def settle(names: list[str], count: int) -> None:
    end = time.monotonic() + 5
    while len(names) < count and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(names) == count


def test_order_and_bound(made: list[str]) -> None:
    films = ["a", "bad1", "b", "bad2", "c"]
    with Ahead(films, {}) as ahead:
        for index, film in enumerate(films):
            settle(made, index + 1)  # this one, and none behind it before it is taken
            if film.startswith("bad"):
                with pytest.raises(CannotRead, match=film):
                    ahead.take()
            else:
                assert ahead.take() == film
    assert made == films


def test_left_early(made: list[str]) -> None:
    with Ahead([str(i) for i in range(1000)], {}) as ahead:
        ahead.take()
    assert len(made) <= 3
    assert not any(thread.name == "edge-ahead" for thread in threading.enumerate())


def test_left_in_the_middle_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a worker that never answers is set free."""
    from edge.film import sandbox

    box = sandbox.Sandbox(seconds=60)
    box.warm()
    monkeypatch.setattr(sandbox, "_SHARED", box)
    seen: list[BaseException] = []
    begun = threading.Event()

    def hang(_film: str, _image: Any, *, force: bool) -> Any:
        begun.set()
        try:
            box.run({"op": "none"}, bytes(1 << 20) * 200, pixels=1 << 20)
        except BaseException as error:
            seen.append(error)
            raise

    monkeypatch.setattr(sandbox, "receive", lambda *_: time.sleep(0.2) or (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr(module, "prepare", hang)
    start = time.monotonic()
    with Ahead(["a"], {}):
        begun.wait(10)
    assert time.monotonic() - start < 10
    assert isinstance(seen[0], Cancelled)
    assert box.pid is None
    with pytest.raises(Cancelled):
        box.warm()


def test_prepared_film_gives_the_same_report(pristine: Path) -> None:
    engine = edge.load(pristine, threads=1)
    ready = prepare(chest_picture(), engine.manifest.image)
    assert isinstance(ready, Prepared)
    report, again = engine.report(ready), engine.report(chest_picture())
    assert (report.token_ids, report.findings, report.input) == (again.token_ids, again.findings, again.input)
    assert report.timings_ms["dicom"] == round(ready.laps["dicom"] * 1e3, 3)


def test_earlier_stages_count() -> None:
    clock = Clock({"dicom": 2.0})
    clock.lap("vision")
    laps = clock.finish()
    assert list(laps) == ["dicom", "vision", "total"]
    assert laps["dicom"] == 2000
    assert 2000 <= laps["total"] < 2100


@pytest.mark.parametrize(
    "call",
    [
        "import edge; edge.load(BUNDLE, threads=1)",
        "from edge.cli.report import main; assert main([FILM, '-q', '--threads', '1', '--bundle', BUNDLE]) == 0",
    ],
)
def test_numpy_is_whole_before_a_second_thread(pristine: Path, picture: Path, call: str) -> None:
    """Two threads that import NumPy at once now and then get half of it; a fresh process shows who might."""
    code = f"""
import sys, threading
BUNDLE, FILM = {str(pristine)!r}, {str(picture)!r}
started, start = set(), threading.Thread.start
def watched(thread):
    if thread.name.startswith("edge-"):
        started.add((thread.name.split("_")[0], hasattr(sys.modules.get("numpy"), "linalg")))
    start(thread)
threading.Thread.start = watched
{call}
print("threads", sorted(started))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    assert "('edge-load', True)" in line
    assert ("edge-ahead" in line) == ("main" in call)
    assert "False" not in line
