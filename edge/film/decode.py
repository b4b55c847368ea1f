# SPDX-License-Identifier: Apache-2.0
"""Stored pixel values of a DICOM object: native ones here, compressed ones in the sandbox."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.errors import CorruptInput, UnsupportedTransferSyntax
from edge.film.checks import PixelShape
from edge.film.dicomfile import Header, PixelElement
from edge.film.pixels import native_cells, stored_values
from edge.film.terms import EXPLICIT_BE, SYNTAXES


def stored_pixels(
    header: Header, shape: PixelShape, element: PixelElement, warnings: list[str]
) -> NDArray[np.int32]:
    """Stored values, shape (rows, columns).

    Raises
    ------
    CorruptInput
        The pixels end early or cannot be decoded.
    """
    syntax = SYNTAXES[header.syntax]
    if syntax.codec:
        raise UnsupportedTransferSyntax(f"{syntax.name} is not taken yet")
    data = element.read(shape.nbytes + shape.nbytes % 2)
    if len(data) < shape.nbytes:
        raise CorruptInput("the pixel data ends early; the file is truncated")
    little = header.syntax != EXPLICIT_BE
    words = element.vr == "OW"
    cells = native_cells(data, shape, little_endian=little, words=words)
    return stored_values(cells, shape)
