# SPDX-License-Identifier: Apache-2.0
"""A spool where no file can have a second name (FAT, exFAT, many a network share), or where files cannot be locked."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from test_spool import BUNDLE, OBJECTS, RECEIVERS, Crash, _film, fails_at

from edge.errors import OutputError
from edge.node.spool import JOB, REASON, Result, Spool
from edge.node.trace import Trace, read_key


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def no_links(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Linux says EPERM on FAT and exFAT, EOPNOTSUPP on CIFS, ENOSYS on what FUSE serves."""

    def link(*_: object, **__: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


def _result(root: Path) -> tuple[Spool, Result]:
    spool = Spool(root, BUNDLE)
    film = _film(spool, "1.1")
    assert film is not None
    result = spool.finish(film, OBJECTS, RECEIVERS)
    assert result is not None
    return spool, result


def _whole(folder: Path) -> bool:
    job = json.loads((folder / JOB).read_bytes())
    return all((folder / name).read_bytes() == data for name, data in OBJECTS.values()) and bool(job["receivers"])


def test_a_result_is_given_up_and_put_back(tmp_path: Path, no_links: None) -> None:
    spool, result = _result(tmp_path)
    name = spool.bury_result(result, "pacs", {"words": "refused"})
    assert _whole(spool.dead / name)
    assert json.loads((spool.dead / name / REASON).read_bytes()) == {"words": "refused"}
    spool.sent(result, "files")
    os.rename(spool.dead / name, spool.out / name)
    spool.adopt()
    (again,) = spool.results()
    assert again.waiting() == ["pacs"]
    assert _whole(again.path)
    spool.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_of_it_loses_nothing(
    tmp_path: Path, when: str, no_links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    spool, result = _result(tmp_path / "count")
    with fails_at(-1, Crash, when) as seen:
        spool.bury_result(result, "pacs", {})
    spool.close()
    assert len(seen) > 5
    for step in range(1, len(seen) + 1):
        spool, result = _result(tmp_path / f"{when}{step}")
        with fails_at(step, Crash, when), suppress(Crash):  # what fails by itself has no "after"
            spool.bury_result(result, "pacs", {})
        spool.close()
        spool = Spool(spool.root, BUNDLE)
        (waits,) = spool.results()  # for the other receiver at least
        graves = list(spool.dead.iterdir())
        assert graves or "pacs" in waits.waiting(), step
        assert all(map(_whole, [waits.path, *graves])), step
        assert not list(spool.incoming.iterdir())
        if "pacs" in waits.waiting():
            spool.bury_result(waits, "pacs", {})
        assert [_whole(path) for path in spool.dead.iterdir()] == [True]
        spool.close()


def test_a_disk_that_is_full_leaves_nothing_half_written(
    tmp_path: Path, no_links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy takes room; there is none."""
    spool, result = _result(tmp_path)
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space left"):
        spool.bury_result(result, "pacs", {})
    assert result.waiting() == RECEIVERS
    assert not list(spool.incoming.iterdir())
    assert not list(spool.dead.iterdir())
    monkeypatch.undo()
    spool.bury_result(result, "pacs", {})
    assert result.waiting() == ["files"]
    spool.close()


def _full(_handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_key_of_the_trace(tmp_path: Path, no_links: None) -> None:
    key = tmp_path / "trace.key"
    traces = [Trace(tmp_path / "t.jsonl", key, max_bytes=1000, keep=2, bundle=BUNDLE) for _ in range(2)]
    assert len(read_key(key)) == 32
    assert traces[0].name_of("1.2") == traces[1].name_of("1.2")
    assert list(tmp_path.iterdir()) == [key]


def test_where_files_cannot_be_locked_no_other_node_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match=r"cannot be locked here.*disk of this machine") as caught:
        Spool(tmp_path, BUNDLE)
    assert "another" not in str(caught.value)
