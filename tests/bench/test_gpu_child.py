# SPDX-License-Identifier: Apache-2.0
"""Children of a run on a GPU: what hangs is ended with all that it began, and what it had found is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edge_bench.gpu import child as child_module
from edge_bench.gpu import run, worker
from edge_bench.gpu.child import Child, none_outlives_us

HANGS = """\
import json, os, signal, subprocess, sys, time
print(json.dumps({"us_per_token": 1.0}), flush=True)
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
begun = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {begun.pid}")
time.sleep(600)
"""


def is_there(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 5
    while any(map(is_there, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_there, pids))


@pytest.mark.parametrize("deaf", [False, True])
def test_a_hang_is_ended_as_a_group(tmp_path: Path, deaf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_SECONDS", 0.3)
    pids = tmp_path / "pids"
    child = Child([sys.executable, "-c", HANGS, pids, *["deaf"] * deaf], tmp_path / "out")
    while not (pids.is_file() and pids.read_text()):
        time.sleep(0.05)
    assert child.wait(0.1) is False
    assert child.code in (-signal.SIGTERM, -signal.SIGKILL)
    assert gone([int(pid) for pid in pids.read_text().split()])
    assert child.text() == '{"us_per_token": 1.0}'


def test_what_ends_us_ends_them(tmp_path: Path) -> None:
    """A SIGTERM, from whoever runs us within a time limit."""
    script = f"""\
import sys, time
from pathlib import Path
from edge_bench.gpu.child import Child, none_outlives_us
with none_outlives_us():
    Child([sys.executable, "-c", {HANGS!r}, {str(tmp_path / "pids")!r}], Path({str(tmp_path / "out")!r})).wait(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    pids = tmp_path / "pids"
    while not (pids.is_file() and pids.read_text()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert gone([int(pid) for pid in pids.read_text().split()])


def test_nothing_else_is_ended(tmp_path: Path) -> None:
    other = Child([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "other")
    with none_outlives_us():
        Child([sys.executable, "-c", "print('done')"], tmp_path / "out").wait(20)
    assert not other.is_over()
    other.kill()


def in_place_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_what_was_found_before_a_hang_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_SECONDS", 0.3)
    lines = (
        """echo '{"us_per_token": 2.0}'; echo 'Stack:\n  File "decoder.py", line 7 in measure' >&2; exec sleep 600"""
    )
    in_place_of_python(tmp_path, monkeypatch, lines)
    found = run.ask("decoder", {}, 1.0)
    assert found == {"us_per_token": 2.0, "failed": 'no more within 1 s, in File "decoder.py", line 7 in measure'}


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("echo broken >&2; exit 3", {"failed": "exit code 3: broken"}),
        ("kill -9 $$", {"failed": "exit code -9: no message"}),
        ("echo noise; exit 0", {"failed": "it found nothing"}),
        ("""echo noise; echo '{"a": 1}'; echo '{"failed": "b"}'""", {"a": 1, "failed": "b"}),
    ],
)
def test_what_a_child_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, found: dict[str, str]) -> None:
    in_place_of_python(tmp_path, monkeypatch, lines)
    assert run.ask("decoder", {}, 20.0) == found
    assert run.ask("decoder", {}, 0.5) == {"failed": "no time was left"}


def test_the_worker_tells_where_it_hung(tmp_path: Path) -> None:
    """As a process of its own, on a signal, however deep in a library it is."""
    script = (
        "import sys, types, time, edge_bench.gpu.worker as w\n"
        "module = types.ModuleType('edge_bench.gpu.hangs')\n"
        "def measure():\n yield {'a': 1}\n time.sleep(600)\n"
        "module.measure = measure\nsys.modules['edge_bench.gpu.hangs'] = module\n"
        "sys.argv[1:] = ['hangs', '{}']\nw.main()\n"
    )
    errors = tmp_path / "errors"
    child = Child([sys.executable, "-c", script], tmp_path / "out", errors, environment=dict(os.environ))
    end = time.monotonic() + 20
    while not child.text() and time.monotonic() < end:
        time.sleep(0.05)
    assert child.wait(0) is False
    assert child.text() == '{"a": 1}'
    assert "in measure" in errors.read_text()
    assert next(iter(worker.found("no_such_module", {})))["failed"].startswith("ModuleNotFoundError")
