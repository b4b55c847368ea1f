# SPDX-License-Identifier: Apache-2.0
"""TensorRT plans in the user's cache.

A plan is executable code for one GPU and one version of TensorRT. So it is built here and nowhere else: never taken
from a bundle, never from a folder or a file that somebody else could have written, and only where everything that it
was built for is what is here now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edge.errors import DeviceError

MAGIC = b"edge-report plan 1\n"
_MOST_KEY_BYTES = 1 << 16


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/edge-report/tensorrt``, usually below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "edge-report" / "tensorrt"


class PlanCache:
    """Plans by what they were built for.

    Parameters
    ----------
    folder : Path, optional
        Made with access for this user alone.

    Raises
    ------
    DeviceError
        The folder cannot be made, or others may write into it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = os.lstat(self.folder)
        except OSError as error:
            raise DeviceError(f"the folder for TensorRT plans cannot be made ({error.strerror})") from None
        if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
            raise DeviceError(
                "the folder for TensorRT plans is not this user's alone: chmod 700 it, or set XDG_CACHE_HOME"
            )

    def path(self, key: Mapping[str, str]) -> Path:
        return self.folder / f"{hashlib.sha256(_encoded(key)).hexdigest()}.plan"

    def get(self, key: Mapping[str, str]) -> bytes | None:
        """The plan for exactly this key; None where there is none, or none that can be trusted."""
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
                return None
            head = MAGIC + _encoded(key) + b"\n"
            if len(head) > _MOST_KEY_BYTES or stream.read(len(head)) != head:
                return None
            digest, plan = stream.read(32), stream.read()
        return plan if plan and hashlib.sha256(plan).digest() == digest else None

    def put(self, key: Mapping[str, str], plan: bytes) -> bool:
        """Keep a plan, whole or not at all; False where the disk does not take it."""
        head = MAGIC + _encoded(key) + b"\n" + hashlib.sha256(plan).digest()
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


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _encoded(key: Mapping[str, str]) -> bytes:
    return json.dumps(dict(key), sort_keys=True, ensure_ascii=True).encode()
