# SPDX-License-Identifier: Apache-2.0
"""Pixel cells to stored values: byte order, high bit, dirty bits, sign (PS3.5 section 8.1.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.film.checks import PixelShape


def native_cells(data: bytes, shape: PixelShape, *, little_endian: bool, words: bool) -> NDArray[Any]:
    """Cells of native pixel data.

    Parameters
    ----------
    data : bytes
        At least ``shape.nbytes`` (one more for an odd count where `words`).
    shape : PixelShape
    little_endian : bool
    words : bool
        The element is OW: in big endian its 8-bit cells are swapped in pairs (PS3.5 8.1.2).

    Returns
    -------
    ndarray of uint8 or uint16, shape (rows, columns)
    """
    count = shape.rows * shape.columns
    if shape.allocated == 16:
        cells = np.frombuffer(data, "<u2" if little_endian else ">u2", count)
        return cells.reshape(shape.rows, shape.columns)
    if words and not little_endian:
        even = data if len(data) % 2 == 0 else data + b"\0"
        swapped = np.frombuffer(even, np.uint16).byteswap().view(np.uint8)
        return swapped[:count].reshape(shape.rows, shape.columns)
    return np.frombuffer(data, np.uint8, count).reshape(shape.rows, shape.columns)


def stored_values(cells: NDArray[Any], shape: PixelShape) -> NDArray[Any]:
    """Stored values of cells: bits outside the stored ones are dropped, the sign is extended.

    Returns
    -------
    ndarray of uint8, uint16 or int32, shape (rows, columns)
        Unsigned data keep their width where nothing has to be shifted.
    """
    mask = (1 << shape.stored) - 1
    values = cells if cells.dtype.isnative else cells.astype(cells.dtype.newbyteorder("="))
    if shape.low_bit:
        values = values >> shape.low_bit
    if shape.stored < values.dtype.itemsize * 8:
        values = values & values.dtype.type(mask)
    if not shape.signed:
        return values
    sign = 1 << (shape.stored - 1)
    wide = values.astype(np.int32)
    return (wide ^ sign) - sign
