# SPDX-License-Identifier: Apache-2.0
"""Open films: each known by a secret, bounded in number, bytes and time, in memory only."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge.review.limits import Limits
from edge.review.refusals import Refusal, gone

if TYPE_CHECKING:
    from edge.film import Film
    from edge.report import Report
    from edge.session import FilmSession
    from edge.standard.filmheader import FilmHeader


@dataclass(eq=False)
class Opened:
    """One film and what has been made of it.

    Attributes
    ----------
    read : Film or None
        Until the model has looked.
    header : FilmHeader or None
        Patient and study for the SR; ``None`` where the film cannot be pointed at.
    no_header : str
        Why not.
    film : FilmSession or None
        Since the model has looked.
    report : Report or None
        The last draft.
    lock : threading.Lock
        Held by whatever works on the film.
    running : set of cancel tokens
        Of what works on it or waits to.
    """

    id: str
    read: Film | None
    header: FilmHeader | None
    no_header: str
    nbytes: int
    film: FilmSession | None = None
    report: Report | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    used: float = 0.0
    running: set[Any] = field(default_factory=set)

    def close(self) -> None:
        """End what runs."""
        for token in list(self.running):
            token.cancel()


class Sessions:
    """The open films of a server. Only used on the event loop's thread, but for `Opened.lock`.

    Parameters
    ----------
    limits : Limits
    now : callable
        Seconds, monotonic.
    """

    def __init__(self, limits: Limits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._now = limits, now
        self._open: dict[str, Opened] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def nbytes(self) -> int:
        return sum(opened.nbytes for opened in self._open.values())

    def open(self, read: Film, header: FilmHeader | None, no_header: str, nbytes: int, instead_of: str = "") -> Opened:
        """Keep a film; the one it stands `instead_of` is closed, and others make room where it is needed.

        Raises
        ------
        Refusal
            Every other film is being worked on.
        """
        self.close(instead_of)
        self.expire()
        opened = Opened(secrets.token_urlsafe(24), read, header, no_header, nbytes, used=self._now())
        self._make_room(nbytes)
        self._open[opened.id] = opened
        return opened

    def get(self, session: str) -> Opened:
        """The film of a session, marked as used.

        Raises
        ------
        Refusal
            It is not open, or not any more.
        """
        self.expire()
        opened = self._open.get(session)
        if opened is None:
            raise gone()
        opened.used = self._now()
        return opened

    def close(self, session: str) -> None:
        """Forget a film; unknown ones are none of our business."""
        opened = self._open.pop(session, None)
        if opened is not None:
            opened.close()

    def expire(self) -> None:
        """Forget films that nobody has used for long."""
        for opened in list(self._open.values()):
            if not opened.running and self._now() - opened.used > self._limits.idle_seconds:
                self.close(opened.id)

    def grown(self, opened: Opened, nbytes: int) -> None:
        """The film holds so much now; older ones make room."""
        opened.nbytes = nbytes
        if opened.id in self._open:
            self._make_room(0, but=opened)

    def _make_room(self, nbytes: int, but: Opened | None = None) -> None:
        """Close the longest unused films until there is a place and room for `nbytes`."""
        limits, new = self._limits, 0 if but else 1
        while len(self) + new > limits.sessions or (
            len(self) > 1 - new and self.nbytes + nbytes > limits.session_bytes
        ):
            idle = [one for one in self._open.values() if not one.running and one is not but]
            if not idle:
                if but is not None:
                    return
                raise Refusal(503, "busy", "all films that may be open are being reported; try again in a moment")
            self.close(min(idle, key=lambda one: one.used).id)
