# SPDX-License-Identifier: Apache-2.0
"""Reading a request's body with limits, while it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from edge.errors import UsageError
from edge.review.limits import MIB, Limits
from edge.review.refusals import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_film(request: Request, limits: Limits) -> bytes:
    """The bytes of a film.

    Raises
    ------
    Refusal
        Too large, known from the header or while it comes; too slow, or broken off.
    """
    try:
        async with asyncio.timeout(limits.upload_seconds):
            return await _read(request, limits.upload_bytes, limits.chunk_seconds)
    except TimeoutError:
        raise Refusal(408, "upload", "the film came too slowly") from None


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """A small JSON object.

    Raises
    ------
    Refusal, UsageError
    """
    try:
        async with asyncio.timeout(limits.chunk_seconds):
            data = await _read(request, limits.json_bytes, limits.chunk_seconds)
    except TimeoutError:
        raise Refusal(408, "upload", "the request came too slowly") from None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError("the request is no JSON object")
    return value


async def _read(request: Request, most: int, pause: float) -> bytes:
    from starlette.requests import ClientDisconnect

    size = f"{most / MIB:.0f} MiB" if most >= MIB else f"{most >> 10} KiB"
    too_large = Refusal(413, "too large", f"at most {size} are taken here")
    claimed = request.headers.get("content-length", "0")
    if not claimed.isdigit() or int(claimed) > most:
        raise too_large
    data = bytearray()
    stream: AsyncIterator[bytes] = request.stream()
    try:
        while True:
            async with asyncio.timeout(pause):
                chunk = await anext(stream, None)
            if chunk is None:
                return bytes(data)
            if len(data) + len(chunk) > most:
                raise too_large
            data += chunk
    except ClientDisconnect:
        raise Refusal(400, "upload", "the upload was broken off") from None
