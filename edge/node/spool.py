# SPDX-License-Identifier: Apache-2.0
"""What the node has taken on, as folders that are renamed from one state to the next.

::

    incoming/           being received or written; nobody has been promised anything: emptied at start
    queue/FILM/         acknowledged, to be reported: film.dcm, job.json
    out/FILM.BUNDLE/    reported, to be delivered: the objects, job.json, sent.RECEIVER once it has them
    done/FI/FILM.BUNDLE finished: an empty file, kept for a while so that a film that comes again is known
    dead/...            given up: the film or the objects, with reason.json; for a person to look at

FILM is a hash of the SOP Instance UID, BUNDLE the beginning of the bundle's. Every step writes and syncs what is new
under ``incoming/``, renames it into its place, and only then removes what was before: after a crash anywhere either
the step has not happened, or the leftover is recognised at start. Why folders and no database: the films are files in
any case, so there is one truth and not two to be kept equal; a full disk stops a database's commit, but not a rename;
and whoever looks after the machine sees every state with ``ls`` and puts a film back with ``mv``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import OutputError
from edge.node import durable

FILM = "film.dcm"
JOB = "job.json"
REASON = "reason.json"
_BEGUN = "begun"
_FOLDERS = ("incoming", "queue", "out", "done", "dead")


class QueueFull(Exception):
    """There is no room for another film now; its text says of what."""


@dataclass(frozen=True)
class Film:
    """A film that waits to be reported."""

    key: str
    path: Path
    job: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Objects that wait to be delivered.

    Attributes
    ----------
    ident : str
    path : Path
        The folder.
    job : dict
        ``files``: kind of object to file name; ``receivers``: names; ``received``: seconds since 1970.
    """

    ident: str
    path: Path
    job: dict[str, Any]

    @property
    def film(self) -> str:
        return self.ident.split(".")[0]

    def waiting(self) -> list[str]:
        """Names of the receivers that do not have it yet."""
        return [name for name in self.job["receivers"] if not (self.path / f"sent.{name}").exists()]


def film_key(sop_instance_uid: str) -> str:
    """Name of a film in the spool; no UID of a stranger becomes a file name."""
    return hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:40]


class Spool:
    """The states on disk. Safe to use from several threads.

    Parameters
    ----------
    root : Path
        Made if missing, with access for its owner only.
    bundle : str
        SHA-256 of the bundle that reports.
    max_films, max_undelivered : int
    min_free : int
        Bytes that stay free on the disk.

    Raises
    ------
    OutputError
        It cannot be used, or another node uses it.
    """

    def __init__(
        self, root: Path, bundle: str, *, max_films: int = 500, max_undelivered: int = 10_000, min_free: int = 0
    ) -> None:
        self.root, self.bundle = root, bundle[:16]
        self.incoming, self.queue, self.out, self.done, self.dead = (root / name for name in _FOLDERS)
        self._limits = max_films, max_undelivered, min_free
        self._mutex = threading.Lock()
        self._reserved = 0
        self._films = self._results = 0
        try:
            for folder in (*reversed(root.parents), root):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(root / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
            self._lock_file = open(handle, "ab")  # noqa: SIM115  # held as long as the process lives
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(f"{root}: another edge-node uses this spool") from None
            except OSError as error:
                words = f"files cannot be locked here ({error.strerror}); the spool must be on a disk of this machine"
                raise OutputError(f"{root}: {words}") from None
            for name in _FOLDERS:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            durable.sync_folder(root)
            self._recover()
        except OSError as error:
            raise OutputError(f"{root}: {error.strerror or 'the spool cannot be used'}") from None

    def close(self) -> None:
        self._lock_file.close()

    # -- what is there ------------------------------------------------------------------------------------------------

    def films(self) -> list[Film]:
        """Films that wait, the oldest first; those that were in work when the process ended come last."""
        found = [Film(path.name, path, self._job(path)) for path in self._folders(self.queue)]
        return sorted(found, key=lambda film: (self._begun(film), moment(film.job, "received")))

    def results(self) -> list[Result]:
        """Results that wait for a receiver, the oldest first."""
        found = [Result(path.name, path, self._job(path)) for path in self._folders(self.out)]
        return sorted(found, key=lambda result: moment(result.job, "received"))

    def counts(self) -> dict[str, int]:
        """How many films wait, results wait, and things are given up."""
        return {"films": self._films, "undelivered": self._results, "dead": len(self._folders(self.dead))}

    def full(self) -> str:
        """Why no film can be taken now; empty where there is room."""
        max_films, _, min_free = self._limits
        if self._films + self._reserved >= max_films:
            return "queue"
        if min_free and shutil.disk_usage(self.root).free < min_free:
            return "disk"
        return ""

    def backed_up(self) -> bool:
        """Whether so many results wait for receivers that no more are made; then the queue fills."""
        return self._results >= self._limits[1]

    def known(self, key: str) -> str:
        """``queued`` or ``reported`` where a film is here already, else empty."""
        if (self.queue / key).exists():
            return "queued"
        return "reported" if self._reported(key) else ""

    # -- receiving ----------------------------------------------------------------------------------------------------

    def reserve(self) -> None:
        """Keep a place for a film that begins to arrive; :meth:`release` gives it back.

        Raises
        ------
        QueueFull
        """
        with self._mutex:
            if reason := self.full():
                raise QueueFull(reason)
            self._reserved += 1

    def release(self) -> None:
        with self._mutex:
            self._reserved -= 1

    def draft(self) -> Path:
        """A new folder that nobody has been promised."""
        path = self.incoming / uuid.uuid4().hex
        path.mkdir(mode=0o700)
        return path

    def take(self, draft: Path, key: str, job: Mapping[str, Any]) -> Film | None:
        """Make a draft that holds ``film.dcm``, synced, a film of the queue; ``None``: it is here already.

        When this returns, the film survives a power cut.
        """
        if self.known(key):
            durable.sync_folder(self.queue)  # another association may be about to
            return None
        durable.write_synced(draft / JOB, json.dumps(job).encode())
        durable.sync_folder(draft)
        target = self.queue / key
        if not durable.move(draft, target):
            return None
        with self._mutex:
            self._films += 1
        return Film(key, target, dict(job))

    # -- reporting ----------------------------------------------------------------------------------------------------

    def begin(self, film: Film) -> int:
        """Note that a film is being worked on; how often that began and never ended.

        A film that ends the process cannot do so for ever: the count outlives it.
        """
        with open(film.path / _BEGUN, "ab") as stream:
            stream.write(b".")
            return stream.tell()

    @staticmethod
    def _begun(film: Film) -> int:
        try:
            return (film.path / _BEGUN).stat().st_size
        except OSError:
            return 0

    def rest(self, film: Film) -> None:
        """Note that work on a film was put off, and nothing broke."""
        with contextlib.suppress(OSError):
            (film.path / _BEGUN).unlink()

    def finish(self, film: Film, objects: Mapping[str, tuple[str, bytes]], receivers: list[str]) -> Result | None:
        """Put the objects of a film where they wait for the receivers, and let the film go.

        Parameters
        ----------
        objects : mapping
            Kind of object to file name and content.
        receivers : list of str
            None: there is nothing to deliver, and the film is done.
        """
        ident = f"{film.key}.{self.bundle}"
        result = None
        if receivers and not self._is_done(ident):
            draft = self.draft()
            try:
                for name, data in objects.values():
                    durable.write_synced(draft / name, data)
                job = {**film.job, "files": {kind: name for kind, (name, _) in objects.items()}}
                job |= {"receivers": receivers, "reported": time.time()}
                durable.write_synced(draft / JOB, json.dumps(job).encode())
                durable.sync_folder(draft)
                moved = durable.move(draft, self.out / ident)
            except OSError:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            if moved:
                result = Result(ident, self.out / ident, job)
                with self._mutex:
                    self._results += 1
        else:
            self._mark_done(ident)
        self._drop_film(film)
        return result

    def bury_film(self, film: Film, reason: Mapping[str, Any]) -> None:
        """Give a film up: kept in ``dead/`` with the reason."""
        self.rest(film)
        self._bury(film.path, film.key, reason)
        with self._mutex:
            self._films -= 1

    def _drop_film(self, film: Film) -> None:
        durable.throw_away(film.path, self.incoming)
        with self._mutex:
            self._films -= 1

    # -- delivering ---------------------------------------------------------------------------------------------------

    def sent(self, result: Result, receiver: str) -> None:
        """Note that a receiver has a result; the last one ends it."""
        durable.touch(result.path / f"sent.{receiver}")
        self.end_if_complete(result)

    def end_if_complete(self, result: Result) -> None:
        """End a result that every receiver has."""
        with self._mutex:
            if not result.path.exists() or result.waiting():
                return
            self._mark_done(result.ident)
            durable.throw_away(result.path, self.incoming)
            self._results -= 1

    def bury_result(self, result: Result, receiver: str, reason: Mapping[str, Any]) -> str:
        """Give up delivering to one receiver: a copy in ``dead/`` that can be moved back into ``out/``; its name."""
        draft = self.draft()
        name = result.ident if result.ident.endswith(f"@{receiver}") else f"{result.ident}@{receiver}"
        try:
            for file in result.job["files"].values():
                durable.also_at(result.path / file, draft / file)
            job = {**result.job, "receivers": [receiver]}
            durable.write_synced(draft / JOB, json.dumps(job).encode())
            durable.sync_folder(draft)
            self._bury(draft, name, reason)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self.sent(result, receiver)
        return name

    # -- keeping house ------------------------------------------------------------------------------------------------

    def forget(self, before: float) -> int:
        """Remove marks of finished films that are older than `before` (seconds since 1970)."""
        count = 0
        for folder in self._folders(self.done):
            for path in folder.iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        count += 1
        return count

    def _recover(self) -> None:
        durable.empty(self.incoming)
        for path in self._folders(self.out):
            if self._is_done(path.name) or not (path / JOB).exists():
                durable.throw_away(path, self.incoming)
        for path in self._folders(self.queue):
            if self._reported(path.name):
                durable.throw_away(path, self.incoming)
        self._films, self._results = len(self._folders(self.queue)), len(self._folders(self.out))

    def adopt(self) -> None:
        """Count what a person has put back into ``queue/`` or ``out/``.

        A film that is being renamed this moment may be counted wrongly, until the next time.
        """
        with self._mutex:
            self._films, self._results = len(self._folders(self.queue)), len(self._folders(self.out))

    def _reported(self, key: str) -> bool:
        ident = f"{key}.{self.bundle}"
        return (self.out / ident).exists() or self._is_done(ident)

    def _mark(self, ident: str) -> Path:
        return self.done / ident[:2] / ident

    def _is_done(self, ident: str) -> bool:
        return self._mark(ident).exists()

    def _mark_done(self, ident: str) -> None:
        mark = self._mark(ident)
        if not mark.parent.exists():
            mark.parent.mkdir(mode=0o700, exist_ok=True)
            durable.sync_folder(self.done)
        durable.touch(mark)

    def _bury(self, path: Path, name: str, reason: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a film can be given up with no byte left on the disk
            (path / REASON).write_bytes(json.dumps(reason, indent=1).encode() + b"\n")
        durable.throw_away(self.dead / name, self.incoming)  # of an earlier time
        durable.move(path, self.dead / name)

    @staticmethod
    def _folders(parent: Path) -> list[Path]:
        return [path for path in parent.iterdir() if path.is_dir()]

    @staticmethod
    def _job(path: Path) -> dict[str, Any]:
        """What is noted about a film or result; a person's work on the folders may have damaged it."""
        try:
            job = json.loads((path / JOB).read_bytes())
        except (OSError, ValueError, RecursionError):
            job = None
        return job if isinstance(job, dict) else {}


def moment(job: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    """A time noted in a job, seconds since 1970; `default` where there is none."""
    value = job.get(name)
    return float(value) if isinstance(value, (int, float)) else default
