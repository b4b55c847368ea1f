# SPDX-License-Identifier: Apache-2.0
"""Nodes, senders and receivers for the tests; DCMTK's where it is installed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_TOOLS = ("storescu", "storescp", "echoscu")
needs_dcmtk = pytest.mark.skipif(
    not all(map(shutil.which, _TOOLS)), reason="DCMTK (storescu, storescp, echoscu) is not installed"
)
MODALITY = "MOD1"


def free_port() -> int:
    """A port to listen on, below those that the system gives to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


class Setup:
    """Makes configurations: tables as TOML knows them, and files."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, bundle
        self.port, self.health = free_port(), free_port()
        self.spool, self.out = folder / "spool", folder / "out"
        self.out.mkdir(exist_ok=True)

    def tables(self, **changes: Any) -> dict[str, Any]:
        """A working configuration; `changes` update its tables, ``deliver`` replaces the receivers."""
        tables: dict[str, Any] = {
            "node": {"modalities": [MODALITY], "host": "127.0.0.1", "port": self.port, "spool": str(self.spool)},
            "queue": {"min_free_mb": 1},
            "report": {"bundle": str(self.bundle), "device": "cpu", "threads": 1},
            "retry": {"first_s": 0.05, "longest_s": 0.2},
            "health": {"port": self.health},
            "deliver": [{"name": "files", "kind": "folder", "path": str(self.out)}],
        }
        for name, table in changes.items():
            tables[name] = table if isinstance(table, list) else {**tables.get(name, {}), **table}
        return tables

    def to_pacs(self, port: int, **changes: Any) -> dict[str, Any]:
        return {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": port, "ae_title": "PACS", **changes}

    def write(self, **changes: Any) -> Path:
        path = self.folder / "node.toml"
        path.write_text(to_toml(self.tables(**changes)))
        return path

    def get(self, page: str) -> tuple[int, str]:
        """A page of the health endpoint; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}{page}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The value of one line of the metrics; 0 where it is not there."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return 0.0


def to_toml(tables: dict[str, Any]) -> str:
    import json

    lines = []
    for name, table in tables.items():
        for part in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            for key, value in part.items():
                if isinstance(value, dict):
                    inner = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
                    lines.append(f"{key} = {{ {inner} }}")
                else:
                    lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


class Running:
    """A node in threads of this process."""

    def __init__(self, setup: Setup, changes: dict[str, Any]) -> None:
        from edge.node.configfile import parse_config
        from edge.node.log import silence
        from edge.node.node import Node

        silence()
        self.setup = setup
        self.node = Node(parse_config(setup.tables(**changes), setup.folder))
        try:
            self.node.start()
        except BaseException:
            self.node.close()  # its threads would keep the tests from ending
            raise
        self._thread = threading.Thread(target=self.node.serve)
        self._thread.start()
        self._open = True

    @property
    def spool(self) -> Any:
        return self.node.spool

    def close(self) -> bool:
        if not self._open:
            return True
        self._open = False
        self.node.stop()
        self._thread.join()
        return self.node.close()

    def idle(self) -> bool:
        counts = self.spool.counts()
        return not counts["films"] and not counts["undelivered"]

    def settle(self) -> None:
        """Wait until everything has been reported and delivered."""
        wait_for(self.idle)


class Process:
    """A node as a process of its own, as a hospital runs it."""

    def __init__(self, setup: Setup, config: Path) -> None:
        self.setup = setup
        self.log = setup.folder / "node.log"
        command = [sys.executable, "-P", "-m", "edge.node.cli", str(config)]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
            )

    def ready(self) -> None:
        wait_for(lambda: self.setup.get("/ready")[0] == 200 or self._process.poll() is not None, 60)
        assert self._process.poll() is None, self.log.read_text()[-2000:]

    def kill(self) -> None:
        """SIGKILL, to the node and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> int:
        self._process.terminate()
        return self._process.wait(60)


class Pacs:
    """DCMTK's storescp."""

    def __init__(self, folder: Path, options: tuple[str, ...] = (), port: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.port = folder, port or free_port()
        command = ["storescp", "-aet", "PACS", "-od", str(folder), *options, str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def objects(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def storescu(port: int, *films: Path | str, calling: str = MODALITY, called: str = "EDGE") -> Any:
    """DCMTK's storescu; the finished process."""
    command = ["storescu", "-v", "-aet", calling, "-aec", called, "-to", "5", "127.0.0.1", str(port), *map(str, films)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def reported_films(objects: list[Path]) -> list[str]:
    """SOP Instance UIDs of the films that the reports in these files are about."""
    from pydicom import dcmread

    found = []
    for path in objects:
        evidence = dcmread(path, force=True).CurrentRequestedProcedureEvidenceSequence[0]
        found.append(str(evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
    return found
