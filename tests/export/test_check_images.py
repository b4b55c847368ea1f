# SPDX-License-Identifier: Apache-2.0
"""The pictures of an export's self-check."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")
from edge_export.check_images import NOISE, PHANTOMS, SMOOTH, check_images


@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 31), (40, 32)])
def test_any_size(height: int, width: int) -> None:
    """Of few pixels, too: phantoms cannot be drawn so small."""
    image = {"height": height, "width": width, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    pictures, again = check_images(image), check_images(image)
    assert len(pictures) == PHANTOMS + SMOOTH + NOISE
    for picture, same in zip(pictures, again, strict=True):
        assert picture.shape == (1, 3, height, width)
        assert picture.dtype == np.float32
        assert np.array_equal(picture, same)
        assert len(np.unique(picture)) > 16
