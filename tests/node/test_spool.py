# SPDX-License-Identifier: Apache-2.0
"""The spool: what a crash or a full disk may leave behind at any single step, and limits."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edge.errors import OutputError
from edge.node import durable
from edge.node.spool import FILM, Film, QueueFull, Spool, film_key

BUNDLE = "ab" * 32
UID = "1.2.3.4"
OBJECTS = {"sr": ("SR.1.dcm", b"report"), "json": ("r.json", b"{}")}
RECEIVERS = ["pacs", "files"]


class Crash(BaseException):
    """The process ends here: nothing may catch it."""


class Life:
    """One run of a process on a spool: receive a film, report it, deliver it."""

    def __init__(self, root: Path) -> None:
        self.acknowledged = False
        self.delivered: list[tuple[str, str, bytes]] = []
        self.root = root

    def run(self, *, send: bool) -> Spool:
        self.spool = spool = Spool(self.root, BUNDLE)
        if send:
            self.receive(spool)
        for film in spool.films():
            spool.begin(film)
            spool.finish(film, OBJECTS, RECEIVERS)
        for result in spool.results():
            for name in result.waiting():
                for file in result.job["files"].values():
                    self.delivered.append((name, file, (result.path / file).read_bytes()))
                spool.sent(result, name)
            spool.end_if_complete(result)
        return spool

    def receive(self, spool: Spool) -> None:
        spool.reserve()
        draft = spool.draft()
        durable.write_synced(draft / FILM, b"film")
        spool.take(draft, film_key(UID), {"received": 1.0, "instance": UID})
        self.acknowledged = True
        spool.release()


@contextmanager
def fails_at(step: int, error: Callable[[], BaseException], when: str) -> Iterator[list[str]]:
    """The `step`-th change of the file system fails, before or after it was done; gives the changes that were seen."""
    seen: list[str] = []
    names = [(os, "rename"), (os, "fsync"), (os, "mkdir"), (os, "unlink"), (os, "link"), (shutil, "rmtree")]
    real = {(module, name): getattr(module, name) for module, name in names}

    def wrap(module: object, name: str) -> Callable[..., object]:
        function = real[module, name]

        def call(*args: object, **kwargs: object) -> object:
            seen.append(name)
            if len(seen) != step:
                return function(*args, **kwargs)
            if when == "after":
                function(*args, **kwargs)
            elif name == "rmtree":  # some of it
                for path in list(Path(str(args[0])).iterdir())[:1]:
                    path.unlink()
            raise error()

        return call

    for module, name in names:
        setattr(module, name, wrap(module, name))
    try:
        yield seen
    finally:
        for (module, name), function in real.items():
            setattr(module, name, function)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and syncing takes its time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def _steps(root: Path) -> int:
    with fails_at(-1, Crash, "before") as seen:
        Life(root).run(send=True).close()
    return len(seen)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_loses_nothing_and_delivers_the_same(tmp_path: Path, when: str, no_sync: None) -> None:
    steps = _steps(tmp_path / "count")
    assert steps > 20
    for step in range(1, steps + 1):
        root = tmp_path / f"{when}{step}"
        first, second = Life(root), Life(root)
        with fails_at(step, Crash, when), pytest.raises(Crash):
            first.run(send=True)
        first.spool.close() if hasattr(first, "spool") else None
        # The sender was told nothing, or was told and never sends again.
        second.run(send=not first.acknowledged).close()
        everything = first.delivered + second.delivered
        assert set(everything) == {(name, *OBJECTS[kind]) for name in RECEIVERS for kind in OBJECTS}, step
        assert len(everything) <= len(set(everything)) + len(OBJECTS)  # at most the one that was on its way
        third = Life(root)
        spool = third.run(send=True)  # the modality sends it again, much later
        assert third.delivered == []
        assert spool.counts() == {"films": 0, "undelivered": 0, "dead": 0}
        assert spool.known(film_key(UID)) == "reported"
        spool.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_disk_at_any_step_is_survived_by_the_process(tmp_path: Path, when: str, no_sync: None) -> None:
    def full() -> OSError:
        return OSError(errno.ENOSPC, "No space left on device")

    for step in range(1, _steps(tmp_path / "count") + 1):
        root = tmp_path / f"{when}{step}"
        life, later = Life(root), Life(root)
        with fails_at(step, full, when), suppress(OSError, OutputError):
            life.run(send=True)
        life.spool.close() if hasattr(life, "spool") else None
        later.run(send=not life.acknowledged).close()
        assert set(life.delivered + later.delivered) == {(n, *OBJECTS[k]) for n in RECEIVERS for k in OBJECTS}, step


def _film(spool: Spool, uid: str, received: float = 1.0) -> Film | None:
    draft = spool.draft()
    durable.write_synced(draft / FILM, b"film")
    return spool.take(draft, film_key(uid), {"received": received, "instance": uid})


def test_the_queue_is_bounded_also_by_what_is_arriving(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUNDLE, max_films=2)
    spool.reserve()
    assert _film(spool, "1.1") is not None
    with pytest.raises(QueueFull):
        spool.reserve()
    spool.release()
    spool.reserve()
    spool.release()
    spool.close()
    poor = Spool(tmp_path, BUNDLE, min_free=1 << 60)
    assert poor.full() == "disk"
    poor.close()


def test_films_come_in_order_and_those_that_broke_the_process_last(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUNDLE)
    films = [_film(spool, f"1.{n}", received=n) for n in (3, 1, 2)]
    assert [film.job["received"] for film in spool.films()] == [1, 2, 3]
    assert spool.begin(films[1]) == 1
    assert spool.begin(films[1]) == 2
    assert [film.job["received"] for film in spool.films()] == [2, 3, 1]
    spool.rest(films[1])
    assert [film.job["received"] for film in spool.films()] == [1, 2, 3]
    spool.close()


def test_another_bundle_reports_a_film_anew(tmp_path: Path) -> None:
    Life(tmp_path).run(send=True).close()
    spool = Spool(tmp_path, "cd" * 32)
    assert spool.known(film_key(UID)) == ""
    spool.close()


def test_what_is_given_up_can_be_put_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUNDLE)
    film = _film(spool, "1.1")
    spool.bury_film(film, {"reason": "corrupt"})
    assert spool.counts() == {"films": 0, "undelivered": 0, "dead": 1}
    assert json.loads((spool.dead / film.key / "reason.json").read_bytes())["reason"] == "corrupt"
    os.rename(spool.dead / film.key, spool.queue / film.key)
    spool.adopt()
    result = spool.finish(spool.films()[0], OBJECTS, RECEIVERS)
    spool.bury_result(result, "pacs", {"words": "refused"})
    spool.sent(result, "files")
    assert spool.counts() == {"films": 0, "undelivered": 0, "dead": 1}
    (grave,) = spool.dead.iterdir()
    os.rename(grave, spool.out / grave.name)
    spool.adopt()
    (again,) = spool.results()
    assert again.waiting() == ["pacs"]
    assert (again.path / "SR.1.dcm").read_bytes() == b"report"
    spool.sent(again, "pacs")
    assert spool.counts() == {"films": 0, "undelivered": 0, "dead": 0}
    spool.close()


def test_old_marks_are_forgotten(tmp_path: Path) -> None:
    spool = Life(tmp_path).run(send=True)
    assert spool.forget(before=0.0) == 0
    assert spool.known(film_key(UID)) == "reported"
    assert spool.forget(before=1e12) == 1
    assert spool.known(film_key(UID)) == ""
    spool.close()


def test_two_nodes_never_share_a_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path, BUNDLE)
    with pytest.raises(OutputError, match="another"):
        Spool(tmp_path, BUNDLE)
    spool.close()
    Spool(tmp_path, BUNDLE).close()


def test_for_its_owner_only_whatever_the_mask_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask itself stays as it is: other threads make files, too."""
    before = os.umask(0)
    try:
        with monkeypatch.context() as only:
            only.delattr(os, "umask")
            Spool(tmp_path / "far" / "away", BUNDLE).close()
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes.pop("far/away/lock") == 0o600
    assert {"far", "far/away", "far/away/queue"} < set(modes)
    assert set(modes.values()) == {0o700}
