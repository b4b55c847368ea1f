# SPDX-License-Identifier: Apache-2.0
"""One JSON line per film: what was done with it, by what, and how long it took; nothing about the patient.

A film is named by a keyed hash of its SOP Instance UID. Whoever has the UID and the key (made at the first start,
readable by the node only) finds its line; without the key a list of UIDs is of no use.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.errors import InputError, OutputError
from edge.node.durable import sync_folder
from edge.node.log import log
from edge.version import __version__


class Trace:
    """Appends lines to a file, and turns it over when it is large.

    Raises
    ------
    OutputError
        The key cannot be read or made.
    """

    def __init__(self, path: Path, key_file: Path, *, max_bytes: int, keep: int, bundle: str) -> None:
        self._path, self._max, self._keep = path, max_bytes, keep
        self._key = _key(key_file)
        self._lock = threading.Lock()
        self._told = False
        self._constant = {
            "node": uuid.uuid4().hex,  # one start of the process
            "version": __version__,
            "software_sha256": software_hash(),
            "bundle_sha256": bundle,
        }

    def name_of(self, sop_instance_uid: str) -> str:
        """HMAC-SHA256 of a SOP Instance UID under this node's key."""
        return _name(self._key, sop_instance_uid)

    def write(self, outcome: str, **values: Any) -> str:
        """Add a line, and give its run. A film is more than its line: a failure is told once, and nothing else."""
        moment, run = time.time(), uuid.uuid4().hex
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03d}Z"
        entry = {"time": stamp, "run": run, "outcome": outcome, **self._constant, **values}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._turn_over(len(line))
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.write(handle, line)
                finally:
                    os.close(handle)
                self._told = False
            except OSError as error:
                if not self._told:
                    log.error("the trace cannot be written: %s", error.strerror)
                self._told = True
        return run

    def _turn_over(self, more: int) -> None:
        try:
            if not self._path.is_file() or self._path.stat().st_size + more <= self._max:
                return
        except FileNotFoundError:
            return
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")


def find(path: Path, key_file: Path, sop_instance_uid: str) -> Iterator[str]:
    """The lines about a film, the oldest first, also of files that were turned over; nothing is made or changed.

    Raises
    ------
    InputError, OutputError
        A file cannot be read; the key cannot.
    """
    try:
        if not key_file.exists():
            raise InputError(f"{key_file}: there is no key: this node has not been started yet")
        name = _name(read_key(key_file), sop_instance_uid)
        older = [old for old in path.parent.glob(f"{path.name}.*") if old.suffix[1:].isdecimal()]
        for file in (*sorted(older, key=lambda old: -int(old.suffix[1:])), path):
            if not file.exists():
                continue
            with open(file, encoding="utf-8", errors="replace") as lines:
                yield from (line.rstrip("\n") for line in lines if f'"film":"{name}"' in line)
    except OSError as error:
        raise InputError(f"{path}: the trace cannot be read: {error.strerror}") from None


def _name(key: bytes, sop_instance_uid: str) -> str:
    return hmac.new(key, sop_instance_uid.encode(), hashlib.sha256).hexdigest()


def _key(path: Path) -> bytes:
    try:
        if not path.exists():  # a full disk must not keep a node from starting that has its key
            _make_key(path)
    except OSError as error:
        raise OutputError(f"{path}: the trace key cannot be used: {error.strerror}") from None
    return read_key(path)


def read_key(path: Path) -> bytes:
    """The key that a node has.

    Raises
    ------
    OutputError
        It cannot be used.
    """
    problem = "the trace key cannot be used"
    try:
        key = path.read_bytes()
        if path.stat().st_mode & 0o077:
            # FAT and the like keep no permissions: chmod does nothing there.
            cure = "chmod 600 (a disk without permissions: mount it with umask=077)"
            raise OutputError(f"{path}: {problem}: others can read it; {cure}")
    except OSError as error:
        raise OutputError(f"{path}: {problem}: {error.strerror}") from None
    if len(key) != 32:
        raise OutputError(f"{path}: {problem}: it has not 32 bytes")
    return key


def _make_key(path: Path) -> None:
    """Write it under another name first: after a crash there is a whole key or none.

    Renamed over nothing: the spool's lock is held. Not linked: not every file system has hard links.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(secrets.token_bytes(32))
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(draft, path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def software_hash() -> str:
    """SHA-256 over the names and contents of the package's code, without bundles."""
    root = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".so", ".pyd") and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()
