# SPDX-License-Identifier: Apache-2.0
"""Masks of a plausible size that no chest has, and what the demo model makes of pictures that are none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.mask import mask_warnings

Y, X = np.mgrid[:64, :64]


def ellipse(y: float, x: float, height: float, width: float) -> NDArray[np.bool_]:
    return ((Y - y) / height) ** 2 + ((X - x) / width) ** 2 < 1


LUNGS = ellipse(30, 18, 20, 9) | ellipse(30, 46, 20, 9)
HEART = ellipse(40, 34, 9, 11)


@pytest.mark.parametrize(
    "mask", [LUNGS, LUNGS | HEART, (LUNGS | HEART)[::4, ::4], ellipse(32, 14, 28, 7) | ellipse(32, 50, 28, 7)]
)
def test_chests(mask: NDArray[np.bool_]) -> None:
    assert mask_warnings(mask.astype(np.float32)) == []


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (np.random.default_rng(0).random((64, 64)) > 0.5, "ragged"),
        (LUNGS & (Y // 2 % 2 == 0), "ragged"),
        (ellipse(32, 32, 20, 25), "no two lungs"),
        ((LUNGS | HEART)[::-1] | ellipse(16, 32, 8, 30), "no two lungs"),
    ],
)
def test_other_shapes(mask: NDArray[np.bool_], word: str) -> None:
    (warning,) = mask_warnings(mask.astype(np.float32))
    assert warning.startswith("anatomy not found")
    assert word in warning


NOISE = np.random.default_rng(0).integers(0, 255, (300, 300)).astype(np.uint8)
RAMP = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
DISC = (ellipse(32, 32, 20, 20) * 200).astype(np.uint8)
CHECKER = (np.indices((256, 256)).sum(0) // 32 % 2 * 255).astype(np.uint8)


def test_pictures_that_are_no_film() -> None:
    engine = edge.load(threads=1)
    for picture in (NOISE, RAMP, RAMP.T[::-1].copy(), DISC, CHECKER):
        report = engine.report(picture, max_new_tokens=1)
        assert any(warning.startswith("anatomy not found") for warning in report.warnings)
