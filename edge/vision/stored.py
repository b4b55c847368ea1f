# SPDX-License-Identifier: Apache-2.0
"""How a graph stores its weights, seen without the ``onnx`` package.

A float graph may only store them as small integers: int8 constants, each widened by a ``Cast`` and multiplied with its
scale. A runtime folds both when it loads the graph, and what it then computes is float32. GPUs can take it, other than
one whose products are of integers. This walks the protobuf wire format (onnx.proto3) of files that
:func:`edge.onnxfile.check_self_contained` has seen.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.errors import BundleError
from edge.onnxfile import varint

_GRAPH = 7  # of a model
_NODE, _TENSOR = 1, 5  # of a graph
_INPUT, _OPERATOR = 1, 4  # of a node
_TYPE, _NAME, _RAW = 2, 8, 9  # of a tensor
_FLOAT, _INT8 = 1, 3  # types of tensors
_BYTES = 2  # wire type of what has a length
_INTEGERS = ("uantizeLinear", "Integer", "QLinear")
"""Parts of the names of operators that make or multiply integers."""

Data = bytes | mmap.mmap
Change = Callable[[bytes, int, int], bytes]
"""A field's new value, from the file and where the old one begins and ends."""


def computes_in_integers(path: Path) -> bool:
    """Whether any operator of a graph quantizes, dequantizes or multiplies integers.

    Raises
    ------
    BundleError
        Not an ONNX file.
    """
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            operators = {operator for graph in _graphs(data) for operator, _ in _nodes(data, *graph)}
    except (ValueError, IndexError, OSError):
        raise BundleError(f"{path.name} is not a valid ONNX file: export the bundle again") from None
    return any(part in operator for operator in operators for part in _INTEGERS)


def with_floats(data: bytes) -> bytes:
    """An ONNX file whose int8 constants are float32 where nothing but ``Cast`` reads them: the same numbers.

    TensorRT takes an int8 constant in front of ``DequantizeLinear`` alone; one that is cast it refuses.

    Parameters
    ----------
    data : bytes
        The file; given back as it is where it holds no such constant.

    Raises
    ------
    BundleError
        Not an ONNX file.
    """
    try:
        return _joined(data, 0, len(data), {_GRAPH: _graph_with_floats})
    except (ValueError, IndexError):
        raise BundleError("the vision graph is not a valid ONNX file: export the bundle again") from None


def raw_data(data: Data) -> dict[str, tuple[int, int]]:
    """Where in an ONNX file the bytes of its graph's weights begin and end, by name, as far as they are stored raw.

    Raises
    ------
    ValueError, IndexError
        Not an ONNX file.
    """
    where: dict[str, tuple[int, int]] = {}
    for graph in _graphs(data):
        for number, _, first, last in _fields(data, *graph):
            if number == _TENSOR:
                held = {part: (low, high) for part, _, low, high in _fields(data, first, last)}
                if _RAW in held and _NAME in held:
                    where[str(data[slice(*held[_NAME])], "utf-8", "replace")] = held[_RAW]
    return where


def _graph_with_floats(data: bytes, begin: int, end: int) -> bytes:
    readers: dict[bytes, set[str]] = {}
    for operator, names in _nodes(data, begin, end):
        for name in names:
            readers.setdefault(name, set()).add(operator)

    def tensor(data: bytes, begin: int, end: int) -> bytes:
        held = {number: (first, last) for number, _, first, last in _fields(data, begin, end)}
        kind, name, raw = (data[slice(*held.get(number, (0, 0)))] for number in (_TYPE, _NAME, _RAW))
        if kind != bytes([_INT8]) or not raw or readers.get(name) != {"Cast"}:
            return data[begin:end]
        return _joined(data, begin, end, {_TYPE: _float_type, _RAW: _floats})

    return _joined(data, begin, end, {_TENSOR: tensor})


def _float_type(data: bytes, begin: int, end: int) -> bytes:
    return bytes([_FLOAT])


def _floats(data: bytes, begin: int, end: int) -> bytes:
    import numpy as np

    return np.frombuffer(data[begin:end], np.int8).astype("<f4").tobytes()


def _joined(data: bytes, begin: int, end: int, changes: dict[int, Change]) -> bytes:
    """A message with some of its fields changed."""
    parts = []
    for number, start, first, last in _fields(data, begin, end):
        if number not in changes:
            parts.append(data[start:last])
            continue
        field = changes[number](data, first, last)
        key = data[start]  # all fields that are changed have numbers below 16: a key of one byte
        parts.append(bytes([key]) + (_length(len(field)) if key & 7 == _BYTES else b"") + field)
    return b"".join(parts)


def _length(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _graphs(data: Data) -> Iterator[tuple[int, int]]:
    return ((first, last) for number, _, first, last in _fields(data, 0, len(data)) if number == _GRAPH)


def _nodes(data: Data, begin: int, end: int) -> Iterator[tuple[str, list[bytes]]]:
    """Operator and names of the inputs of every node of a graph, but for those of graphs inside it."""
    for number, _, first, last in _fields(data, begin, end):
        if number != _NODE:
            continue
        operator, names = "", []
        for part, _, low, high in _fields(data, first, last):
            if part == _OPERATOR:
                operator = str(data[low:high], "utf-8", "replace")
            elif part == _INPUT:
                names.append(bytes(data[low:high]))
        yield operator, names


def _fields(data: Data, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, where its key begins, where its value begins, where it ends) of every field."""
    while at < end:
        start = at
        key, at = varint(data, at, end)
        wire, first = key & 7, at
        if wire == 0:
            _, at = varint(data, at, end)
        elif wire == _BYTES:
            length, first = varint(data, at, end)
            at = first + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if at > end:
            raise ValueError("a field is longer than its message")
        yield key >> 3, start, first, at
