# SPDX-License-Identifier: Apache-2.0
"""Drawing surface in film units: anti-aliased polygons that look alike at every resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Points = npt.NDArray[np.floating]

_SHIFT = 4
_MIN_SIDE = 768
_COARSE = 160


class Canvas:
    """Maps film units (x 0..1, y 0..aspect) to pixels and draws on supersampled 8-bit layers.

    Parameters
    ----------
    height, width : int
        Size of the picture, pixels.
    aspect : float
        Film height / width; a picture of another shape is stretched, as a resize would.
    """

    def __init__(self, height: int, width: int, aspect: float) -> None:
        self.height, self.width, self.aspect = height, width, aspect
        factor = max(1, math.ceil(_MIN_SIDE / max(height, width)))
        self.shape = (height * factor, width * factor)
        self._scale = np.array([self.shape[1], self.shape[0] / aspect])

    def layer(self) -> Bytes:
        """An empty supersampled layer, uint8."""
        return np.zeros(self.shape, np.uint8)

    def fill(self, layer: Bytes, points: Points, value: int = 255) -> None:
        """Fill one polygon, ``points`` [N,2] in film units."""
        pixels = np.rint((points * self._scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(layer, [pixels], value, cv2.LINE_AA, _SHIFT)

    def stroke(self, layer: Bytes, path: Points, widths: float | Points, value: int = 255) -> None:
        """Draw an open ``path`` [N,2] as a tube; ``widths`` in film units, one or one per point."""
        path = np.asarray(path, float)
        self.strokes(layer, path[None], np.broadcast_to(widths, (1, len(path))), (value,))

    def strokes(self, layer: Bytes, paths: Points, widths: Points, values: Sequence[int]) -> None:
        """Draw tubes: ``paths`` [M,N,2], ``widths`` [M,N] (film units), ``values`` [M]; later ones on top."""
        pad = 0.7 / self.shape[1]
        outlines = tubes(paths, np.maximum(widths - pad, 0.3 * pad))
        pixels = np.rint((outlines * self._scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
        for polygon, value in zip(pixels, values, strict=True):
            cv2.fillPoly(layer, [polygon], int(value), cv2.LINE_AA, _SHIFT)

    def down(self, layer: Bytes, blur: float = 0.0) -> Array:
        """Layer as float32 [height,width] 0..1, blurred by ``blur`` film widths (sigma)."""
        if layer.shape != (self.height, self.width):
            layer = cv2.resize(layer, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return self.blur(layer.astype(np.float32) * np.float32(1 / 255), blur)

    def blur(self, picture: Array, sigma: float) -> Array:
        """Gaussian blur with ``sigma`` in film widths (nothing below a quarter of a pixel)."""
        sx, sy = sigma * self.width, sigma * self.height / self.aspect
        if max(sx, sy) < 0.25:
            return picture
        return cv2.GaussianBlur(
            picture, (0, 0), sigmaX=max(sx, 0.05), sigmaY=max(sy, 0.05), borderType=cv2.BORDER_REPLICATE
        )

    def mask(self, layer: Bytes) -> npt.NDArray[np.bool_]:
        """Layer as a mask at picture size (at least half covered)."""
        if layer.shape != (self.height, self.width):
            layer = cv2.resize(layer, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return layer > 127

    def coarse_xy(self) -> tuple[Array, Array]:
        """Film coordinates x, y of the fixed coarse grid on which smooth parts are computed."""
        line = (np.arange(_COARSE, dtype=np.float32) + 0.5) / _COARSE
        x, y = np.meshgrid(line, line * np.float32(self.aspect))
        return x, y

    def up(self, coarse: Array) -> Array:
        """A picture on any square grid over the film, brought to [height,width] float32."""
        finer = coarse.shape[0] <= min(self.height, self.width)
        how = cv2.INTER_CUBIC if finer else cv2.INTER_AREA
        return cv2.resize(np.ascontiguousarray(coarse, np.float32), (self.width, self.height), interpolation=how)

    def window(self, centre: Sequence[float], radius: float) -> tuple[slice, slice, Array, Array]:
        """Crop of the picture around ``centre``: row and column slices, and x, y (film units) inside it."""
        x0 = max(0, int((centre[0] - radius) * self.width))
        x1 = min(self.width, int((centre[0] + radius) * self.width) + 2)
        y0 = max(0, int((centre[1] - radius) * self.height / self.aspect))
        y1 = min(self.height, int((centre[1] + radius) * self.height / self.aspect) + 2)
        x = (np.arange(x0, x1, dtype=np.float32) + 0.5) / self.width
        y = (np.arange(y0, y1, dtype=np.float32) + 0.5) * np.float32(self.aspect / self.height)
        return slice(y0, y1), slice(x0, x1), x[None, :], y[:, None]


def tubes(paths: Points, widths: Points) -> Points:
    """Outlines [M,2N,2] of tubes of ``widths`` [M,N] around ``paths`` [M,N,2]."""
    along = np.empty_like(paths)
    along[:, 1:-1] = paths[:, 2:] - paths[:, :-2]
    along[:, 0] = paths[:, 1] - paths[:, 0]
    along[:, -1] = paths[:, -1] - paths[:, -2]
    along *= 0.5 * (widths / np.maximum(np.sqrt((along**2).sum(-1)), 1e-9))[..., None]
    normal = along[..., ::-1] * (-1.0, 1.0)
    return np.concatenate([paths + normal, (paths - normal)[:, ::-1]], 1)


def smooth(points: Sequence[Sequence[float]] | Points, steps: int = 8, closed: bool = False) -> Points:
    """Catmull-Rom curve through ``points`` with ``steps`` points per piece."""
    p = np.asarray(points, float)
    q = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    a, b, c, d = q[:-3, None], q[1:-2, None], q[2:-1, None], q[3:, None]
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])
