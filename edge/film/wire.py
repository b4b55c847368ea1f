# SPDX-License-Identifier: Apache-2.0
"""Messages between this process and the decoding worker.

One message is ``b"EDGF"``, the lengths of a JSON object (u32) and of a payload (u64) in little endian, then both.
No pickle: what the worker says is read as data only, and nothing in it is trusted unchecked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

MAGIC = b"EDGF"
HEAD = struct.Struct("<4sLQ")
MAX_JSON = 1 << 16

ReadInto = Callable[[memoryview], "int | None"]


class WireError(Exception):
    """The other side closed its end or sent something else than a message."""


def pack(fields: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """Head and JSON of a message whose payload follows."""
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return HEAD.pack(MAGIC, len(text), payload_bytes) + text


def read_exactly(readinto: ReadInto, count: int) -> bytearray:
    """`count` bytes, or :class:`WireError` where the pipe ends before."""
    data = bytearray(count)
    view = memoryview(data)
    done = 0
    while done < count:
        got = readinto(view[done:])
        if not got:
            raise WireError("pipe closed")
        done += got
    return data


def receive(readinto: ReadInto, max_payload: int) -> tuple[dict[str, Any], bytearray]:
    """One message.

    Raises
    ------
    WireError
        The pipe ended, or the message is malformed or longer than allowed.
    """
    magic, json_bytes, payload_bytes = HEAD.unpack(read_exactly(readinto, HEAD.size))
    if magic != MAGIC or json_bytes > MAX_JSON or payload_bytes > max_payload:
        raise WireError("malformed message")
    try:
        fields = json.loads(read_exactly(readinto, json_bytes))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise WireError("malformed message")
    return fields, read_exactly(readinto, payload_bytes)
