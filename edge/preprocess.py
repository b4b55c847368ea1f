# SPDX-License-Identifier: Apache-2.0
"""Film to 8-bit picture to model input, as the bundle says.

The 8-bit step is deliberate: the models of this field were trained on 8-bit pictures made from DICOM, so a
bundle names how such a picture is made (``intensity``) and everything after that is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BundleError
from edge.film.grey import uniform

if TYPE_CHECKING:
    from edge.film import Film

MODES = ("window", "minmax", "percentile")
STRIP = 1 << 16
"""Pixels worked on at a time."""


def to_gray8(film: Film, intensity: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The 8-bit picture of a film.

    Parameters
    ----------
    film : Film
    intensity : mapping
        ``mode``: "window" (the file's VOI LUT or window; "percentile" where the file has none, or one that shows
        nothing, which the film's warnings then say), "minmax" or "percentile"; ``low``, ``high``: percentiles in
        0..100 (default 0.5 and 99.5); ``equalize``: whether the histogram is equalised afterwards (default false).

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
        0 is black. Padding takes no part in the range or the histogram and is black.

    Raises
    ------
    BundleError
        `intensity` holds a value this version does not know.
    """
    mode = intensity.get("mode", "percentile")
    if mode not in MODES:
        raise BundleError(f"unknown intensity mode {mode!r}; known: {', '.join(MODES)}")
    low, high = float(intensity.get("low", 0.5)), float(intensity.get("high", 99.5))
    if not 0.0 <= low < high <= 100.0:
        raise BundleError("intensity percentiles must satisfy 0 <= low < high <= 100")
    pixels, valid = film.pixels, film.valid
    gray = np.empty(pixels.shape, np.uint8)
    shown = False
    if mode == "window" and film.window is not None:
        for rows in _strips(pixels):
            gray[rows] = _levels(film.window.apply(pixels[rows]))
        shown = not uniform(gray, valid)
        if not shown:
            film.warnings.append("the window in the header shows nothing of the film and is not used")
    if not shown:
        inside = pixels if valid is None else pixels[valid]
        if mode == "minmax":
            bottom, top = float(inside.min()), float(inside.max())
        else:
            bottom, top = percentiles(inside, low, high)
            if bottom == top:  # nearly uniform: what differs is in the tails
                bottom, top = float(inside.min()), float(inside.max())
        # (A denormal range has no reciprocal; a film's values are none, an array's may be.)
        if not top - bottom > 1e-38:
            return np.zeros(pixels.shape, np.uint8)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and white
            for rows in _strips(pixels):
                unit = pixels[rows] - np.float32(bottom)
                unit *= np.float32(1.0 / (top - bottom))
                gray[rows] = _levels(np.clip(unit, 0.0, 1.0, out=unit))
    if intensity.get("equalize", False):
        gray = equalize(gray, valid)
    if valid is not None:
        gray[~valid] = 0
    return gray


def _strips(pixels: NDArray[Any]) -> Iterator[slice]:
    """Rows whose float32 values stay in a processor's cache from one step to the next."""
    height = max(1, STRIP // max(1, pixels.shape[1]))
    return (slice(first, first + height) for first in range(0, len(pixels), height))


def _levels(unit: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 to 0..255, half of a level up; `unit` is worked on in place."""
    unit *= np.float32(255.0)
    unit += np.float32(0.5)
    return unit.astype(np.uint8)


def percentiles(values: NDArray[np.float32], low: float, high: float) -> tuple[float, float]:
    """Two percentiles (0..100), as ``numpy.percentile`` with linear interpolation; any shape.

    Integral values within 2**20 of each other, as films have, are counted instead of sorted.
    """
    flat = values.ravel()
    bottom, top = float(flat.min()), float(flat.max())
    if not (top - bottom < 2**20 and abs(bottom) < 2**23 and bottom == math.floor(bottom)):
        pair = np.percentile(flat, (low, high))
        return float(pair[0]), float(pair[1])
    counts = np.zeros(int(top - bottom) + 1, np.int64)
    for first in range(0, flat.size, STRIP):
        above = flat[first : first + STRIP] - np.float32(bottom)
        shifted = above.astype(np.int32)
        if not np.array_equal(shifted, above):
            pair = np.percentile(flat, (low, high))
            return float(pair[0]), float(pair[1])
        found = np.bincount(shifted)
        counts[: len(found)] += found
    cumulative = np.cumsum(counts)

    def at(percent: float) -> float:
        place = percent / 100.0 * (flat.size - 1)
        rank = math.floor(place)
        here = int(np.searchsorted(cumulative, rank, side="right"))
        there = int(np.searchsorted(cumulative, min(rank + 1, flat.size - 1), side="right"))
        return bottom + here + (there - here) * (place - rank)

    return at(low), at(high)


def equalize(gray: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Histogram equalisation with the formula of OpenCV's ``equalizeHist``; padding is not counted.

    With ``h`` the histogram, ``m`` its first non-empty bin and ``N`` the number of pixels, grey ``v`` becomes
    ``round(255 / (N - h[m]) * sum(h[m+1..v]))``. A uniform picture stays as it is.
    """
    counted = (gray if valid is None else gray[valid]).ravel()
    histogram = np.zeros(256, np.int64)
    for start in range(0, counted.size, STRIP):
        histogram += np.bincount(counted[start : start + STRIP], minlength=256)
    first = int(np.flatnonzero(histogram)[0])
    rest = counted.size - int(histogram[first])
    if rest == 0:
        return gray.copy()
    histogram[first] = 0
    scale = np.float32(255.0) / np.float32(rest)
    table = np.rint(np.cumsum(histogram).astype(np.float32) * scale)
    levels = np.clip(table, 0, 255).astype(np.uint8)
    out = np.empty_like(gray)
    for rows in _strips(gray):
        np.take(levels, gray[rows], out=out[rows], mode="clip")  # which is quicker; all are inside
    return out


def to_pixels(gray8: NDArray[np.uint8], image: Mapping[str, Any]) -> NDArray[np.float32]:
    """The model's input of an 8-bit picture.

    Pillow's resize (antialiased; the aspect is not kept), then ``(x / 255 - mean) / std`` per channel;
    the grey picture stands in for all three. With ``crop_from`` the picture is resized to that, rows and columns, or
    one number for the shorter edge of a picture whose aspect is kept, and the middle of it is taken.

    Parameters
    ----------
    gray8 : ndarray of uint8, shape (rows, columns)
    image : mapping
        ``height``, ``width``, ``resize`` ("bicubic", "bilinear" or "lanczos"), ``mean`` and ``std`` (three numbers
        each), perhaps ``crop_from`` (one or two numbers).

    Returns
    -------
    ndarray of float32, shape (1, 3, height, width)

    Raises
    ------
    BundleError
        Another resize is asked for.
    """
    from PIL import Image

    filters = {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
        "lanczos": Image.Resampling.LANCZOS,
    }
    if (name := image.get("resize", "bicubic")) not in filters:
        raise BundleError(f"unknown resize {name!r}; known: {', '.join(filters)}")
    size = (int(image["width"]), int(image["height"]))
    picture = Image.fromarray(np.ascontiguousarray(gray8))
    if whole := image.get("crop_from"):
        picture = picture.resize(_size_before_crop(whole, picture.size), filters[name])
        left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
        picture = picture.crop((left, top, left + size[0], top + size[1]))
    else:
        picture = picture.resize(size, filters[name])
    unit = np.asarray(picture, np.float32) / np.float32(255.0)
    mean = np.asarray(image["mean"], np.float32).reshape(3, 1, 1)
    std = np.asarray(image["std"], np.float32).reshape(3, 1, 1)
    return np.ascontiguousarray(((unit[None] - mean) / std)[None], np.float32)


def _size_before_crop(whole: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Width and height to resize a picture of `size` (width, height) to."""
    if len(whole) == 2:
        return int(whole[1]), int(whole[0])
    edge, short = int(whole[0]), min(size)
    width, height = (edge if side == short else int(edge * side / short) for side in size)
    # A film is never so narrow; what claims to be is not worth the memory.
    return min(width, 16 * edge), min(height, 16 * edge)
