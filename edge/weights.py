# SPDX-License-Identifier: Apache-2.0
"""Decoder weights: a strict, zero-copy reader of safetensors, and the check against the decoder spec.

Layout of the file: 8 bytes little-endian length of a JSON header, the header, the data. The header's offsets
come from the file, so each is checked before it is used.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError

MAX_HEADER_BYTES = 16 << 20
GROUP = 32
"""Columns of an int4 matrix that share one scale."""
PREFILL = "prefill."
"""In front of the name of a layer's matrix: the int8 one that a prefill takes instead of an int4 one."""
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}


def map_safetensors(path: Path, dtypes: Mapping[str, np.dtype[Any]] = _DTYPES) -> dict[str, NDArray[Any]]:
    """Map every tensor of a safetensors file read-only; `dtypes` are those that may be in it.

    Returns
    -------
    dict of str to ndarray
        Of these types and of the file's shapes, C-contiguous and aligned; views of the mapped file where its alignment
        allows.

    Raises
    ------
    BundleError
        The file breaks the format, or holds other types.
    """

    def fail(what: str) -> BundleError:
        return BundleError(f"{path.name} is not a valid safetensors file: {what}")

    size = path.stat().st_size
    if size < 10:
        raise fail("it is too short")
    with open(path, "rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # switched off in this system: small pages will do
            mapped.madvise(mmap.MADV_HUGEPAGE)
    length = int.from_bytes(mapped[:8], "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise fail("its header is longer than the file or the limit")
    try:
        header = json.loads(mapped[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise fail("its header is not JSON") from None
    if not isinstance(header, dict):
        raise fail("its header is not an object")
    header.pop("__metadata__", None)
    start = 8 + length
    arrays: dict[str, NDArray[Any]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(entry, size - start, dtypes, fail)
        array = np.frombuffer(mapped, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(shape)
        arrays[name] = array if array.flags.aligned else array.copy()
        spans.append((begin, end))
    spans.sort()
    if any(left[1] > right[0] for left, right in pairwise(spans)):
        raise fail("two tensors overlap")
    return arrays


def settle(path: Path) -> None:
    """Write a new file of weights to the disk and forget its cached pages.

    What a program writes is cached in the system's small pages, and every later process maps those, which decode more
    slowly. Read anew through a mapping, it lies in huge pages where the file system has them.
    """
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # only speed is at stake
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("a key appears twice")
    return result


def _entry(
    entry: Any, room: int, dtypes: Mapping[str, np.dtype[Any]], fail: Any
) -> tuple[np.dtype[Any], list[int], int, int]:
    """Type, shape, begin and end of one tensor, with every number checked against `room` bytes of data."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise fail("a tensor's entry is malformed")
    dtype = dtypes.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise fail(f"a tensor is neither {' nor '.join(dtypes)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(v) is int and 0 <= v <= room for v in numbers):
            raise fail("a shape or an offset is out of range")
    if not 1 <= len(shape) <= 2 or len(offsets) != 2:
        raise fail("a tensor has neither one nor two dimensions")
    begin, end = offsets
    if begin > end or math.prod(shape) * dtype.itemsize != end - begin:
        raise fail("a tensor's shape does not match its bytes")
    return dtype, shape, begin, end


def expected_shapes(spec: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and "is a matrix, so may be int8 or int4" of every weight that the decoder spec asks for."""
    d, f, v = spec["hidden"], spec["mlp"], spec["vocab"]
    yield "embed.weight", (v, d), True
    yield "positions.weight", (spec["max_positions"], d), False
    if spec.get("token_types"):
        yield "types.weight", (spec["token_types"], d), False
    cross = spec.get("cross_keys", 0) > 0
    norms = ("attn_norm", "cross_norm", "mlp_norm") if cross else ("attn_norm", "mlp_norm")
    shapes = {"qkv": (3 * d, d), "attn_out": (d, d), "mlp_in": (f, d), "mlp_out": (d, f)}
    if cross:
        shapes |= {"cross_q": (d, d), "cross_out": (d, d)}
    for i in range(spec["layers"]):
        for norm in norms:
            yield f"layers.{i}.{norm}.weight", (d,), False
            yield f"layers.{i}.{norm}.bias", (d,), False
        for name, (rows, columns) in shapes.items():
            yield f"layers.{i}.{name}.weight", (rows, columns), True
            yield f"layers.{i}.{name}.bias", (rows,), False
    if spec.get("head_transform"):
        yield "transform.weight", (d, d), True
        yield "transform.bias", (d,), False
    singles = {
        "embed_norm": spec.get("embed_norm"),
        "final_norm": spec["norm_position"] == "pre",
        "transform_norm": spec.get("head_transform"),
    }
    for norm in (name for name, there in singles.items() if there):
        yield f"{norm}.weight", (d,), False
        yield f"{norm}.bias", (d,), False
    if not spec["tied_head"]:
        yield "head.weight", (v, d), True
    if spec.get("head_bias"):
        yield "head.bias", (v,), False


def check_weights(arrays: Mapping[str, NDArray[Any]], spec: Mapping[str, Any]) -> None:
    """Compare names, shapes and types with the decoder spec.

    Raises
    ------
    BundleError
        Once, with every missing, unexpected and wrong weight (the first few of each).
    """
    problems: list[str] = []
    left = set(arrays)
    for name, shape, is_matrix in expected_shapes(spec):
        left.discard(name)
        array = arrays.get(name)
        problems += _beside(PREFILL + name, arrays, shape, array is not None and array.dtype == np.uint8, left)
        if array is None:
            problems.append(f"{name} is missing")
        elif array.dtype in (np.int8, np.uint8) and is_matrix:
            left.discard(f"{name}.scale")
            problems += _quantized(name, array, arrays.get(f"{name}.scale"), shape)
        elif array.shape != shape:
            problems.append(f"{name} is {list(array.shape)} instead of {list(shape)}")
        elif array.dtype != np.float32:
            problems.append(f"{name} must be float32" + (", int8 or int4" if is_matrix else ""))
    problems += [f"{name!r} is unknown" for name in sorted(left)]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise BundleError("the weights do not fit the decoder spec: " + "; ".join(problems[:6]) + more)


def _beside(
    name: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...], is_int4: bool, left: set[str]
) -> Iterator[str]:
    """What is wrong with the int8 matrix that a prefill may have beside an int4 one of a layer."""
    if name in left and is_int4 and name.startswith(f"{PREFILL}layers.") and "cross_" not in name:
        left -= {name, f"{name}.scale"}
        if arrays[name].dtype != np.int8:
            yield f"{name} must be int8"
        else:
            yield from _quantized(name, arrays[name], arrays.get(f"{name}.scale"), shape)


def _quantized(name: str, array: NDArray[Any], scale: NDArray[Any] | None, shape: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with an int8 matrix (a float32 scale per row) or an int4 one (two columns per byte, a float16
    scale per group of columns) of the full `shape`."""
    rows, columns = shape
    four = array.dtype == np.uint8
    if four and columns % GROUP:
        yield f"{name} cannot be int4: {columns} columns are not whole groups of {GROUP}"
        return
    stored = (rows, columns // 2) if four else shape
    scales = (rows, columns // GROUP) if four else (rows,)
    dtype = np.dtype(np.float16 if four else np.float32)
    if array.shape != stored:
        yield f"{name} is {list(array.shape)} instead of {list(stored)}"
    elif scale is None or scale.dtype != dtype or scale.shape != scales:
        yield f"{name}.scale must be {dtype} {list(scales)}"
    elif not np.isfinite(scale).all() or (not four and (scale < 0).any()):
        yield f"{name}.scale holds values that are not scales"
