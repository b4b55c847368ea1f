# SPDX-License-Identifier: Apache-2.0
"""The page for others: over TLS with a token, and never by mistake without."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Browser, find_browser
from client import Client

from edge.review.cli import _address, main
from edge.review.options import parse

pytest.importorskip("uvicorn", reason='the page is not tested: pip install "edge-report[web]"')

TOKEN = "a-token-of-a-good-length"
OWN = {"authorization": f"Bearer {TOKEN}"}


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate and its key, the key encrypted, and the key of another."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: there is no certificate to try")
    folder = tmp_path_factory.mktemp("tls")
    files = {name: folder / f"{name}.pem" for name in ("cert", "key", "locked", "other")}
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(files["key"]), "-out", str(files["cert"])),
    )
    openssl("rsa", "-aes256", "-passout", "pass:secret", "-in", str(files["key"]), "-out", str(files["locked"]))
    openssl("genrsa", "-out", str(files["other"]), "2048")
    return files


@pytest.fixture(scope="module")
def client(serve: Callable[..., Client], pem: dict[str, Path]) -> Client:
    """Of a server for every address of this machine, asked by one that checks its certificate."""
    started = serve("--host", "0.0.0.0", "--token", TOKEN, "--tls-cert", str(pem["cert"]), "--tls-key", str(pem["key"]))
    return Client(started.port, ssl.create_default_context(cafile=str(pem["cert"])))


def test_a_film_over_tls(client: Client, films: dict[str, Path]) -> None:
    assert client.get("/").status == 200  # the page itself; it asks for the token
    assert client.get("/api/about").status == 401
    assert client.get("/api/about", **OWN).status == 200
    answer = client.post("/api/film", films["frontal"].read_bytes(), **OWN)
    assert answer.status == 200
    report = client.post("/api/report", session=answer.headers["X-Edge-Session"], **OWN).events()[-1]
    assert report["event"] == "report"


def test_nothing_but_tls_of_today(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(100)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", client.port), 10) as peer:
        old.wrap_socket(peer)


def test_names_of_others(client: Client) -> None:
    """Addresses and this machine's own name are taken, foreign names are not, whoever holds the token."""
    for host, status in (
        (f"127.0.0.1:{client.port}", 200),
        ("192.0.2.7", 200),
        (socket.gethostname(), 200),
        ("evil.example", 403),
    ):
        assert client.get("/api/about", host=host, **OWN).status == status, host


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on the path: the page is not clicked")
def test_a_browser_over_tls(client: Client, films: dict[str, Path], tmp_path: Path) -> None:
    """The address as it is printed: the token goes from it into the tab, and the draft comes."""
    browser = Browser(tmp_path, (1280, 800), "--ignore-certificate-errors")
    try:
        browser.go(f"https://127.0.0.1:{client.port}/#token={TOKEN}")
        browser.wait("document.querySelector('#model').textContent")
        assert "token" not in browser.eval("location.href")
        browser.drop(films["frontal"])
        browser.wait("document.querySelectorAll('#sentences li').length")
        assert browser.problems == []
    finally:
        browser.close()


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert", "other", "do not belong together"),
        ("cert", "locked", "encrypted"),
        ("key", "key", "no PEM file"),
        ("cert", "/nowhere.pem", "No such file"),
    ],
)
def test_a_wrong_certificate(
    cert: str, key: str, words: str, pem: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before the model is loaded; and never a question for a password."""
    files = [str(pem.get(name, name)) for name in (cert, key)]
    assert main(["--port", "0", "--bundle", "/nowhere", "--tls-cert", files[0], "--tls-key", files[1]]) == 60
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_address_has_the_name_that_was_given() -> None:
    options = parse(["--host", "0.0.0.0", "--token", TOKEN, "--no-tls", "--name", "box.clinic", "--name", "other"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert _address(options, listener) == f"http://box.clinic:{port}/#token={TOKEN}"
        options = parse(["--name", "box.clinic"])  # a page of this machine, which others reach by something else
        assert _address(options, listener) == f"http://127.0.0.1:{port}/"


def test_an_address_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    """Another port would not help; of a port that is taken it is said that it would."""
    words = ["--port", "0", "--token", TOKEN, "--no-tls", "--bundle", "/nowhere"]
    for host in ("192.0.2.1", "nobody.invalid"):
        assert main(["--host", host, *words]) == 60
        (line,) = capsys.readouterr().err.splitlines()
        assert f"cannot listen: --host {host}: " in line
        assert "port" not in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--bundle", "/nowhere"]) == 60
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"port {port}: Address already in use; try --port 0")


def test_others_are_not_served_in_the_clear(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "0.0.0.0", "--port", "0", "--token", TOKEN]) == 1
    assert "in the clear" in capsys.readouterr().err
    # Said by who asks for it: then only the bundle is wrong.
    assert main(["--host", "0.0.0.0", "--port", "0", "--token", TOKEN, "--no-tls", "--bundle", "/nowhere"]) == 30
