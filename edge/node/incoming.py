# SPDX-License-Identifier: Apache-2.0
"""A film on its way in: written to disk as it arrives, so that memory does not depend on its size."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge.film.header import valid_uid
from edge.film.quiet import quiet
from edge.node.spool import FILM, QueueFull, Spool

if TYPE_CHECKING:
    from collections.abc import Callable

TOO_LARGE, OUT_OF_ROOM, DISK, BAD_UID = "too large", "out of room", "disk", "bad uid"


class Incoming(io.BytesIO):
    """The data set of one C-STORE request, in place of pynetdicom's buffer.

    Writing never fails: what goes wrong is kept in `problem`, the rest of the data set is let through to nowhere, and
    the request is answered with the reason when it has arrived.

    Parameters
    ----------
    spool : Spool
    limit : int
        Bytes; from here on the film is too large.
    describe : callable
        Gives SOP Class UID, SOP Instance UID, transfer syntax UID and the sender's AE title; called with the first
        byte, when they are known. ValueError: not a request to store.

    Attributes
    ----------
    problem : str
        Empty, or one of TOO_LARGE, OUT_OF_ROOM, DISK, BAD_UID.
    begun : float
        When the first byte came (seconds since 1970).
    """

    def __init__(self, spool: Spool, limit: int, describe: Callable[[], tuple[str, str, str, str]]) -> None:
        super().__init__()
        self._spool, self._limit = spool, limit
        self._describe: Callable[[], tuple[str, str, str, str]] | None = describe
        self._stream: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._reserved = False
        self.draft: Path | None = None
        self.size = 0
        self.problem = ""
        self.begun = 0.0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not self.begun:
            self.begun = time.time()
            self._begin()
        self.size += len(data)
        if self.size > self._limit and not self.problem:
            self._fail(TOO_LARGE)
        if self._stream is not None:
            try:
                self._stream.write(data)
                self._hash.update(data)
            except OSError:
                self._fail(DISK)
        return len(data)

    def _begin(self) -> None:
        assert self._describe is not None
        sop_class, sop_instance, syntax, sender = self._describe()
        self._describe = None  # it refers to the association, which refers to this
        try:
            meta = file_meta(sop_class, sop_instance, syntax, sender)
            self._spool.reserve()
            self._reserved = True
            self.draft = self._spool.draft()
            self._stream = open(self.draft / FILM, "xb", buffering=1 << 20)  # noqa: SIM115  # closed by seal or drop
            self._stream.write(meta)
        except ValueError:
            self._fail(BAD_UID)
        except QueueFull:
            self._fail(OUT_OF_ROOM)
        except OSError:
            self._fail(DISK)

    def _fail(self, problem: str) -> None:
        self.drop()
        self.problem = problem

    def seal(self) -> Path:
        """Sync what has arrived; the draft's folder with ``film.dcm``.

        Raises
        ------
        OSError
        """
        assert self._stream is not None
        assert self.draft is not None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        return self.draft

    @property
    def sha256(self) -> str:
        """Of the data set as it was sent."""
        return self._hash.hexdigest()

    def taken(self) -> None:
        """The draft belongs to the queue now."""
        self.draft = None

    def drop(self) -> None:
        """Let go of everything that is still held; nothing that has been taken into the queue is touched."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
        draft, self.draft = self.draft, None
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if self._reserved:
            self._reserved = False
            self._spool.release()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may be half made
            self.drop()


def file_meta(sop_class: str, sop_instance: str, syntax: str, sender: str) -> bytes:
    """Preamble and file meta information (PS3.10 section 7.1) of a film.

    Raises
    ------
    ValueError
        A UID is ill-formed.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info

    from edge.standard.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

    if not all(map(_well_formed, (sop_class, sop_instance, syntax))):
        raise ValueError("ill-formed UID")
    out = io.BytesIO()
    out.write(b"\0" * 128 + b"DICM")
    with quiet():
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_instance
        meta.TransferSyntaxUID = syntax
        meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
        meta.SourceApplicationEntityTitle = sender
        write_file_meta_info(out, meta, enforce_standard=True)
    return out.getvalue()


def _well_formed(uid: str) -> bool:
    """Whether a UID keeps every rule of PS3.5 section 9.1; in files, components that begin with 0 are let pass."""
    return valid_uid(uid) and not any(len(part) > 1 and part.startswith("0") for part in uid.split("."))
