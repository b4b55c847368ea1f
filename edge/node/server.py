# SPDX-License-Identifier: Apache-2.0
"""The listening socket: who may connect, how many, and how long anything may take.

pynetdicom accepts every connection, lets a TLS handshake hold up all others, and waits for ever for the rest of a PDU
of any length that a peer announces; here each of these is bounded.
"""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from edge.node.log import log
from edge.node.provider import BoundedProvider
from edge.node.states import end_quietly

if TYPE_CHECKING:
    from edge.node.config import Listen
    from edge.node.metrics import Metrics
    from edge.node.spool import Spool

MAX_REQUEST = 262144
"""Bytes of an A-ASSOCIATE-RQ; the largest that makes sense has 128 contexts of a few hundred bytes."""
SPARE = 8
"""Connections beyond the limit of associations that are still answered with a proper rejection."""
_SLACK = 64
WAIT = 0.02
"""Seconds that a look at an idle connection may take."""


class BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads one connection: no PDU longer than was negotiated, none slower than the deadline."""

    def __init__(self, assoc: Any, client: socket.socket, max_pdu: int, deadline: float) -> None:
        super().__init__(assoc, client_socket=client)
        self._longest, self._deadline = max_pdu + _SLACK, deadline

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits for it a little.

        pynetdicom asks a thousand times a second, for every association. What arrives does not wait for this.
        """
        sock = self.socket
        if sock is None or not self._is_connected:
            return False
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        idle = self.assoc.is_established and self.event_queue.empty() and not self.assoc.dimse.busy()
        try:
            return bool(select.select([sock], [], [], WAIT if idle else 0.0)[0])
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # the connection is closed
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, fewer where the peer closes.

        Raises
        ------
        OSError
            The peer announced too much, or took too long: the connection ends.
        """
        longest = self._longest if self.assoc.is_established else max(self._longest, MAX_REQUEST)
        if nr_bytes > longest:
            raise OSError("a PDU longer than negotiated")
        data = bytearray(nr_bytes)
        view, have, end = memoryview(data), 0, time.monotonic() + self._deadline
        sock = self.socket
        while have < nr_bytes:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("too slow")
            sock.settimeout(left)
            count = sock.recv_into(view[have:])
            if not count:
                break
            have += count
        sock.settimeout(self._deadline)
        view.release()
        del data[have:]
        return data


class Handler(RequestHandler):  # type: ignore[misc]
    """Makes the association of one connection, with our socket and our message provider."""

    def _create_association(self) -> Any:
        assoc = super()._create_association()
        server = self.server
        # Both parts are made anew: the ones made above have seen nothing yet.
        assoc.dul.event_queue.get_nowait()  # "connection open", which the new socket announces again
        assoc.dul.socket = BoundedSocket(assoc, self.request, server.settings.max_pdu, server.settings.idle_s)
        assoc.dimse = BoundedProvider(assoc, server.spool, server.settings.max_dataset_mb << 20)
        end_quietly(assoc)
        server.opened(assoc)
        return assoc


class Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts connections from the configured networks, a bounded number at a time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, ae: Any, contexts: list[Any], settings: Listen, spool: Spool, metrics: Metrics, handlers: list[Any]
    ) -> None:
        self.settings, self.spool, self.metrics = settings, spool, metrics
        self._networks = [ipaddress.ip_network(network) for network in settings.networks]
        self._mutex, self._pending = threading.Lock(), 0
        self._opened: list[Any] = []
        self._collected = time.monotonic()
        context = server_context(settings)
        super().__init__(
            ae, (settings.host, settings.port), settings.ae_title, contexts, context, handlers, request_handler=Handler
        )

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the TLS handshake waits for the connection's own thread."""
        return self.socket.accept()  # type: ignore[no-any-return]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is worth a thread."""
        address = ipaddress.ip_address(client_address[0].split("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if self._networks and not any(address in network for network in self._networks):
            self.metrics.refused("network")
            log.warning("connection from %s refused: not in the configured networks", client_address[0])
            return False
        if self._pending + len(self.active_associations) >= self.settings.max_associations + SPARE:
            self.metrics.refused("connections")
            return False
        with self._mutex:
            self._pending += 1
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(self.settings.association_s)
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.ssl_context:
                request = self.ssl_context.wrap_socket(request, server_side=True)
            self.finish_request(request, client_address)
        except (OSError, ValueError) as error:
            self.metrics.refused("handshake")
            log.warning("connection from %s failed: %s", client_address[0], type(error).__name__)
            with contextlib.suppress(OSError):
                request.close()
        finally:
            with self._mutex:
                self._pending -= 1

    def opened(self, assoc: Any) -> None:
        """Remember an association that is about to start."""
        with self._mutex:
            self._opened.append(assoc)

    def service_actions(self) -> None:
        """Let go of what ended associations held, however they ended.

        They refer to themselves, so their memory takes a collection; not at every turn, as that holds up everything.
        """
        with self._mutex:
            ended = [assoc for assoc in self._opened if assoc.ident is not None and not assoc.is_alive()]
            self._opened = [assoc for assoc in self._opened if assoc not in ended]
        for assoc in ended:
            assoc.dimse.close()
        if time.monotonic() - self._collected > 30:
            gc.collect()
            self._collected = time.monotonic()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("connection from %s failed", client_address[0])

    def shutdown(self) -> None:
        """Stop listening; associations that are open go on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


def server_context(settings: Listen) -> ssl.SSLContext | None:
    """The TLS context of the node, where it has certificates (PS3.15 section B.9: TLS 1.2 or later)."""
    if settings.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert settings.tls.cert is not None
    context.load_cert_chain(settings.tls.cert, settings.tls.key)
    if settings.tls.ca is not None:
        context.load_verify_locations(settings.tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
