# SPDX-License-Identifier: Apache-2.0
"""A DICOMweb server that gets the objects by STOW-RS (PS3.18 section 10.5)."""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge.node.peers.dicom import client_context
from edge.node.peers.kinds import Away, Refused
from edge.version import __version__

if TYPE_CHECKING:
    from edge.node.config import Deliver

_MAX_ANSWER = 1 << 20
_DUPLICATE = 0x0111
_BUSY = (401, 403, 407, 408, 425, 429, 500, 502, 503, 504)
"""Answers that say nothing about the object: credentials will be put right, servers come back."""


class StowReceiver:
    def __init__(self, settings: Deliver) -> None:
        self._settings = settings
        self._url = urlsplit(settings.url)
        self._tls = client_context(settings) or ssl.create_default_context()

    def send(self, files: Sequence[Path]) -> None:
        boundary = f"edge-{secrets.token_hex(16)}"
        body = b"".join(
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
            for file in files
        )
        body += f"--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
            "User-Agent": f"edge-report/{__version__}",
        }
        if self._settings.token_file is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        connection = self._connection()
        try:
            connection.request("POST", self._url.path or "/", body, headers)
            answer = connection.getresponse()
            status, content = answer.status, answer.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"no answer ({type(error).__name__})") from None
        finally:
            connection.close()
        self._judge(status, content)

    def _judge(self, status: int, content: bytes) -> None:
        if status == 200:
            return
        if status in (202, 409):  # some or all were not stored, or stored with a remark
            reasons = failures(content)
            if status == 202 and not reasons:
                return
            if reasons and all(reason == _DUPLICATE for reason in reasons):
                return
            if reasons and all(reason & 0xFF00 == 0xA700 for reason in reasons):
                raise Away(f"out of resources (0x{reasons[0]:04X})")
            raise Refused(f"HTTP {status}, reason " + (f"0x{reasons[0]:04X}" if reasons else "not given"))
        if status in _BUSY:
            raise Away(f"HTTP {status}")
        raise Refused(f"HTTP {status}")

    def _connection(self) -> http.client.HTTPConnection:
        host, port, timeout = self._url.hostname or "", self._url.port, self._settings.timeout_s
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _token(self) -> str:
        """Read anew each time, so that it can be replaced under a running node."""
        assert self._settings.token_file is not None
        try:
            token = self._settings.token_file.read_text("ascii").strip()
        except (OSError, ValueError):
            raise Away("the token file cannot be read") from None
        if not token.isprintable() or not token:
            raise Away("the token file holds no token")
        return token

    def close(self) -> None:
        pass


def failures(content: bytes) -> list[int]:
    """Failure reasons of Failed SOP Sequence (0008,1198) in a DICOM JSON answer; none where there is no such answer."""
    try:
        answer: Any = json.loads(content)
        answer = answer[0] if isinstance(answer, list) else answer
        items = answer["00081198"]["Value"]
        return [int(item["00081197"]["Value"][0]) for item in items]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
