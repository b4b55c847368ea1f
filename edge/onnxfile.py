# SPDX-License-Identifier: Apache-2.0
"""A look into an ONNX file without the ``onnx`` package: does it keep its data in other files?

ONNX allows tensors that lie in a file of any name beside the graph. Such a file would be read without a hash,
so a bundle's graph must hold all its data itself. This walks the protobuf wire format (onnx.proto3) and looks
only at ``TensorProto.data_location`` and ``external_data``.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from pathlib import Path

from edge.errors import BundleError, ProcessingError

_MAX_DEPTH = 32
# message -> {field number: message it holds}
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def check_self_contained(path: Path) -> None:
    """Refuse an ONNX file with external data, or one that is not a protobuf message.

    Raises
    ------
    BundleError, ProcessingError
    """
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            external = _external(data, 0, len(data), "model", 0)
    except (ValueError, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:  # no address space left for the file
            raise ProcessingError(f"not enough memory to load {path.name}") from None
        raise BundleError(f"{path.name} is not a valid ONNX file: export the bundle again") from None
    if external:
        raise BundleError(f"{path.name} keeps data in other files; a bundle's graph must be a single file")


def _external(data: mmap.mmap, begin: int, end: int, message: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if message == "tensor":
        return any(
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and low != 0)
            for number, low, _ in _fields(data, begin, end)
        )
    children = _CHILDREN[message]
    return any(
        _external(data, low, high, children[number], depth + 1)
        for number, low, high in _fields(data, begin, end)
        if number in children and high >= 0
    )


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, begin, end) of every field; for numbers (field number, value, -1)."""
    while at < end:
        key, at = varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at, end)
            yield number, value, -1
        elif wire == 2:
            length, at = varint(data, at, end)
            if length > end - at:
                raise ValueError("a field is longer than its message")
            yield number, at, at + length
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > end:
                raise ValueError("a number is cut off")
        else:
            raise ValueError("unknown wire type")


def varint(data: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """The number at a place of a message, and where it ends (``ValueError`` where it is cut off)."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number is cut off")
