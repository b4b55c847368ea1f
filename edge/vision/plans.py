# SPDX-License-Identifier: Apache-2.0
"""What runtimes have made of vision graphs, in the user's cache: plans of TensorRT, compiled graphs of OpenVINO.

A plan is executable code for one GPU and one version of TensorRT, and OpenVINO trusts what it compiled itself. So both
are made here and nowhere else: never taken from a bundle, never from a folder or a file that somebody else could have
written, and only where everything that they were made for is what is here now. csrc/capi/kept_files.h is its twin.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from edge.errors import DeviceError

MAGIC = b"edge-report plan 2\n"
_MOST_KEY_BYTES = 1 << 16
_DIGEST, _PREFIX = 32, 16
_ALIGNED = 4096
"""Where a plan begins in its file is a multiple of this: weights in it lie as they did in memory."""
_LONG_AGO = 3600.0
"""Seconds. A file that is older and still not whole was left by a process that ended, as when the power went."""


def default_folder(name: str = "tensorrt") -> Path:
    """``$XDG_CACHE_HOME/edge-report/NAME``, usually below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "edge-report" / name


def has_plan(folder: Path, graph: str) -> bool:
    """Whether there seems to be a plan of a graph, for whatever; `graph` is the SHA-256 of its file."""
    with contextlib.suppress(OSError):
        return any(name.startswith(f"{graph[:_PREFIX]}-") and name.endswith(".plan") for name in os.listdir(folder))
    return False


class PlanCache:
    """Plans by what they were built for.

    Parameters
    ----------
    folder : Path, optional
        Made with access for this user alone.
    what : str
        What is kept there, for messages.

    Raises
    ------
    DeviceError
        The folder cannot be made, or others may write into it.
    """

    def __init__(self, folder: Path | None = None, what: str = "TensorRT plans") -> None:
        self.folder = folder or default_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = os.lstat(self.folder)
        except OSError as error:
            raise DeviceError(f"the folder for {what} cannot be made ({error.strerror})") from None
        if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
            raise DeviceError(f"the folder for {what} is not this user's alone: chmod 700 it, or set XDG_CACHE_HOME")

    def path(self, key: Mapping[str, str]) -> Path:
        """Begins with the graph's hash, so that a graph's plans are found without knowing for what they were made."""
        return self.folder / f"{key['graph'][:_PREFIX]}-{hashlib.sha256(_encoded(key)).hexdigest()}.plan"

    def get(self, key: Mapping[str, str]) -> memoryview | None:
        """The plan for exactly this key, mapped from its file read-only; None where there is none that can be trusted.

        Its ``obj`` is the mapping (``mmap.mmap``).
        """
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
                return None
            head = _head(key)
            if len(head) > _MOST_KEY_BYTES or stream.read(len(head)) != head:
                return None
            digest, begin = stream.read(_DIGEST), stream.tell()
            if found.st_size <= begin:
                return None
            try:
                plan = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))[begin:]
            except (OSError, ValueError):
                return None
        return plan if hashlib.sha256(plan).digest() == digest else None

    def put(self, key: Mapping[str, str], plan: bytes | memoryview) -> bool:
        """Keep a plan, whole or not at all; False where the disk does not take it."""
        head = _head(key) + hashlib.sha256(plan).digest()
        try:
            descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=self.folder)
        except OSError:
            return False
        try:
            with open(descriptor, "wb") as stream:  # mkstemp: readable and writable for this user alone
                stream.write(head)
                stream.write(plan)
                stream.flush()
                os.fsync(descriptor)
            os.replace(name, self.path(key))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            return False
        return True

    def drop(self, key: Mapping[str, str]) -> None:
        """Remove a plan."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def drop_oldest(self, but: int) -> None:
        """Remove all plans but so many that were made last, and what was left half written long ago."""
        with contextlib.suppress(OSError):
            made = sorted(self.folder.glob("*.plan"), key=lambda path: path.stat().st_mtime_ns)
            for path in made[: max(len(made) - but, 0)]:
                path.unlink()
            for path in self.folder.glob(".*.partial"):
                if path.stat().st_mtime < time.time() - _LONG_AGO:
                    path.unlink()


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _head(key: Mapping[str, str]) -> bytes:
    """What stands before the plan's digest."""
    head = MAGIC + _encoded(key)
    return head + b"\n" * (-(len(head) + _DIGEST) % _ALIGNED)


def _encoded(key: Mapping[str, str]) -> bytes:
    return json.dumps(dict(key), sort_keys=True, ensure_ascii=True).encode()
