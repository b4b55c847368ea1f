# SPDX-License-Identifier: Apache-2.0
"""Associations that end while one of our threads still asks something of them."""

from __future__ import annotations

import socket
import threading

import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")

from node_parts import MODALITY, Running, wait_for

ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
BEHIND = {
    "a broken message": b"\x04\0\0\0\0\x04none",
    "the end": b"\x05\0\0\0\0\x04\0\0\0\0",
    "an abort": ABORT,
}


def request(port: int) -> bytes:
    """What a modality sends to begin an association."""
    from pynetdicom import AE

    titles = AE(MODALITY)
    titles.add_requested_context("1.2.840.10008.1.1")
    sent: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                sent.append(connection.recv(65536))
                connection.sendall(ABORT)

        thread = threading.Thread(target=take)
        thread.start()
        titles.associate("127.0.0.1", server.getsockname()[1], ae_title="EDGE").kill()
        thread.join()
    return sent[0]


@pytest.mark.parametrize("name", BEHIND)
def test_a_peer_that_does_not_wait_for_our_answer(
    start: type[Running], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One thread accepts what another has just ended; neither fails, and the connection is closed."""
    failed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(str(args.exc_value)))
    running = start()
    whole = request(running.setup.port) + BEHIND[name]
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", running.setup.port), timeout=20) as peer:
            peer.sendall(whole)
            try:
                while peer.recv(65536):
                    pass
            except ConnectionError:
                pass
    wait_for(lambda: not running.node._server.active_associations)
    assert failed == []
