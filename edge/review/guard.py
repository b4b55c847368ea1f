# SPDX-License-Identifier: Apache-2.0
"""Who may ask: the Host, Origin and token checks before every request, and the headers after it.

Against DNS rebinding: a name that is neither an address nor one of ours is refused, since a foreign page can only come
here under its own name. Against cross-site requests: whatever a browser sends for another page carries that page's
origin, and the header ``X-Edge-Review`` cannot be sent across origins without a permission that is never given.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from h11 import LocalProtocolError

from edge.review.refusals import Refusal

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app
    names : iterable of str
        Host names under which the page may be asked for, beside addresses.
    token : str or None
        What ``/api`` asks for; None: nothing.
    any_address : bool
        Whether addresses that are not loopback are among ours.
    """

    def __init__(self, app: Any, *, names: Iterable[str] = (), token: str | None = None, any_address: bool) -> None:
        self._app, self._token, self._any = app, None if token is None else token.encode(), any_address
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

        async def out(message: Any) -> None:
            with suppress(LocalProtocolError):  # the peer broke the protocol, and has been told so: nobody listens
                await send(message)

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await out(message)

        try:
            self._check(scope)
        except Refusal as refusal:
            body = json.dumps({"kind": refusal.kind, "message": str(refusal), "soft": False}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await sent({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await out({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, sent)

    def _check(self, scope: Any) -> None:
        found: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name, []).append(value.decode("latin-1"))
        hosts = found.get(b"host", [])
        if len(hosts) != 1 or not self._ours(hosts[0]):
            raise Refusal(403, "host", "this address is not one that edge-review answers to; start it with --name HOST")
        if not scope["path"].startswith("/api/"):
            return
        for origin in found.get(b"origin", []):
            # Whatever the scheme: a proxy may speak TLS for us.
            if origin.lower().partition("://")[2] != hosts[0].lower():
                raise Refusal(403, "origin", "another page may not ask for this")
        if any(site != "same-origin" for site in found.get(b"sec-fetch-site", [])):
            raise Refusal(403, "origin", "another page may not ask for this")
        if found.get(b"x-edge-review") != ["1"]:
            raise Refusal(403, "origin", "the header X-Edge-Review: 1 is missing")
        if self._token is not None:
            (given,) = found.get(b"authorization", [""])[:1]
            if not hmac.compare_digest(given.encode("latin-1"), b"Bearer " + self._token):
                raise Refusal(401, "token", "the token is missing or wrong; open the address that edge-review printed")

    def _ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any or address.is_loopback
