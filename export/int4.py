# SPDX-License-Identifier: Apache-2.0
"""Matrices to int4: groups of 32 columns with a half-precision scale, as docs/bundle.md describes. Needs NumPy only."""

from __future__ import annotations

import numpy as np

GROUP = 32
LEVELS = np.array([-127, -98, -78, -62, -48, -36, -23, -11, 1, 12, 24, 37, 50, 65, 83, 105], np.float32) / 128
_BORDERS = (LEVELS[1:] + LEVELS[:-1]) / 2
# The first column of each byte's two: byte 8a + 2j + e holds 16a + 8e + j and, above it, the one 4 further.
_LOW = np.array([16 * a + 8 * e + j for a in (0, 1) for j in range(4) for e in (0, 1)])
_TRIES = np.array([0.8, 0.87, 0.93, 1.0, 1.07, 1.15], np.float32)
"""Factors on the scale that puts a group's largest value on an outermost level."""
_CHUNK = 1 << 13
_COARSE = LEVELS[np.searchsorted(_BORDERS, np.linspace(-1, 1, 256, dtype=np.float32))]
"""The level nearest to each of 256 values from -1 to 1: near enough to compare scales by."""
_MOST = np.float32(np.finfo(np.float16).max)


def fits(shape: tuple[int, ...]) -> bool:
    """Whether a matrix of this shape has whole groups."""
    return len(shape) == 2 and shape[1] % GROUP == 0


def quantize_groups(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float32 matrix to int4; each group gets the scale, of some, that leaves the least squared error.

    Returns
    -------
    packed uint8 [rows, columns / 2] and float16 scales [rows, columns / 32]
    """
    rows, columns = weight.shape
    groups = np.ascontiguousarray(weight, np.float32).reshape(-1, GROUP)
    packed = np.empty((len(groups), GROUP // 2), np.uint8)
    scales = np.empty(len(groups), np.float16)
    for at in range(0, len(groups), _CHUNK):
        part = slice(at, at + _CHUNK)
        scales[part] = _scales(groups[part])
        nibbles = _nearest(groups[part], scales[part].astype(np.float32))
        packed[part] = nibbles[:, _LOW] | nibbles[:, _LOW + 4] << 4
    return packed.reshape(rows, columns // 2), scales.reshape(rows, columns // GROUP)


def widen_groups(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The float32 matrix that an int4 one stands for."""
    groups = packed.reshape(-1, GROUP // 2)
    wide = np.empty((len(groups), GROUP), np.float32)
    wide[:, _LOW], wide[:, _LOW + 4] = LEVELS[groups & 15], LEVELS[groups >> 4]
    wide *= scales.astype(np.float32).reshape(-1, 1)
    return wide.reshape(len(packed), -1)


def _nearest(groups: np.ndarray, scale: np.ndarray) -> np.ndarray:
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    return np.searchsorted(_BORDERS, groups * inverse[:, None]).astype(np.uint8)


def _scales(groups: np.ndarray) -> np.ndarray:
    """The best scale of each group [n, 32], of either sign: the levels reach further on one side.

    With levels chosen, the best scale is the projection of the group onto them, and what it takes off the squared
    error is (x . l)^2 / (l . l).
    """
    largest = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1)[:, 0]
    best, gain = np.zeros(len(groups), np.float32), np.full(len(groups), -1.0, np.float32)
    for end in (LEVELS[0], LEVELS[-1]):
        for factor in _TRIES:
            unit = groups * np.divide(end / factor, largest, out=np.zeros_like(largest), where=largest != 0)[:, None]
            levels = _COARSE[np.clip(unit * 127.5 + 128, 0, 255).astype(np.uint8)]
            along = np.einsum("ij,ij->i", groups, levels)
            square = np.einsum("ij,ij->i", levels, levels)
            better = along * along > gain * square
            gain = np.where(better, along * along / square, gain)
            best = np.where(better, along / square, best)
    return np.clip(best, -_MOST, _MOST).astype(np.float16)
