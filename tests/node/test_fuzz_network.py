# SPDX-License-Identifier: Apache-2.0
"""What a modality sends, with bytes changed at random, cut off or repeated: the node goes on."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from node_parts import wait_for
from test_hostile import associate, closed, connect, works

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")

# Its threads end with errors now and then; the node's log has a line for each.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def _conversation(start, film: Path) -> list[bytes]:
    """The PDUs of a modality that sends a film."""
    from pydicom import dcmread

    running = start()
    association = associate(running)
    request = association.requestor.primitive
    from pynetdicom.pdu import A_ASSOCIATE_RQ

    first = A_ASSOCIATE_RQ()
    first.from_primitive(request)
    sent = [first.encode()]
    send = association.dul.socket.send
    association.dul.socket.send = lambda data: (sent.append(bytes(data)), send(data))
    assert association.send_c_store(dcmread(film)).Status == 0
    association.release()
    running.settle()
    running.close()
    for path in running.setup.out.iterdir():
        path.unlink()
    assert len(sent) >= 4
    return sent


def _damaged(pdus: list[bytes], chance: random.Random) -> bytes:
    pdus = list(pdus)
    which = chance.randrange(len(pdus))
    data = bytearray(pdus[which])
    action = chance.random()
    if action < 0.6:
        for _ in range(chance.choice((1, 1, 2, 8))):
            data[chance.randrange(min(len(data), 400))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
    elif action < 0.8:
        del data[chance.randrange(len(data)) :]
    else:
        data += data[: chance.randrange(len(data))]
    pdus[which] = bytes(data)
    if chance.random() < 0.2:
        pdus.insert(chance.randrange(len(pdus)), chance.choice(pdus))
    return b"".join(pdus)


def _fuzz(start, film: Path, rounds: int, seed: int) -> None:
    pdus = _conversation(start, film)
    running = start(node={"association_s": 1.0, "idle_s": 1.0, "max_associations": 16}, queue={"max_films": 1000})
    chance = random.Random(seed)
    for _ in range(rounds):
        threads = [threading.Thread(target=_send, args=(running, _damaged(pdus, chance))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wait_for(lambda: not running.node._server.active_associations)
    running.settle()
    assert not running.spool._reserved
    assert running.node.not_live() == ""
    works(running, film)


def _send(running, data: bytes) -> None:
    with connect(running) as peer:
        try:
            peer.sendall(data)
        except OSError:
            return
        closed(peer)


def test_damaged_conversations(start, films: list[Path]) -> None:
    _fuzz(start, films[0], 1, seed=3)


@pytest.mark.slow
def test_many_damaged_conversations(start, films: list[Path]) -> None:
    _fuzz(start, films[0], 60, seed=5)
