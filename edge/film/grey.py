# SPDX-License-Identifier: Apache-2.0
"""Stored values to a film: modality transformation, VOI, padding, polarity (PS3.3 C.7.5.1, C.11.1, C.11.2).

Polarity. MONOCHROME1 says that the lowest value is white after the VOI transformation (C.7.6.3.1.2);
PresentationLUTShape INVERSE says that the output has to be inverted to become P-values, and "shall be used if
Photometric Interpretation is MONOCHROME1" (general image and DX image modules, C.7.6.1 and C.8.11.3). They are
two statements of one inversion, so a film with either or both is inverted once. The two mixed pairs contradict
the standard; they are inverted as well, with a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import CorruptInput
from edge.film.checks import PixelShape
from edge.film.header import Values
from edge.film.voi import Voi

_MOST = 1e30
"""Windows are worked out in single precision: beyond this they would leave it."""


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up table item."""

    first: int
    bits: int
    table: NDArray[np.uint16]


def modality(stored: NDArray[Any], values: Values, shape: PixelShape) -> tuple[NDArray[np.float32], float, float]:
    """Modality units of stored values (PS3.3 C.11.1), and the lowest and highest of them a stored value can have.

    Parameters
    ----------
    stored : ndarray of uint8, uint16 or int32, shape (rows, columns)

    Returns
    -------
    ndarray of float32, shape (rows, columns), and two floats

    Raises
    ------
    CorruptInput
        The modality LUT or the rescale values cannot be used: guessing would show another picture.
    """
    items = values.items("ModalityLUTSequence")
    if items:
        lut = read_lut(items[0], signed=shape.signed)
        index = np.clip(stored.astype(np.int32) - lut.first, 0, len(lut.table) - 1)
        return lut.table[index].astype(np.float32), 0.0, float(_top(lut))
    slope, intercept = values.number("RescaleSlope"), values.number("RescaleIntercept")
    slope = 1.0 if slope is None else slope
    intercept = 0.0 if intercept is None else intercept
    if not 1e-12 < abs(slope) < 1e12 or abs(intercept) > 1e12:
        raise CorruptInput("the rescale slope or intercept in the header is not usable")
    ends = (shape.lowest * slope + intercept, shape.highest * slope + intercept)
    pixels = stored.astype(np.float32)
    if slope != 1.0:
        pixels *= np.float32(slope)
    if intercept != 0.0:
        pixels += np.float32(intercept)
    return pixels, min(ends), max(ends)


def voi(values: Values, lowest: float, warnings: list[str]) -> Voi | None:
    """The file's VOI LUT or window, the first of several; None where there is none that can be used.

    Parameters
    ----------
    values : Values
    lowest : float
        Lowest possible modality value: a negative one makes the LUT's first mapped value signed (C.11.2.1.1).
    warnings : list of str
    """
    try:
        items = values.items("VOILUTSequence")
        if items:
            lut = read_lut(items[0], signed=lowest < 0)
            table = lut.table.astype(np.float32) / np.float32(_top(lut))
            return Voi("LUT", first=float(lut.first), table=table)
    except CorruptInput:
        warnings.append("the VOI look-up table in the header is damaged and not used")
    try:
        center, width = values.number("WindowCenter"), values.number("WindowWidth")
        if max(abs(center or 0.0), abs(width or 0.0)) >= _MOST:
            raise CorruptInput
    except CorruptInput:
        warnings.append("the window in the header is damaged and not used")
        return None
    if center is None or width is None:
        return None
    kind = values.term("VOILUTFunction").replace(" ", "_") or "LINEAR"
    if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        warnings.append("the header's VOI function is unknown; a linear window is used")
        kind = "LINEAR"
    if width < 1 if kind == "LINEAR" else width <= 1e-6:
        warnings.append("the window width in the header is impossible; the window is not used")
        return None
    return Voi(kind, center=center, width=width)  # type: ignore[arg-type]


def read_lut(item: Values, *, signed: bool) -> Lut:
    """A Modality or VOI LUT item (C.11.1.1, C.11.2.1.1).

    Raises
    ------
    CorruptInput
    """
    signed = signed or item.vr("LUTDescriptor") == "SS"
    unsigned_words = item.words("LUTDescriptor")
    if len(unsigned_words) != 3:
        raise CorruptInput("a look-up table in the header has no proper descriptor")
    count = unsigned_words[0] or 0x10000
    first = item.words("LUTDescriptor", signed=signed)[1]
    bits = unsigned_words[2]
    if not 8 <= bits <= 16:
        raise CorruptInput("a look-up table in the header has an impossible depth")
    data = item.data("LUTData")
    if isinstance(data, bytes):
        if len(data) >= 2 * count:
            table = np.frombuffer(data, item.order + "u2", count).astype(np.uint16)
        elif count <= len(data) <= count + 1:
            table = np.frombuffer(data, np.uint8, count).astype(np.uint16)
        else:
            raise CorruptInput("a look-up table in the header is shorter than it says")
    else:
        if data is None or len(data) < count:
            raise CorruptInput("a look-up table in the header is shorter than it says")
        table = np.asarray(data[:count], np.uint16)
    return Lut(first, bits, table)


def _top(lut: Lut) -> int:
    """Highest output of a LUT: its nominal depth, or more where its entries exceed that."""
    return max((1 << lut.bits) - 1, (1 << int(lut.table.max()).bit_length()) - 1)


def padding(stored: NDArray[Any], values: Values, shape: PixelShape, warnings: list[str]) -> NDArray[np.bool_] | None:
    """True where a pixel is picture, False where it is padding (PS3.3 C.7.5.1.1.2); None without padding.

    Parameters
    ----------
    stored : ndarray of uint8, uint16 or int32, shape (rows, columns)
        Not in modality units: padding is told in stored values.
    warnings : list of str
        One is appended where all is padding.
    """
    first = values.word("PixelPaddingValue", signed=shape.signed)
    if first is None:
        return None
    limit = values.word("PixelPaddingRangeLimit", signed=shape.signed)
    low, high = (first, first) if limit is None else (min(first, limit), max(first, limit))
    valid = (stored < low) | (stored > high)
    if not valid.any():
        warnings.append("every pixel is marked as padding; the padding value is ignored")
        return None
    return None if valid.all() else valid


def uniform(values: NDArray[Any], valid: NDArray[np.bool_] | None) -> bool:
    """Whether all that is picture of `values` [rows, columns] has one value.

    What few pixels show is not looked for in all. `valid`, of the same shape, says what is picture; None: all is.
    """
    for step in (16, 1):
        part = values[::step, ::step]
        inside = part if valid is None else part[valid[::step, ::step]]
        if inside.size and inside.min() != inside.max():
            return False
    return True


def inverted(values: Values, shape: PixelShape, warnings: list[str]) -> bool:
    """Whether the film has to be inverted to be brighter for higher values."""
    inverse = values.term("PresentationLUTShape")
    one = shape.photometric == "MONOCHROME1"
    if inverse in ("INVERSE", "IDENTITY") and one != (inverse == "INVERSE"):
        warnings.append("photometric interpretation and presentation LUT shape contradict each other")
    return one or inverse == "INVERSE"


def invert(
    pixels: NDArray[np.float32], window: Voi | None, lowest: float, highest: float
) -> tuple[NDArray[np.float32], Voi | None]:
    """Turn brightness over within the range of modality values, the window with it.

    Parameters
    ----------
    pixels : ndarray of float32, shape (rows, columns)
        In modality units; turned over in place.
    lowest, highest : float
        Of the modality values that a stored value can have.

    Raises
    ------
    CorruptInput
        The range is not finite.
    """
    mirror = float(np.float32(lowest + highest))
    if not math.isfinite(mirror):
        raise CorruptInput("the rescale slope or intercept in the header is not usable")
    np.subtract(np.float32(mirror), pixels, out=pixels)
    return pixels, None if window is None else window.mirrored(mirror)
