# SPDX-License-Identifier: Apache-2.0
"""Files are there whole or not at all, also where the process is ended while it writes one."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.cli.output import write_all, write_whole
from edge.errors import OutputError

pytestmark = pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without names are Linux's")

KILLED = """
import resource, signal, sys
from edge.cli.output import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_whole(sys.argv[1], bytes(1 << 20))
"""
"""The system ends this one in the middle of its file."""

KILLED_BETWEEN = """
import os, signal, sys
from edge.cli.output import write_whole
sys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == "os.rename" else None)
write_whole(sys.argv[1], b"never seen")
"""
"""Ended when the new file has a temporary name and not yet its own."""


@pytest.fixture(params=["unnamed", "no unnamed files", "no links"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system can do."""
    if request.param == "no unnamed files":
        monkeypatch.delattr(os, "O_TMPFILE")
    elif request.param == "no links":

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_killed_process_leaves_nothing(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "report.txt"
    if old is not None:
        path.write_bytes(old)
    done = subprocess.run([sys.executable, "-P", "-c", KILLED, path], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGXFSZ, b"")
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == ({} if old is None else {path.name: old})


@pytest.mark.parametrize("gone", [False, True])
def test_what_a_killed_process_leaves_beside_a_file_goes_with_the_next(tmp_path: Path, gone: bool) -> None:
    path, other = tmp_path / "report.txt", tmp_path / "report.txt.old"
    for file in (path, other):
        file.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-P", "-c", KILLED_BETWEEN, path], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3
    if gone:
        path.unlink()
    write_whole(str(other), b"another")  # of a name that begins alike
    write_whole(str(path), b"new")
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == {path.name: b"new", other.name: b"another"}


def test_several_replace_one_file(tmp_path: Path) -> None:
    path, failed = tmp_path / "report.txt", []
    path.write_bytes(b"old")

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                write_whole(str(path), letter * 5000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert path.read_bytes() in [letter * 5000 for letter in (b"a", b"b", b"c", b"d")]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell it")
def test_the_mask_of_the_process_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a moment: another thread could make a file then."""
    monkeypatch.delattr(os, "umask")
    write_whole(str(tmp_path / "new"), b"x")
    assert (tmp_path / "new").read_bytes() == b"x"


def test_contents_and_permissions(tmp_path: Path, way: str) -> None:
    before = os.umask(0o027)
    try:
        write_whole(str(tmp_path / "new"), b"first")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o640
    (tmp_path / "new").chmod(0o604)
    write_whole(str(tmp_path / "new"), b"second")
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o604
    (tmp_path / "link").symlink_to("new")
    write_whole(str(tmp_path / "link"), b"third")
    long = tmp_path / ("\U0001f600" * 63)  # 252 of 255 bytes
    for text in (b"a", b"b"):
        write_whole(str(long), text)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "new": b"third",
        "link": b"third",
        long.name: b"b",
    }


def test_a_folder_is_not_replaced(tmp_path: Path, way: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write_whole(str(tmp_path / "folder"), b"x")
    with pytest.raises(OutputError, match="No such file or directory: nothing was changed"):
        write_whole(str(tmp_path / "none" / "file"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_no_space(tmp_path: Path, way: str) -> None:
    """A limit of the process is told as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match="File too large: nothing was changed"):
            write_whole(str(tmp_path / "file"), bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_all_of_it_to_a_descriptor_of_any_number() -> None:
    """A pipe that does not block, and is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("no process may open so many")
    reader, low = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    writer = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
    os.close(low)
    os.set_blocking(writer, False)
    got: list[bytes] = []

    def read() -> None:
        with open(reader, "rb") as stream:
            got.append(stream.read())

    thread = threading.Thread(target=read)
    try:
        os.write(writer, bytes(1 << 20))  # as much as it takes
        thread.start()
        write_all(writer, b"x" * (1 << 20))
    finally:
        os.close(writer)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    thread.join(60)
    assert got[0].lstrip(b"\0") == b"x" * (1 << 20)
