# SPDX-License-Identifier: Apache-2.0
"""Who may ask: addresses, origins, tokens; and the command that decides it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client import Client

from edge.review.cli import main

pytest.importorskip("uvicorn", reason='the page is not tested: pip install "edge-report[web]"')


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "127.1.2.3"]
)
def test_our_own_names(client: Client, host: str) -> None:
    assert client.get("/", host=host.format(port=client.port)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "192.168.1.5",
        "localhost@evil.example",
        "",
        "[",
        "0.0.0.0",
    ],
)
def test_other_names_are_dns_rebinding(client: Client, host: str) -> None:
    for path in ("/", "/api/about"):
        answer = client.get(path, host=host.format(port=client.port))
        assert answer.status == 403
        assert b"<html" not in answer.data


def test_no_name(client: Client) -> None:
    assert client.get("/", host=None).status in (400, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"x_edge_review": None},
        {"x_edge_review": "2"},
    ],
)
def test_other_pages_may_not_ask(client: Client, headers: dict[str, str | None]) -> None:
    for method, path in (("POST", "/api/film"), ("POST", "/api/close"), ("GET", "/api/about")):
        answer = client.ask(method, path, b"" if method == "POST" else None, **headers)
        assert answer.status == 403
        assert answer.json()["kind"] == "origin"
    assert "access-control-allow-origin" not in answer.headers
    assert client.ask("OPTIONS", "/api/film", origin="http://evil.example").status == 403


def test_our_page_may(client: Client) -> None:
    own = {
        "origin": f"http://127.0.0.1:{client.port}",
        "sec_fetch_site": "same-origin",
        "host": f"127.0.0.1:{client.port}",
    }
    assert client.get("/api/about", **own).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.168.1.5:8741", 200), ("box.clinic", 200), ("[fe80::1]", 200), ("evil.example", 403), ("x.box.clinic", 403)],
)
def test_a_server_for_others(host: str, status: int) -> None:
    """Addresses cannot be rebound, names can: only those given are taken."""
    import asyncio

    from edge.review.guard import Guard

    async def app(_scope: object, _receive: object, send: Callable[..., Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(app, names=["Box.Clinic"], token="t", any_address=True)(scope, None, send))
    assert sent[0]["status"] == status


def test_policy_is_on_every_answer(client: Client) -> None:
    for answer in (
        client.get("/"),
        client.get("/nothing"),
        client.get("/api/about"),
        client.get("/", host="evil.example"),
    ):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "server" not in answer.headers


def test_token(serve: Callable[..., Client]) -> None:
    client = serve("--token", "a-token-of-a-good-length")
    assert client.get("/").status == 200  # the page itself holds nothing; it asks for the token
    for given in (None, "", "Bearer", "Bearer a-token-of-a-good-lengt", "a-token-of-a-good-length", "Bearer \xe4"):
        answer = client.get("/api/about", authorization=given)
        assert answer.status == 401
        assert answer.json()["kind"] == "token"
        assert client.post("/api/film", b"x", authorization=given).status == 401
    assert client.get("/api/about", authorization="Bearer a-token-of-a-good-length").status == 200


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--host", "0.0.0.0"], 1, "add --token"),
        (["--host", "::"], 1, "add --token"),
        (["--host", "192.0.2.7"], 1, "add --token"),
        (["--token", "short"], 1, "at least 16"),
        (["--port", "70000"], 1, "whole number"),
        (["--tls-cert", "x.pem"], 1, "go together"),
        (["--bundle", "/nowhere", "--port", "0"], 30, "bundle"),
    ],
)
def test_wrong_calls(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    out, error = capsys.readouterr()
    assert out == ""
    assert said in error
    assert error.count("\n") == 1


def test_a_peer_that_breaks_the_protocol_is_no_internal_error() -> None:
    """The server has answered it already, and refuses another answer."""
    from h11 import LocalProtocolError

    from edge.review.guard import Guard

    async def refused(_message: Any) -> None:
        raise LocalProtocolError("can't handle event type Response")

    async def page(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = Guard(page, any_address=False)
    for host in (b"localhost", b"elsewhere"):
        asyncio.run(guard({"type": "http", "path": "/", "headers": [(b"host", host)]}, None, refused))


def test_what_peers_do_is_for_v_only() -> None:
    from edge.review.cli import _log_to_stderr

    loggers = [logging.getLogger(name) for name in ("edge", "uvicorn", "asyncio")]
    before = [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    try:
        _log_to_stderr(verbose=False)
        assert [logger.isEnabledFor(logging.ERROR) for logger in loggers] == [True, False, False]
        _log_to_stderr(verbose=True)
        assert all(logger.isEnabledFor(logging.WARNING) for logger in loggers)
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers[:], logger.propagate = handlers, propagate


def test_port_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1])]) == 60
    assert "cannot listen" in capsys.readouterr().err


def test_packages_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["--port", "0"]) == 81
    assert 'pip install "edge-report[cpu,web]"' in capsys.readouterr().err


def test_the_command(films: dict[str, Path], tmp_path: Path) -> None:
    """A film through the real command: nothing on the disk, nothing about the patient on stderr; Ctrl-C ends it."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "EDGE_REVIEW_TOKEN": "from-the-environment"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "edge.review.cli", "--port", "0", "--threads", "1", "-v"],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        address = said.split("http://")[1].split()[0]
        assert address.endswith("/#token=from-the-environment")
        client = Client(int(address.split(":")[1].split("/")[0]))
        own = {"authorization": "Bearer from-the-environment"}
        answer = client.post("/api/film", films["frontal"].read_bytes(), **own)
        assert (
            client.post("/api/report", session=answer.headers["X-Edge-Session"], **own).events()[-1]["event"]
            == "report"
        )
        assert client.post("/api/film", films["letter"].read_bytes(), **own).status == 422
        assert list(tmp_path.iterdir()) == []
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
        assert process.wait(20) == 0
        assert "synthetic phantoms" in said
        assert "SECRET" not in said
        assert "Traceback" not in said
        assert "/api" not in said
    finally:
        process.kill()
        process.wait()
