# SPDX-License-Identifier: Apache-2.0
"""Brings results to one receiver, however long that takes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from edge.node.log import log
from edge.node.peers.kinds import Away, Receiver, Refused
from edge.node.schedule import Schedule, back_off
from edge.node.spool import Result, Spool, moment

if TYPE_CHECKING:
    from edge.node.config import Deliver, Retry
    from edge.node.metrics import Metrics

IDLE = 2.0
"""Seconds without work after which the association to the receiver is closed."""


class Delivery:
    """The thread that serves one receiver.

    A receiver that is away holds up its results and nobody else's, and is tried again after growing waits until the
    result is older than ``give_up_hours``. A refusal is about one result: it is tried a few times, later ones go on.
    """

    def __init__(self, peer: Deliver, receiver: Receiver, retry: Retry, spool: Spool, metrics: Metrics) -> None:
        self.peer = peer
        self._receiver, self._retry, self._spool, self._metrics = receiver, retry, spool, metrics
        self._results: Schedule[Result] = Schedule()
        self._known: set[str] = set()
        self._unmarked: set[str] = set()  # delivered, but the disk did not take the mark
        self._refusals: dict[str, int] = {}
        self._away = self._troubles = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"edge-deliver-{peer.name}")

    def put(self, result: Result) -> None:
        """Deliver a result, if it is for this receiver and not known already."""
        if self.peer.name not in result.waiting():
            return
        with self._lock:
            if result.ident in self._known:
                return
            self._known.add(result.ident)
        self._results.put(result)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send nothing more after the result that is on its way."""
        self._stop.set()
        self._results.close()

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stop.is_set():
            result = self._results.take(IDLE)
            if result is None:
                self._close()
                continue
            again = self._attempt(result)
            if again is None:
                with self._lock:
                    self._known.discard(result.ident)
            else:
                self._results.put(result, again)
        self._close()

    def _attempt(self, result: Result) -> float | None:
        """:meth:`_one`, whatever happens in it."""
        try:
            try:
                again = self._one(result)
            except OSError:
                raise
            except Exception as error:  # nothing may end this thread
                self._metrics.failed("deliver", "internal")
                log.error("%s: internal error (%s) in delivery", self.peer.name, type(error).__name__)
                self._close()
                again = self._refusal(result, f"internal error ({type(error).__name__})")
            self._troubles = 0
            return again
        except OSError as error:  # the disk; what was sent is remembered in memory
            self._metrics.failed("deliver", "disk")
            log.error("%s: the disk holds up delivery: %s", self.peer.name, error.strerror or type(error).__name__)
            self._troubles += 1
            return back_off(self._troubles, self._retry.first_s, self._retry.longest_s)

    def _one(self, result: Result) -> float | None:
        """Deliver one result; ``None`` where that is settled, else the seconds after which to try again."""
        if not result.path.exists():
            return None
        began = time.time()
        if result.ident not in self._unmarked:
            files = [result.path / name for kind, name in result.job["files"].items() if kind in self.peer.objects]
            try:
                if files:
                    self._receiver.send(files)
            except Away as problem:
                return self._is_away(result, str(problem))
            except Refused as problem:
                self._metrics.failed("deliver", "refused")
                log.warning("%s refuses a result: %s", self.peer.name, problem)
                return self._refusal(result, str(problem))
            if self._away:
                log.info("%s is back", self.peer.name)
            self._away = 0
            self._unmarked.add(result.ident)
        self._spool.sent(result, self.peer.name)
        self._unmarked.discard(result.ident)
        self._refusals.pop(result.ident, None)
        now = time.time()
        self._metrics.count("delivered")
        self._metrics.observe("deliver", now - began)
        if received := moment(result.job, "received"):
            self._metrics.observe("received_to_delivered", now - received)
        return None

    def _is_away(self, result: Result, words: str) -> float | None:
        """Wait, here: what else there is to send has to wait as well."""
        self._metrics.failed("deliver", "away")
        self._close()
        if time.time() - moment(result.job, "reported", time.time()) > self._retry.give_up_hours * 3600:
            return self._give_up(result, words)
        self._away += 1
        wait = back_off(self._away, self._retry.first_s, self._retry.longest_s)
        log.warning("%s is away (%s); next try in %.0f s", self.peer.name, words, wait)
        self._stop.wait(wait)
        return 0.0

    def _refusal(self, result: Result, words: str) -> float | None:
        tries = self._refusals[result.ident] = self._refusals.get(result.ident, 0) + 1
        if tries >= self._retry.refusals:
            return self._give_up(result, words)
        return back_off(tries, self._retry.first_s, self._retry.longest_s)

    def _give_up(self, result: Result, words: str) -> float | None:
        name = self.peer.name
        grave = self._spool.bury_result(result, name, {"receiver": name, "words": words, "time": time.time()})
        self._refusals.pop(result.ident, None)
        self._metrics.count("result_given_up")
        log.error("%s: a result was given up (%s): see dead/%s", name, words, grave)
        return None

    def _close(self) -> None:
        try:
            self._receiver.close()
        except Exception as error:  # a broken association; the next send opens a new one
            log.warning("%s: closing failed (%s)", self.peer.name, type(error).__name__)


def make_receiver(peer: Deliver, ae_title: str) -> Receiver:
    """The receiver that the configuration describes."""
    if peer.kind == "dicom":
        from edge.node.peers.dicom import DicomReceiver

        return DicomReceiver(peer, ae_title)
    if peer.kind == "stow":
        from edge.node.peers.stow import StowReceiver

        return StowReceiver(peer)
    from edge.node.peers.folder import FolderReceiver

    assert peer.path is not None
    return FolderReceiver(peer.path)
