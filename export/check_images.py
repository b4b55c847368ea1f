# SPDX-License-Identifier: Apache-2.0
"""Pictures on which an export checks itself: drawn phantoms, smooth random pictures, and noise."""

from __future__ import annotations

from typing import Any

import numpy as np

PHANTOMS, SMOOTH, NOISE = 3, 1, 1


def check_images(image: dict[str, Any]) -> list[np.ndarray]:
    """Normalised pixels, each float32 [1, 3, H, W], the same in every run.

    Parameters
    ----------
    image : dict
        The manifest's image section.
    """
    height, width = image["height"], image["width"]
    size = max(height, width)
    top, left = (size - height) // 2, (size - width) // 2
    part = np.s_[top : top + height, left : left + width]
    pictures = _phantoms(size)
    rng = np.random.default_rng(7)
    pictures += [_smooth(size, rng) for _ in range(SMOOTH + PHANTOMS - len(pictures))]
    pictures += [rng.integers(0, 256, (size, size)).astype(np.uint8) for _ in range(NOISE)]
    mean = np.array(image["mean"], np.float32)[:, None, None]
    std = np.array(image["std"], np.float32)[:, None, None]
    return [  # the middle of them where the model looks at a rectangle
        np.ascontiguousarray((picture[part].astype(np.float32) / 255.0 - mean) / std, np.float32)[None]
        for picture in pictures
    ]


def _phantoms(size: int) -> list[np.ndarray]:
    """uint8 [size, size]; none where the drawing code is not there, or the picture too small for it."""
    if 2 * size < 64:
        return []
    try:
        from .phantom.data import draw_sample
    except ImportError:
        return []
    return [draw_sample(seed, size)[0] for seed in range(900_001, 900_001 + PHANTOMS)]


def _smooth(size: int, rng: np.random.Generator) -> np.ndarray:
    """Broad random shades, uint8 [size, size]."""
    coarse = rng.random((6, 6))
    at = np.linspace(0, 5, size)
    low = np.minimum(at.astype(int), 4)
    part = (at - low)[:, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part
    picture = rows[:, low] * (1 - part.T) + rows[:, low + 1] * part.T
    return (255 * picture).astype(np.uint8)
