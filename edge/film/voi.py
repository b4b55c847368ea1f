# SPDX-License-Identifier: Apache-2.0
"""Values of interest: window (three functions) or look-up table, DICOM PS3.3 C.11.2."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Voi:
    """The file's own grey-scale transformation.

    Attributes
    ----------
    kind : {"LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"}
    center, width : float
        Window, in modality units of the file (before any inversion). Unused for a LUT.
    first : float
        Modality value mapped to the first entry of the LUT.
    table : ndarray of float32 or None
        LUT scaled to 0..1.
    mirror : float or None
        Where the film was inverted: its pixels are ``mirror - value``. The transformation is then evaluated
        on ``mirror - pixel`` and its result turned over: exact for every kind, ties at the edges included.
    """

    kind: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"]
    center: float = 0.0
    width: float = 1.0
    first: float = 0.0
    table: NDArray[np.float32] | None = field(default=None, repr=False)
    mirror: float | None = None

    def mirrored(self, mirror: float) -> Voi:
        """The same transformation for pixels inverted as ``mirror - value``."""
        return replace(self, mirror=mirror)

    def apply(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Brightness 0 (black) to 1 (white) of pixels in the film's units; any shape."""
        if self.mirror is None:
            return self._curve(pixels)
        out = self._curve(np.float32(self.mirror) - pixels)
        return np.subtract(np.float32(1.0), out, out=out)

    def _curve(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        # One float32 picture is allocated and worked on in place: films have up to 100 megapixels.
        if self.kind == "LUT":
            assert self.table is not None
            index = np.clip(np.floor(x - np.float32(self.first)), 0, len(self.table) - 1).astype(np.int32)
            picked: NDArray[np.float32] = self.table[index]
            return picked
        if self.kind == "SIGMOID":
            y = x * np.float32(-4.0 / self.width)
            y += np.float32(4.0 * self.center / self.width)
            np.clip(y, -80.0, 80.0, out=y)
            np.exp(y, out=y)
            y += np.float32(1.0)
            np.reciprocal(y, out=y)
            return y
        if self.kind == "LINEAR":
            middle, span = self.center - 0.5, self.width - 1.0
        else:
            middle, span = self.center, self.width
        if span <= 0:  # LINEAR with width 1: a threshold
            return (x > np.float32(middle)).astype(np.float32)
        y = x - np.float32(middle)
        y *= np.float32(1.0 / span)
        y += np.float32(0.5)
        return np.clip(y, 0.0, 1.0, out=y)
