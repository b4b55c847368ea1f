# SPDX-License-Identifier: Apache-2.0
"""The server: films in, grey values, drafts, completions and objects out."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from client import Client

import edge

pytest.importorskip("uvicorn", reason='the page is not tested: pip install "edge-report[web]"')


@pytest.fixture(scope="module")
def opened(client: Client, phantom: Path) -> str:
    session, _, _ = client.open(phantom)
    client.report(session)
    return session


def test_page_and_its_parts(client: Client) -> None:
    page = client.get("/")
    assert page.status == 200
    assert b"Not a medical device" in page.data
    assert b"http:" not in page.data.replace(b"http://127", b"")
    for name, kind in (("main.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        part = client.get(f"/static/{name}")
        assert part.status == 200
        assert part.headers["Content-Type"].startswith(kind)
    about = client.get("/api/about").json()
    assert "synthetic phantoms" in about["notice"]
    assert about["upload_bytes"] == 4 << 20


@pytest.mark.parametrize(
    "path",
    ["/static/../cli.py", "/static/%2e%2e/cli.py", "/static/..%2fcli.py", "/static//etc/passwd", "/cli.py", "/static/"],
)
def test_there_is_no_way_out_of_the_parts(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404
    assert b"import" not in answer.data


def test_grey_values_are_the_films(client: Client, phantom: Path) -> None:
    session, meta, data = client.open(phantom)
    film = edge.read_film(phantom)
    assert (meta["rows"], meta["columns"], meta["bits"]) == (*film.pixels.shape, 12)
    values = np.frombuffer(data, "<u2").reshape(film.pixels.shape)
    np.testing.assert_array_equal(values * meta["step"] + meta["low"], film.pixels)
    assert [window["name"] for window in meta["windows"]] == ["Film", "Auto", "Full"]
    assert len(session) >= 32


def test_draft(client: Client, engine: edge.Engine, phantom: Path) -> None:
    session, _, _ = client.open(phantom)
    seen, *pieces, report = client.post("/api/report", session=session).events()
    assert seen["event"] == "seen"
    assert seen["mask"]["size"] == list(engine.open(phantom).mask.shape)
    assert len(pieces) > 10
    want = engine.report(phantom)
    assert "".join(piece["text"] for piece in pieces) == want.findings == report["findings"]
    assert report["token_ids"] == list(want.token_ids)
    assert report["sentences"] == [sentence.to_dict() for sentence in want.sentences]
    assert client.report(session)["token_ids"] == report["token_ids"]  # again, without a second look


def test_completion(client: Client, engine: edge.Engine, phantom: Path, opened: str) -> None:
    *pieces, done = client.post("/api/complete", {"before": ["No tubes."], "text": "The heart"}, opened).events()
    want = engine.open(phantom).complete("No tubes. The heart", partial_word=True)
    assert "".join(piece["text"] for piece in pieces) == done["text"] == want.text
    assert done["sentences"] == [sentence.to_dict() for sentence in want.sentences]
    assert done["stop_reason"] == "sentence"
    long = ["The lungs are clear of any focal opacity or mass."] * 60  # more than the model has room for
    *pieces, done = client.post("/api/complete", {"before": long, "text": "The heart"}, opened).events()
    assert done["stop_reason"] == "sentence"
    assert done["sentences"][-1]["text"].startswith("The heart")


def test_saving(client: Client, opened: str) -> None:
    texts = [sentence["text"] for sentence in client.report(opened)["sentences"]]
    texts[1] = "The heart is of normal size."
    del texts[2]
    answer = client.post("/api/save", {"format": "sr", "sentences": texts}, opened)
    assert answer.status == 200
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="draft-sr-')
    sr = pydicom.dcmread(io.BytesIO(answer.data))
    assert (sr.VerificationFlag, sr.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "edited by hand" in sr.CompletionFlagDescription
    section = sr.ContentSequence[-1].ContentSequence
    said = [item.TextValue for item in section]
    assert (
        f"Edited by hand: sentence 2 of {len(texts)} not as the model wrote; 2 of the model's sentences changed"
        in said[1]
    )
    findings = [item.TextValue for item in section if item.ConceptNameCodeSequence[0].CodeValue == "121071"]
    assert findings == texts
    fhir = client.post("/api/save", {"format": "fhir", "sentences": texts}, opened).json()
    assert fhir["status"] == "preliminary"
    assert "Edited by hand" in fhir["conclusion"]
    text = client.post("/api/save", {"format": "text", "sentences": texts}, opened).data.decode()
    assert text.startswith("Draft written by a model")
    assert "\n".join(texts) in text


def test_untouched_draft_is_saved_as_the_command_writes_it(client: Client, engine: edge.Engine, phantom: Path) -> None:
    session, _, _ = client.open(phantom)
    texts = [sentence["text"] for sentence in client.report(session)["sentences"]]
    saved = pydicom.dcmread(io.BytesIO(client.post("/api/save", {"format": "sr", "sentences": texts}, session).data))
    assert saved.SOPInstanceUID == engine.report(phantom).to_sr(phantom).SOPInstanceUID


@pytest.mark.parametrize(
    ("film", "kind", "words", "soft"),
    [
        ("letter", "not DICOM or a picture", "PDF", False),
        ("lateral", "not a frontal chest film", "lateral", True),
    ],
)
def test_what_is_no_frontal_film(
    client: Client, films: dict[str, Path], film: str, kind: str, words: str, soft: bool
) -> None:
    answer = client.post("/api/film", films[film].read_bytes())
    assert answer.status == 422
    said = answer.json()
    assert (said["kind"], said["soft"]) == (kind, soft)
    assert words in said["message"]
    assert "--" not in said["message"]
    assert "\n" not in said["message"]


def test_a_lateral_film_all_the_same(client: Client, films: dict[str, Path]) -> None:
    session, meta, _ = client.open(films["lateral"], force=True)
    assert any("by force" in warning for warning in meta["warnings"])
    assert any("by force" in warning for warning in client.report(session)["warnings"])


def test_pictures_have_no_sr(client: Client, tmp_path: Path) -> None:
    from handmade import chest_picture
    from PIL import Image

    Image.fromarray(chest_picture()).save(tmp_path / "film.png")
    session, meta, _ = client.open(tmp_path / "film.png")
    assert "no patient" in meta["no_sr"]
    client.report(session)
    refused = client.post("/api/save", {"format": "sr", "sentences": ["Clear."]}, session)
    assert (refused.status, refused.json()["kind"]) == (422, "cannot be referenced")
    assert client.post("/api/save", {"format": "fhir", "sentences": ["Clear."]}, session).status == 200


def test_uploads_are_limited(client: Client) -> None:
    assert client.post("/api/film", b"", content_length=str(5 << 20)).json()["kind"] == "too large"
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:  # the length is not told beforehand
        raw.sendall(
            f"POST /api/film HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nX-Edge-Review: 1\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        sent, chunk = 0, b"10000\r\n" + bytes(65536) + b"\r\n"
        raw.settimeout(0.005)
        answer = b""
        while not answer and sent < 64 << 20:
            try:
                raw.sendall(chunk)
            except TimeoutError:
                raise AssertionError("the server reads on") from None
            except OSError:
                pass
            sent += 65536
            with contextlib.suppress(TimeoutError):
                answer = raw.recv(1 << 16)
    assert b"413" in answer
    assert sent < 8 << 20


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"[" * 100_000, b'{"text": 5}', json.dumps({"text": "a" * 30_000}).encode()]
)
def test_bad_requests(client: Client, opened: str, body: bytes) -> None:
    answer = client.post("/api/complete", body, opened)
    assert answer.status == 400
    assert answer.json()["kind"] == "usage"


def test_more_bad_requests(client: Client, opened: str) -> None:
    for body in ({"format": "doc", "sentences": ["a"]}, {"format": "sr"}, {"format": "sr", "sentences": [5]}):
        assert client.post("/api/save", body, opened).json()["kind"] == "usage"
    assert client.post("/api/save", b" " * (300 << 10), opened).status == 413
    assert client.get("/api/film").status == 405
    long = client.post("/api/complete", {"text": "clear " * 3000}, opened).events()
    assert long[-1]["kind"] == "usage"
    assert "too long" in long[-1]["message"]


def test_films_are_known_by_a_secret(client: Client, films: dict[str, Path]) -> None:
    first, _, _ = client.open(films["frontal"])
    for path in ("report", "complete", "save"):
        for session in ("", "x", first[:-1]):
            answer = client.post(f"/api/{path}", {"text": "The"}, session)
            assert answer.status == 404
            assert "drop it again" in answer.json()["message"]
    second, _, _ = client.open(films["other"], first)  # one film at a time
    assert client.post("/api/report", session=first).status == 404
    client.post("/api/close", session=second)
    assert client.post("/api/report", session=second).status == 404


def test_films_are_forgotten_when_nobody_asks(engine: edge.Engine, films: dict[str, Path]) -> None:
    """Without any further request."""
    import asyncio

    from starlette.requests import Request

    from edge.review.app import Server
    from edge.review.limits import Limits

    server = Server(engine, Limits(idle_seconds=0.2))
    body = films["frontal"].read_bytes()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def wait() -> tuple[int, int]:
        scope = {"type": "http", "method": "POST", "path": "/api/film", "headers": [], "query_string": b""}
        await server.film(Request(scope, receive))
        opened = len(server.sessions)
        await asyncio.sleep(0.6)
        return opened, len(server.sessions._open)

    assert asyncio.run(wait()) == (1, 0)


def test_nothing_tells_the_patient(client: Client, films: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    answer = client.post("/api/film", films["frontal"].read_bytes())
    report = client.post("/api/report", session=answer.headers["X-Edge-Session"])
    refused = client.post("/api/film", films["letter"].read_bytes())
    for said in (answer, report, refused):
        assert b"SECRET" not in said.data + str(said.headers).encode()
    assert "SECRET" not in "".join(capfd.readouterr())


def test_going_away_in_the_middle(client: Client, films: dict[str, Path]) -> None:
    for _ in range(3):
        session, _, _ = client.open(films["frontal"])
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:
            raw.sendall(
                f"POST /api/report HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nX-Edge-Review: 1\r\n"
                f"X-Edge-Session: {session}\r\nContent-Length: 0\r\n\r\n".encode()
            )
        assert client.report(session)["event"] == "report"


def test_many_at_once(serve: Callable[..., Client], engine: edge.Engine, films: dict[str, Path]) -> None:
    """Several pages, each with its own film."""
    client = serve()
    want = {name: engine.report(films[name]).findings for name in ("frontal", "other")}
    wrong: list[str] = []

    def page(name: str) -> None:
        session = ""
        for _ in range(3):
            answer = client.post("/api/film", films[name].read_bytes(), session)
            if answer.status == 503:
                continue  # other films are being read
            session = answer.headers["X-Edge-Session"]
            got = client.report(session)
            if got.get("findings") != want[name]:
                wrong.append(str(got)[:200])

    threads = [threading.Thread(target=page, args=(name,)) for name in want for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
