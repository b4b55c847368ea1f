# SPDX-License-Identifier: Apache-2.0
"""What the page sends, without a browser."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.data = response.read()

    def json(self) -> Any:
        return json.loads(self.data)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


class Client:
    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self.context = port, context

    def ask(self, method: str, path: str, body: Any = None, session: str = "", **headers: str | None) -> Answer:
        """One request; ``name_of_header="value"`` adds or replaces a header, None leaves it out."""
        sent: dict[str, str | None] = {"X-Edge-Review": "1"}
        if session:
            sent["X-Edge-Session"] = session
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        if self.context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.context)
        try:
            connection.putrequest(method, path, skip_host="Host" in sent, skip_accept_encoding=True)
            if body is not None:
                sent["Content-Length"] = sent.get("Content-Length", str(len(body)))
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, session: str = "", **headers: str | None) -> Answer:
        return self.ask("POST", path, {} if body is None else body, session, **headers)

    def open(self, film: Path, session: str = "", *, force: bool = False) -> tuple[str, dict[str, Any], bytes]:
        """A film's session, what is told of it, and its grey values."""
        answer = self.post(f"/api/film{'?force=1' * force}", film.read_bytes(), session)
        assert answer.status == 200, answer.data
        length = int.from_bytes(answer.data[:4], "little")
        return answer.headers["X-Edge-Session"], json.loads(answer.data[4 : 4 + length]), answer.data[4 + length :]

    def report(self, session: str) -> dict[str, Any]:
        return self.post("/api/report", session=session).events()[-1]
