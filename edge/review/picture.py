# SPDX-License-Identifier: Apache-2.0
"""A film's grey values for the page: all of them, sent once; the page does windowing, zoom and pan.

::

    bytes 0-3    length of the JSON text, little endian, a multiple of 4
    JSON text    padded with spaces
    grey values  rows x columns of uint8 or little-endian uint16

A grey value `g` stands for ``low + g * step`` in the film's units, higher is brighter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.preprocess import percentiles

if TYPE_CHECKING:
    from edge.film import Film, Voi

_MOST = 65535
_TABLE = 1024
_ENOUGH = 400_000


def picture(film: Film, image: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """The answer to an upload.

    Parameters
    ----------
    film : Film
    image : mapping
        The manifest's ``image`` block: its percentiles are the window where the film names none.
    about : mapping
        Goes into the JSON text as it is.
    """
    values, low, step = grey_values(film)
    high = low + step * float(values.max())
    text = json.dumps(
        {
            **about,
            "rows": values.shape[0],
            "columns": values.shape[1],
            "bits": film.bits,
            "bytes": values.itemsize,
            "low": low,
            "high": high,
            "step": step,
            "windows": _windows(film, image, low, high),
        },
        allow_nan=False,
    ).encode()
    text += b" " * (-len(text) % 4)
    return b"".join((len(text).to_bytes(4, "little"), text, values.tobytes()))


def grey_values(film: Film) -> tuple[NDArray[Any], float, float]:
    """Values, and the film's units of value 0 and of a step.

    Whole numbers within 65536 of each other, as films have, are kept as they are; anything else is spread over 16
    bits. Padding is 0.

    Returns
    -------
    ndarray of uint8 or little-endian uint16, shape (rows, columns), and two floats
    """
    pixels, valid = film.pixels, film.valid
    inside = pixels if valid is None else pixels[valid]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    whole = high - low <= _MOST and low == np.rint(low) and bool(np.array_equal(inside, np.rint(inside)))
    step = 1.0 if whole else (high - low) / _MOST or 1.0
    scaled = (pixels - np.float32(low)) * np.float32(1.0 / step)
    if not whole:
        np.rint(scaled, out=scaled)
    np.clip(scaled, 0, _MOST, out=scaled)
    if valid is not None:
        scaled[~valid] = 0
    return scaled.astype(np.uint8 if whole and high - low <= 255 else "<u2"), low, step


def _windows(film: Film, image: Mapping[str, Any], low: float, high: float) -> list[dict[str, Any]]:
    """Named windows, the first is shown first; `black` and `white` in the film's units."""
    windows = []
    inside = film.pixels if film.valid is None else film.pixels[film.valid]
    few = inside.ravel()[:: max(1, inside.size // _ENOUGH)]  # a window to look through, not the model's input
    if film.window is not None and few.size and np.ptp(np.rint(film.window.apply(few) * 255)) > 0:  # it shows something
        windows.append({"name": "Film", **_of_film(film.window, low, high)})
    intensity = image["intensity"]
    if intensity.get("mode") == "minmax" or not few.size:
        black, white = low, high
    else:
        black, white = percentiles(few, float(intensity.get("low", 0.5)), float(intensity.get("high", 99.5)))
    windows.append({"name": "Auto", "black": black, "white": white})
    if (black, white) != (low, high):
        windows.append({"name": "Full", "black": low, "white": high})
    return windows


def _of_film(window: Voi, low: float, high: float) -> dict[str, Any]:
    """The film's own transformation; those that are no straight line also as a table from `low` to `high`."""
    if window.kind in ("LINEAR", "LINEAR_EXACT"):
        exact = window.kind == "LINEAR_EXACT"
        middle = window.center if exact else window.center - 0.5
        half = max(window.width if exact else window.width - 1.0, 1e-3) / 2
        black, white = middle - half, middle + half
        if window.mirror is not None:
            black, white = window.mirror - white, window.mirror - black
        return {"black": black, "white": white}
    curve = window.apply(np.linspace(low, high, _TABLE, dtype=np.float32))
    table = np.clip(np.rint(curve * 255), 0, 255).astype(int)
    rising = np.flatnonzero((table > 12) & (table < 243))
    first, last = (int(rising[0]), int(rising[-1])) if rising.size else (0, _TABLE - 1)
    unit = (high - low) / (_TABLE - 1)
    return {"black": low + first * unit, "white": low + max(last, first + 1) * unit, "table": table.tolist()}
