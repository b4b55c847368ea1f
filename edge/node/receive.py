# SPDX-License-Identifier: Apache-2.0
"""What the node answers to C-STORE and C-ECHO (PS3.4 section B.2.3, PS3.7 annex C)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError
from edge.node.incoming import BAD_UID, DISK, OUT_OF_ROOM, TOO_LARGE, Incoming
from edge.node.log import log
from edge.node.spool import FILM, Film, Spool, film_key

if TYPE_CHECKING:
    from pathlib import Path

    from edge.node.metrics import Metrics

SUCCESS = 0x0000
INVALID_INSTANCE = 0x0117
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
LARGER_THAN_TAKEN = 0xC001

_ANSWERS = {
    TOO_LARGE: (LARGER_THAN_TAKEN, "larger than this node takes"),
    OUT_OF_ROOM: (OUT_OF_RESOURCES, "no room now; send it again later"),
    DISK: (OUT_OF_RESOURCES, "cannot be stored now; send it again later"),
    BAD_UID: (INVALID_INSTANCE, "ill-formed UID"),
}

_REJECTIONS = {
    (1, 3): "its AE title is not among [node] modalities",
    (1, 7): "it calls another AE title than [node] ae_title",
    (2, 1): "what it asks for is not DICOM's upper layer, version 1",
    (3, 2): "as many associations as [node] max_associations are open",
}
"""Source and diagnostic of a rejection (PS3.8 table 9-21)."""

_NO_REQUEST = ("Sta2", "Sta13")
"""States of PS3.8 section 9.2 in which a connection without a request is: waiting for it, or for its end after what
was none."""


class Receiver:
    """Handlers of the node's associations.

    Parameters
    ----------
    spool, metrics
    arrived : callable
        Told of each film that was taken.
    """

    def __init__(self, spool: Spool, metrics: Metrics, arrived: Callable[[Film], None]) -> None:
        self._spool, self._metrics, self._arrived = spool, metrics, arrived

    def handlers(self) -> list[Any]:
        """For pynetdicom."""
        from pynetdicom import evt

        return [
            (evt.EVT_C_STORE, self.on_store),
            (evt.EVT_C_ECHO, self.on_echo),
            (evt.EVT_ACCEPTED, self.on_accepted),
            (evt.EVT_REJECTED, self.on_rejected),
            (evt.EVT_ABORTED, self.on_aborted),
            (evt.EVT_CONN_CLOSE, self.on_closed),
        ]

    def on_echo(self, _event: Any) -> int:
        self._metrics.count("echo")
        return SUCCESS

    def on_store(self, event: Any) -> Any:
        """Answer when the film is safe, or why it is not taken."""
        incoming = event.request.DataSet
        event.assoc.dimse.answering = True
        try:
            status, words = self._store(event, incoming)
        except OSError:
            status, words = _ANSWERS[DISK]
        except Exception as error:  # the association must get an answer
            log.error("a film could not be taken: %s", type(error).__name__)
            status, words = OUT_OF_RESOURCES, "internal error"
        finally:
            if isinstance(incoming, Incoming):
                incoming.drop()
            event.assoc.dimse.answering = False
        sender = event.assoc.requestor.ae_title
        if status == SUCCESS:
            self._metrics.observe("receive", time.time() - incoming.begun)
            return SUCCESS
        self._metrics.refused(f"0x{status:04X}")
        log.warning("film of %s refused with 0x%04X: %s", sender, status, words)
        return _with_comment(status, words)

    def _store(self, event: Any, incoming: Any) -> tuple[int, str]:
        if not isinstance(incoming, Incoming) or not incoming.size:
            return CANNOT_UNDERSTAND, "no data set"
        if incoming.problem:
            return _ANSWERS[incoming.problem]
        sop_class = str(event.request.AffectedSOPClassUID)
        instance = str(event.request.AffectedSOPInstanceUID)
        if sop_class != str(event.context.abstract_syntax):
            return DOES_NOT_MATCH, "another SOP class than was agreed on"
        draft = incoming.seal()
        found = _identity(draft / FILM)
        if found is None or not all(found):
            return CANNOT_UNDERSTAND, "the data set cannot be read"
        if found != (sop_class, instance):
            return DOES_NOT_MATCH, "the data set is another object than the request says"
        key = film_key(instance)
        job = {
            "instance": instance,
            "received": incoming.begun,
            "sender": str(event.assoc.requestor.ae_title),
            "sha256": incoming.sha256,
            "bytes": incoming.size,
        }
        film = self._spool.take(draft, key, job)
        if film is None:
            self._metrics.count("duplicate")
            log.info("a film of %s came again: it was taken before, and is reported once", job["sender"])
            return SUCCESS, "known already"
        incoming.taken()
        self._metrics.count("received")
        self._arrived(film)
        return SUCCESS, ""

    def on_accepted(self, event: Any) -> None:
        self._metrics.count("association")

    def on_rejected(self, event: Any) -> None:
        self._metrics.refused("association")
        requestor, answer = event.assoc.requestor, event.assoc.acceptor.primitive
        words = _REJECTIONS.get((answer.result_source, answer.diagnostic), "see PS3.8 section 9.3.4")
        log.warning("association of %s from %s rejected: %s", requestor.ae_title, requestor.address, words)

    def on_aborted(self, event: Any) -> None:
        self._metrics.count("aborted")

    def on_closed(self, event: Any) -> None:
        association = event.assoc
        association.dimse.close()
        if association.requestor.primitive is None and association.dul.state_machine.current_state in _NO_REQUEST:
            # pynetdicom would wait for the request all the same and hold a place, for every probe that connects and
            # closes.
            association.dul.to_user_queue.put(None)


def _identity(path: Path) -> tuple[str, str] | None:
    """SOP Class and SOP Instance UID that a film says it has; ``None`` where it cannot be read."""
    from edge.film.dicomfile import read_header
    from edge.film.source import open_film, sniff

    try:
        with open_film(path) as handle:
            kind, offset = sniff(handle.read(512))
            if kind != "dicom":
                return None
            values = read_header(handle, offset).values
        return values.uid("SOPClassUID"), values.uid("SOPInstanceUID")
    except (EdgeError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
        return None


def _with_comment(status: int, words: str) -> Any:
    """A status with Error Comment (0000,0902), which modalities show in their log."""
    from pydicom.dataset import Dataset

    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = words[:64]
    return answer
