# SPDX-License-Identifier: Apache-2.0
"""What modalities should not send, and what attackers do: an answer or an end for each, and the node goes on."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from cli_films import make_dicom
from node_parts import MODALITY, Process, Running, wait_for

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.11"


def associate(running: Running, *classes: str, calling: str = MODALITY, called: str = "EDGE") -> Any:
    from pynetdicom import AE

    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 2
    for uid in classes or (DX,):
        ae.add_requested_context(uid, ["1.2.840.10008.1.2.1"])
    return ae.associate("127.0.0.1", running.setup.port, ae_title=called)


def send(running: Running, film: Any, **titles: str) -> int | None:
    """Status of the answer to one C-STORE; ``None``: the association ended."""
    from pydicom import dcmread

    association = associate(running, **titles)
    assert association.is_established
    try:
        answer = association.send_c_store(dcmread(film) if isinstance(film, Path) else film)
        return int(answer.Status) if "Status" in answer else None
    finally:
        association.release()


def works(running: Running, film: Path) -> None:
    """The node still takes and reports a film."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    before = len(list(running.setup.out.iterdir()))
    dataset = dcmread(film)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    assert send(running, dataset) == 0
    wait_for(lambda: len(list(running.setup.out.iterdir())) == before + 1)
    wait_for(lambda: not list(running.spool.incoming.iterdir()))
    assert running.node.not_ready() == ""


def connect(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.setup.port), timeout=10)


def closed(peer: socket.socket) -> bool:
    """Whether the node ends the connection, by whatever it says last."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_unknown_titles_are_rejected(start, films: list[Path]) -> None:
    running = start()
    assert associate(running, calling="STRANGER").is_rejected
    assert associate(running, called="ANYBODY").is_rejected
    works(running, films[0])


def test_other_objects_are_refused_in_the_negotiation(start, films: list[Path]) -> None:
    running = start()
    association = associate(running, DX, SR)
    assert [context.abstract_syntax for context in association.accepted_contexts] == [DX]
    association.release()
    works(running, films[0])


ODD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"ViewPosition": "LL"}, "skipped"),
    ({"Modality": "MG"}, "skipped"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "skipped"),
    ({"PixelData": b"\1\0"}, "given up"),
    ({"StudyInstanceUID": ""}, "given up"),
)


def test_films_that_cannot_be_reported_are_ignored_or_put_aside(start, films: list[Path], tmp_path: Path) -> None:
    running = start()
    for number, (tags, _) in enumerate(ODD):
        assert send(running, make_dicom(tmp_path / f"{number}.dcm", 50 + number, **tags)) == 0
        running.settle()
    works(running, films[0])
    text = (running.spool.root / "trace.jsonl").read_text()
    outcomes = [json.loads(line)["outcome"] for line in text.splitlines()]
    assert outcomes == [*(outcome for _, outcome in ODD), "reported"]
    graves = list(running.spool.dead.iterdir())
    assert len(graves) == 2
    assert all((grave / "film.dcm").exists() for grave in graves)
    assert "SECRET" not in text + "".join((grave / "reason.json").read_text() for grave in graves)


REFUSALS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"ViewPosition": "LL"}, "a lateral view"),
    ({"BodyPartExamined": "HAND", "StudyDescription": "SECRET"}, "another body part (HAND)"),
    ({"BodyPartExamined": "SECRET PAT"}, "a body part other than the chest"),
    ({"BodyPartExamined": "", "StudyDescription": "SECRET KNEE"}, "another body part (KNEE)"),
    ({"ViewPosition": "", "SeriesDescription": "SECRET LAT"}, "speaks of a lateral or oblique view"),
    ({"Modality": "SECRET"}, "one that is no radiography"),
    ({"Modality": "MG"}, "MG (mammography)"),
    ({"PhotometricInterpretation": "SECRET"}, "a colour picture"),
)
"""Headers, and what is said of them: words of ours, and nothing that stands in the header."""


def test_what_became_of_a_film_is_told_in_log_trace_and_command(
    start, films: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge.node.cli import main

    caplog.set_level("INFO", "edge.node")
    running = start()
    uids = []
    for number, (tags, _) in enumerate(REFUSALS):
        path = make_dicom(tmp_path / f"{number}.dcm", 70 + number, **tags)
        uids.append(f"1.2.826.0.1.3680043.8.498.{70 + number}")
        assert send(running, path) == 0
        running.settle()
    assert send(running, make_dicom(tmp_path / "bad.dcm", 90, StudyInstanceUID="")) == 0
    running.settle()
    lines = [json.loads(line) for line in (running.spool.root / "trace.jsonl").read_text().splitlines()]
    said = [record.getMessage() for record in caplog.records]
    for line, (_, words) in zip(lines, REFUSALS, strict=False):
        assert words in line["words"]
        (told,) = (message for message in said if line["run"] in message)
        assert words in told
        assert MODALITY in told
    (grave,) = running.spool.dead.iterdir()
    again = [message for message in said if "tried again" in message]
    assert len(again) == 2
    assert all(MODALITY in message and f"queue/{grave.name}" in message for message in again)
    (given_up,) = (message for message in said if lines[-1]["run"] in message)
    assert lines[-1]["words"] in given_up
    everything = "".join(said) + json.dumps(lines)
    assert "SECRET" not in everything
    assert "1.2.826.0.1.3680043.8.498" not in everything

    config = str(running.setup.write())
    capsys.readouterr()
    for uid, line in zip(uids, lines, strict=False):
        assert main([config, "--find", uid]) == 0
        assert [json.loads(found) for found in capsys.readouterr().out.splitlines()] == [line]
    assert main([config, "--find", "1.2.826.0.1.3680043.8.498.90"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"dead/{grave.name}"]
    assert main([config, "--find", "1.2.3"]) == 20
    assert main([config, "--find", "SECRET"]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 2
    assert "SECRET" not in error


@pytest.mark.parametrize("uid", ["1.2.3.004", "01.2.3", "1.2..3", "1.2.SECRET"])
def test_ill_formed_uids_are_refused_in_silence(setup, films: list[Path], uid: str) -> None:
    """PS3.5 section 9.1: no component begins with 0 but 0 itself; and no warning of pydicom's quotes one."""
    from types import SimpleNamespace

    from pydicom import dcmread

    node = Process(setup, setup.write())
    try:
        node.ready()
        dataset = dcmread(films[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
            assert send(SimpleNamespace(setup=setup), dataset) == 0x0117  # type: ignore[arg-type]
        assert send(SimpleNamespace(setup=setup), films[1]) == 0  # type: ignore[arg-type]
    finally:
        assert node.terminate() == 0
    said = node.log.read_text()
    assert "ill-formed UID" in said
    assert "Warning" not in said
    assert uid not in said


def test_the_file_meta_information_is_made_in_silence(recwarn: pytest.WarningsRecorder) -> None:
    from edge.node.incoming import file_meta

    file_meta(DX, "1.2.0.3", "1.2.840.10008.1.2.1", "A TITLE THAT IS FAR TOO LONG")
    with pytest.raises(ValueError, match="ill-formed"):
        file_meta(DX, "1.2.3.004", "1.2.840.10008.1.2.1", "MOD1")
    assert not recwarn.list


def test_a_film_on_disk_with_such_a_uid_can_be_reported(tmp_path: Path) -> None:
    from edge.standard.filmheader import film_header

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make_dicom(tmp_path / "film.dcm", 3, SOPInstanceUID="1.2.3.004")
    assert film_header(path).sop_instance_uid == "1.2.3.004"


def test_a_request_that_is_about_another_object_is_refused(start, films: list[Path]) -> None:
    from pydicom import dcmread
    from pynetdicom.dimse_primitives import C_STORE

    running = start()
    association = associate(running)
    context = association.accepted_contexts[0].context_id

    def ask(sop_class: str, instance: str, data: bytes) -> int:
        from io import BytesIO

        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, instance
        request.DataSet = BytesIO(data)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return int(answer.Status)

    path = films[0]
    uid, whole = str(dcmread(path).SOPInstanceUID), path.read_bytes()
    body = whole[whole.index(struct.pack("<HH", 8, 0x16)) :]
    assert ask(DX, "1.2.3", body) == 0xA900
    assert ask("1.2.840.10008.5.1.4.1.1.1", uid, body) == 0xA900
    assert ask(DX, uid, os.urandom(5000)) == 0xC000
    association.abort()
    wait_for(lambda: not running.node._server.active_associations)
    running.settle()
    assert running.spool.counts()["dead"] == 0
    works(running, films[0])


def test_a_film_that_is_too_large_is_answered_and_a_stream_without_end_is_cut(start, films: list[Path], tmp_path: Path):
    running = start(node={"max_dataset_mb": 1})
    size = 1200
    large = make_dicom(tmp_path / "large.dcm", 60, Rows=size, Columns=size, PixelData=bytes(size * size))
    assert send(running, large) == 0xC001
    size = 2400
    endless = make_dicom(tmp_path / "endless.dcm", 61, Rows=size, Columns=size, PixelData=bytes(size * size))
    assert send(running, endless) is None
    works(running, films[0])


def test_without_room_the_answer_is_out_of_resources(start, films: list[Path]) -> None:
    running = start(queue={"max_films": 2, "min_free_mb": 1})
    running.spool.reserve()
    running.spool.reserve()
    assert send(running, films[0]) == 0xA700
    assert "queue" in running.node.not_ready()
    running.spool.release()
    running.spool.release()
    running.spool._limits = (2, 10, 1 << 60)  # a disk that is nearly full
    assert send(running, films[0]) == 0xA700
    running.spool._limits = (2, 10, 0)
    works(running, films[0])


def test_a_disk_that_takes_nothing_is_out_of_resources(start, films: list[Path], monkeypatch) -> None:
    running = start()

    def full(self: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(running.spool), "draft", full)
    assert send(running, films[0]) == 0xA700
    monkeypatch.undo()
    works(running, films[0])


JUNK = (
    b"GET / HTTP/1.0\r\n\r\n",
    b"\x01\x00\xff\xff\xff\xff" + b"A" * 1000,
    b"\x01\x00" + struct.pack(">L", 200) + bytes(range(200)),
    b"\x04\x00" + struct.pack(">L", 6) + b"\0\0\0\2\1\3",
    b"\x07\x00\x00\x00\x00\x04\0\0\0\0",
    b"\x63" * 64,
)


def test_garbage_ends_the_connection(start, films: list[Path]) -> None:
    running = start(node={"association_s": 1.0, "idle_s": 1.0})
    peers = [connect(running) for _ in JUNK]
    for peer, junk in zip(peers, JUNK, strict=True):
        peer.sendall(junk)
    assert all(map(closed, peers))
    works(running, films[0])


PDVS = (
    b"\x03" + bytes(range(64)),  # a command that is none
    b"\x01" + bytes(8000),  # the beginning of one without end, again and again
    b"\x00" + bytes(1000),  # a data set without a command
)


def test_garbage_inside_an_association_ends_it(start, films: list[Path]) -> None:
    running = start()
    for pdv in PDVS:
        association = associate(running)
        raw = association.dul.socket.socket
        item = struct.pack(">L", len(pdv) + 1) + b"\x01" + pdv
        data = b"\x04\x00" + struct.pack(">L", len(item)) + item
        with pytest.raises(OSError):  # noqa: PT012  # the node stops listening at some point
            for _ in range(2000):
                raw.sendall(data)
                time.sleep(0.002)
                if not association.is_established:
                    raise OSError
        association.kill()
    works(running, films[0])


def test_peers_that_say_nothing_are_let_go(start, films: list[Path]) -> None:
    running = start(node={"association_s": 1.0, "idle_s": 1.0})
    silent, halting = connect(running), connect(running)
    halting.sendall(b"\x01\x00\x00")
    idle = associate(running)
    began = time.monotonic()
    assert closed(silent)
    assert closed(halting)
    wait_for(lambda: not running.node._server.active_associations)
    assert time.monotonic() - began < 8
    idle.kill()
    works(running, films[0])


@pytest.mark.parametrize("said", [b"", b"\x01\0", b"GET / HTTP/1.0\r\n\r\n"])
def test_peers_that_close_without_a_request_hold_no_place(start, films: list[Path], said: bytes) -> None:
    """As a monitor does that asks every second whether the port is open."""
    running = start(node={"max_associations": 2})
    for _ in range(2):
        with connect(running) as peer:
            peer.sendall(said)

    def free() -> bool:
        association = associate(running)
        taken = association.is_established
        association.release() if taken else association.kill()
        return bool(taken)

    wait_for(free, 5)  # a request is waited for three times as long
    wait_for(lambda: not running.node._server.active_associations)
    works(running, films[0])


def test_a_rejection_says_why_in_the_log(
    start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the commands that were tested before it have left.
    monkeypatch.setattr(logging.getLogger("edge"), "propagate", True)
    caplog.set_level(logging.INFO, "edge")
    running = start(node={"max_associations": 1})
    for titles, word in (({"calling": "STRANGER"}, "modalities"), ({"called": "ANYBODY"}, "ae_title")):
        assert associate(running, **titles).is_rejected
        wait_for(lambda word=word: any("rejected" in m and word in m for m in caplog.messages), 5)
        wait_for(lambda: not running.node._server.active_associations)
    held = associate(running)
    assert associate(running).is_rejected
    wait_for(lambda: any("max_associations" in m for m in caplog.messages), 5)
    held.release()


def test_a_flood_of_connections_is_bounded_and_passes(start, films: list[Path]) -> None:
    running = start(node={"max_associations": 2, "association_s": 2.0, "idle_s": 5.0})
    held = [associate(running), associate(running)]
    assert all(association.is_established for association in held)
    assert associate(running).is_rejected  # properly: the limit of associations
    threads = threading.active_count()
    peers = []
    for _ in range(100):
        try:
            peers.append(connect(running))
        except OSError:
            break
    time.sleep(0.3)
    assert threading.active_count() - threads < 50
    for peer in peers:
        peer.close()
    for association in held:
        association.release()
    wait_for(lambda: not running.node._server.active_associations)
    works(running, films[0])


def test_an_association_that_breaks_in_mid_film_leaves_nothing(start, films: list[Path], tmp_path: Path) -> None:
    from pydicom import dcmread

    running = start()
    association = associate(running)
    raw, raw_send = association.dul.socket.socket, association.dul.socket.send
    sent: list[int] = []

    def broken(data: bytes) -> None:
        sent.append(len(data))
        if len(sent) == 3:  # the command, some of the film, and then no more
            raw.shutdown(socket.SHUT_RDWR)
        raw_send(data)

    association.dul.socket.send = broken
    large = make_dicom(tmp_path / "large.dcm", 62, Rows=1000, Columns=1000, PixelData=bytes(1000000))
    assert "Status" not in association.send_c_store(dcmread(large))
    assert len(sent) >= 3
    wait_for(lambda: not list(running.spool.incoming.iterdir()) and not running.spool._reserved)
    assert running.spool.counts()["films"] == 0
    works(running, films[0])


def test_the_same_film_over_two_associations_at_once_is_one(start, films: list[Path]) -> None:
    running = start()
    answers: list[int | None] = []
    threads = [threading.Thread(target=lambda: answers.append(send(running, films[1]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 6
    running.settle()
    assert len(list(running.setup.out.iterdir())) == 1
    assert not running.spool._reserved


def test_a_film_that_ends_the_process_again_and_again_is_put_aside(start, films: list[Path]) -> None:
    running = start()
    running.node.worker.stop()
    assert send(running, films[0]) == 0
    (film,) = running.spool.films()
    for _ in range(10):
        running.spool.begin(film)
    running.close()
    again = start()
    wait_for(lambda: again.spool.counts() == {"films": 0, "undelivered": 0, "dead": 1})
    assert "10 times" in (again.spool.dead / film.key / "reason.json").read_text()
    works(again, films[0])


def test_only_the_configured_networks_may_connect(start) -> None:
    running = start(node={"networks": ["10.1.0.0/16"]})
    with connect(running) as peer:
        assert closed(peer)
    assert not running.node._server.active_associations
