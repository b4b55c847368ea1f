# SPDX-License-Identifier: Apache-2.0
"""Receivers that are away, refuse, or answer oddly; DICOM over TLS, DICOMweb, folders."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from node_parts import free_port, needs_dcmtk, reported_films, storescu, wait_for
from test_hostile import send

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")

ROOT = "1.2.826.0.1.3680043.8.498"
Answer = Callable[[int], tuple[int, bytes]]


@needs_dcmtk
def test_an_archive_that_is_away_gets_everything_when_it_is_back(start, setup, pacs, films: list[Path]) -> None:
    port = free_port()
    running = start(deliver=[setup.to_pacs(port)])
    for film in films[:3]:
        assert send(running, film) == 0
    wait_for(lambda: running.spool.counts() == {"films": 0, "undelivered": 3, "dead": 0})
    wait_for(lambda: setup.metric('edge_node_failures_total{stage="deliver",kind="away"}') >= 2)
    refusing = pacs("--refuse", port=port)
    before = setup.metric('edge_node_failures_total{stage="deliver",kind="away"}')
    wait_for(lambda: setup.metric('edge_node_failures_total{stage="deliver",kind="away"}') >= before + 2)
    refusing.close()
    archive = pacs(port=port)
    running.settle()
    assert sorted(reported_films(archive.objects())) == [f"{ROOT}.{i}" for i in (1, 2, 3)]
    assert running.spool.counts()["dead"] == 0


class Archive:
    """A pynetdicom archive that answers every object with `status`, or breaks the association instead."""

    def __init__(self, port: int, status: int | None) -> None:
        from pynetdicom import AE, evt

        self.seen: list[str] = []

        def on_store(event: Any) -> int:
            self.seen.append(str(event.request.AffectedSOPInstanceUID))
            if status is None:
                event.assoc.abort()
            return status or 0

        ae = AE("PACS")
        ae.add_supported_context("1.2.840.10008.5.1.4.1.1.88.11")
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])

    def close(self) -> None:
        for association in self._server.active_associations:
            association.abort()
        self._server.shutdown()


def test_an_archive_that_breaks_after_storing_gets_the_same_object_again(start, setup, films: list[Path]) -> None:
    archive = Archive(port := free_port(), None)
    running = start(deliver=[setup.to_pacs(port)])
    assert send(running, films[0]) == 0
    wait_for(lambda: len(archive.seen) >= 2)
    archive.close()
    again = Archive(port, 0)
    running.settle()
    again.close()
    assert len(again.seen) == 1
    assert set(archive.seen) == set(again.seen)


@pytest.mark.parametrize(("status", "outcome"), [(0xC000, "dead"), (0x0111, "sent"), (0xB000, "sent")])
def test_what_an_archive_answers_decides(
    start,
    setup,
    films: list[Path],
    status: int,
    outcome: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edge.node.cli import main

    archive = Archive(port := free_port(), status)
    try:
        folder = {"name": "files", "kind": "folder", "path": str(setup.out)}
        running = start(
            deliver=[setup.to_pacs(port), folder], retry={"first_s": 0.02, "longest_s": 0.05, "refusals": 3}
        )
        assert send(running, films[0]) == 0
        running.settle()
        assert len(list(setup.out.iterdir())) == 1  # one receiver's refusal is not the other's
        assert running.spool.counts()["dead"] == (outcome == "dead")
        assert len(archive.seen) == (3 if outcome == "dead" else 1)
        assert len(set(archive.seen)) == 1
        if outcome == "dead":
            (grave,) = running.spool.dead.iterdir()
            assert "0xC000" in (grave / "reason.json").read_text()
            assert f"see dead/{grave.name}" in caplog.text
            assert main([str(setup.write()), "--find", f"{ROOT}.1"]) == 0
            assert capsys.readouterr().out.splitlines()[1:] == [f"dead/{grave.name}"]
            archive.close()
            archive = Archive(port, 0)
            grave.rename(running.spool.out / grave.name)  # a person puts it back
            running.node.spool.adopt()
            running.node._requeue_results()
            running.settle()
            assert len(archive.seen) == 1
            assert running.spool.counts()["dead"] == 0
    finally:
        archive.close()


def test_an_archive_that_does_not_know_the_class_is_a_refusal(start, setup, films: list[Path]) -> None:
    archive = Archive(port := free_port(), 0)
    try:
        peer = setup.to_pacs(port, objects=["sr", "capture"])
        running = start(deliver=[peer], retry={"first_s": 0.02, "longest_s": 0.05, "refusals": 2})
        assert send(running, films[0]) == 0
        wait_for(lambda: running.spool.counts() == {"films": 0, "undelivered": 0, "dead": 1})
        assert set(archive.seen)  # the report itself arrived
    finally:
        archive.close()


class Web:
    """A DICOMweb server as far as STOW-RS goes."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.bodies: list[tuple[Any, bytes]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.bodies.append((self.headers, body))
                status, data = answer(len(web.bodies))
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reason(code: int) -> bytes:
    return json.dumps({"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [code]}}]}}).encode()


CASES: tuple[tuple[list[tuple[int, bytes]], str], ...] = (
    ([(200, b"{}")], "sent"),
    ([(503, b""), (401, b""), (200, b"{}")], "sent"),
    ([(409, reason(0xA700)), (202, b"{}")], "sent"),
    ([(409, reason(0x0111))], "sent"),
    ([(409, reason(0xC000))] * 2, "dead"),
    ([(409, b"<html>")] * 2, "dead"),
    ([(302, b"")] * 2, "dead"),
)


def test_dicomweb(start, setup, films: list[Path]) -> None:
    answers: list[tuple[int, bytes]] = []
    web = Web(lambda _number: answers.pop(0))
    peer = {"name": "web", "kind": "stow", "url": f"http://127.0.0.1:{web.port}/studies", "objects": ["sr", "seg"]}
    running = start(deliver=[peer], retry={"first_s": 0.02, "longest_s": 0.05, "refusals": 2})
    dead = 0
    try:
        for (case, outcome), film in zip(CASES, films, strict=False):
            answers[:] = case
            assert send(running, film) == 0
            wait_for(lambda: running.spool.counts()["films"] == 0)
            running.settle()
            assert answers == []
            dead += outcome == "dead"
            assert running.spool.counts()["dead"] == dead
    finally:
        web.close()
    assert [parts_of(*request) for request in web.bodies] == [["SR", "SEG"]] * len(web.bodies)


def parts_of(headers: Any, body: bytes) -> list[str]:
    """Modalities of the objects in a multipart body."""
    from io import BytesIO

    import pydicom

    kind = headers["Content-Type"]
    assert kind.startswith('multipart/related; type="application/dicom"; boundary=')
    parts = body.split(b"--" + kind.split("boundary=")[1].encode())
    assert (parts[0], parts[-1]) == (b"", b"--\r\n")
    found = []
    for part in parts[1:-1]:
        head, content = part.split(b"\r\n\r\n", 1)
        assert head == b"\r\nContent-Type: application/dicom"
        found.append(pydicom.dcmread(BytesIO(content[:-2])).Modality)
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {cert} -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, key  # type: ignore[return-value]


def test_dicomweb_over_tls_with_a_token(start, setup, films: list[Path], certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    web = Web(lambda number: (200, b"{}"), context)
    token = setup.folder / "token"
    token.write_text("s3cret\n")
    peer = {"name": "web", "kind": "stow", "url": f"https://localhost:{web.port}/studies", "token_file": str(token)}
    try:
        running = start(deliver=[{**peer, "tls": {"ca": str(certificate[0])}}])
        assert send(running, films[0]) == 0
        running.settle()
        assert web.bodies[0][0]["Authorization"] == "Bearer s3cret"
        running.close()
        suspicious = start(deliver=[peer])  # without the CA nobody answers for that certificate
        assert send(suspicious, films[1]) == 0
        wait_for(lambda: setup.metric('edge_node_failures_total{stage="deliver",kind="away"}') >= 1)
        assert len(web.bodies) == 1
    finally:
        web.close()


@needs_dcmtk
def test_the_node_itself_over_tls(start, setup, films: list[Path], certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    running = start(node={"tls": {"cert": cert, "key": key, "ca": cert}})
    assert storescu(setup.port, films[0]).returncode != 0  # in the clear
    address = ["-aet", "MOD1", "-aec", "EDGE", "127.0.0.1", str(setup.port), str(films[0])]
    known = ["storescu", "+tls", key, cert, "+cf", cert, *address]
    unknown = ["storescu", "+tla", "+cf", cert, *address]  # shows no certificate
    assert subprocess.run(unknown, capture_output=True, timeout=60).returncode != 0
    assert subprocess.run(known, capture_output=True, timeout=60).returncode == 0
    running.settle()
    assert len(list(setup.out.iterdir())) == 1


@needs_dcmtk
def test_an_archive_over_tls(start, setup, pacs, films: list[Path], certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    archive = pacs("+tls", key, cert, "+cf", cert)  # it wants our certificate, too
    peer = {**setup.to_pacs(archive.port), "host": "localhost"}
    running = start(deliver=[{**peer, "tls": {"ca": cert, "cert": cert, "key": key}}])
    assert send(running, films[0]) == 0
    running.settle()
    assert reported_films(archive.objects()) == [f"{ROOT}.1"]


def test_a_receiver_that_is_gone_from_the_configuration_holds_nothing_up(start, setup, films: list[Path]) -> None:
    first = start(deliver=[setup.to_pacs(free_port())])
    assert send(first, films[0]) == 0
    wait_for(lambda: first.spool.counts()["undelivered"] == 1)
    first.close()
    second = start()
    wait_for(second.idle)


def test_too_many_undelivered_results_hold_up_reporting_and_then_receiving(start, setup, films: list[Path]) -> None:
    running = start(deliver=[setup.to_pacs(free_port())], queue={"max_undelivered": 2, "max_films": 2})
    answers = [send(running, film) for film in films[:5]]
    wait_for(lambda: running.spool.counts()["undelivered"] == 2)
    answers.append(send(running, films[6]))
    assert 0xA700 in answers
    assert sum(running.spool.counts().values()) == answers.count(0)
    assert running.node.not_ready().startswith("no room")


def test_given_up_after_a_while(start, setup, films: list[Path]) -> None:
    retry = {"first_s": 0.02, "longest_s": 0.05, "give_up_hours": 0.0001}
    running = start(deliver=[setup.to_pacs(free_port())], retry=retry)
    assert send(running, films[0]) == 0
    wait_for(lambda: running.spool.counts() == {"films": 0, "undelivered": 0, "dead": 1})
