# SPDX-License-Identifier: Apache-2.0
"""DIMSE messages of one association, with limits: pynetdicom itself keeps whatever a peer sends."""

from __future__ import annotations

import io
import queue
import time
from typing import Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ, DIMSEMessage

from edge.node.incoming import Incoming
from edge.node.spool import Spool

MAX_COMMAND = 16384
"""Bytes of a command set; one of C-STORE has about 200."""
MAX_WAITING = 4
"""Requests that a peer may send ahead of our answers; one is what was negotiated."""
TOLERANCE = 4
"""So many times the largest data set are let through to nowhere for an answer's sake; then the peer is cut off."""
WAIT = 0.02
"""Seconds between looks for the end of an association that is idle."""
MAX_SECONDS = 900.0
"""For one film to arrive, so that a trickle does not keep its place for ever."""


class _Command(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MAX_COMMAND:
            raise ValueError("an endless command")
        return super().write(data)


class BoundedProvider(DIMSEServiceProvider):  # type: ignore[misc]
    """Takes C-ECHO and C-STORE requests; anything else that arrives aborts the association."""

    def __init__(self, assoc: Any, spool: Spool, limit: int) -> None:
        super().__init__(assoc)
        self._spool, self._limit = spool, limit
        self._incoming: Incoming | None = None
        self.answering = False  # set by who answers

    def busy(self) -> bool:
        """Whether a request is arriving or being answered."""
        return self.answering or self.message is not None or not self.msg_queue.empty()

    def get_msg(self, block: bool = False) -> Any:
        """The next request; pynetdicom asks a thousand times a second, so it is made to wait a little."""
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else WAIT)
        except queue.Empty:
            return None, None

    def receive_primitive(self, primitive: Any) -> None:
        """Process one P-DATA primitive; called in the thread that reads the connection."""
        try:
            self._receive(primitive)
        except Exception:  # whatever is wrong with it: an invalid message ends the association, not the thread
            self.drop()
            self.message = None
            self.dul.event_queue.put("Evt19")

    def drop(self) -> None:
        """Let go of a film that has not arrived as a whole."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.drop()

    def close(self) -> None:
        """Let go of everything: the connection has ended."""
        self.drop()
        while True:
            _, request = self.get_now()
            if request is None:
                return
            data = getattr(request, "DataSet", None)
            if isinstance(data, Incoming):
                data.drop()

    def get_now(self) -> Any:
        try:
            return self.msg_queue.get_nowait()
        except queue.Empty:
            return None, None

    def _receive(self, primitive: Any) -> None:
        message: Any = self.message
        if message is None:
            self.message = message = DIMSEMessage()
            message.encoded_command_set = _Command()
            self._incoming = Incoming(self._spool, self._limit, self._describe)
            message.data_set = self._incoming
        complete = message.decode_msg(primitive, self.assoc)
        if self._endless():
            raise ValueError("an endless data set")
        if not complete:
            return
        if type(message) not in (C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ) or self.msg_queue.qsize() >= MAX_WAITING:
            raise ValueError("not a request that was agreed on")
        request = message.message_to_primitive()
        # From here on the data set is the handler's; without a handler (an echo) there is nothing in it.
        self.message, self._incoming = None, None
        if type(message) is not C_CANCEL_RQ:
            self.msg_queue.put((message.context_id, request))

    def _endless(self) -> bool:
        incoming = self._incoming
        if incoming is None or not incoming.begun:
            return False
        return incoming.size > TOLERANCE * self._limit or time.time() - incoming.begun > MAX_SECONDS

    def _describe(self) -> tuple[str, str, str, str]:
        message: Any = self.message
        if type(message) is not C_STORE_RQ:
            raise ValueError("a data set without a request to store")
        command = message.command_set
        context = next(cx for cx in self.assoc.accepted_contexts if cx.context_id == message.context_id)
        uids = str(command.AffectedSOPClassUID), str(command.AffectedSOPInstanceUID)
        return *uids, str(context.transfer_syntax[0]), str(self.assoc.requestor.ae_title)
