# SPDX-License-Identifier: Apache-2.0
"""What the anatomy mask tells about a film, before any text is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.manifest import BiasSpec

AREA = (0.08, 0.85)
"""Plausible share of the picture that lungs and heart cover."""
SIDE = 0.15
"""Each half of the picture holds at least this share of the mask of a frontal chest."""
HIDDEN_BELOW = -1e30


def mask_warnings(mask: NDArray[np.float32]) -> list[str]:
    """Warnings about a mask [mask_h, mask_w] of 0 and 1 that no frontal chest film would give."""
    area = float((mask > 0.5).mean())
    left = float((mask[:, : mask.shape[1] // 2] > 0.5).sum())
    right = float((mask[:, (mask.shape[1] + 1) // 2 :] > 0.5).sum())
    problem = ""
    if area == 0.0:
        problem = "the lung and heart mask is empty"
    elif area == 1.0:
        problem = "the lung and heart mask covers the whole picture"
    elif not AREA[0] <= area <= AREA[1]:
        problem = f"the lung and heart mask covers {area:.0%} of the picture"
    elif min(left, right) < SIDE * (left + right):
        problem = "the lung and heart mask lies on one side of the picture"
    return [f"anatomy not found: {problem}; is this a frontal chest film?"] if problem else []


def hides_everything(key_bias: NDArray[np.float32], bias: BiasSpec) -> bool:
    """Whether a strict mask hides every patch in some layer; `key_bias` [layers, patches]."""
    return bias.kind == "hidden" and bool((key_bias <= HIDDEN_BELOW).all(axis=1).any())


def gives_no_guidance(key_bias: NDArray[np.float32]) -> bool:
    """Whether in every layer all patches have the same bias; `key_bias` [layers, patches]."""
    return bool((key_bias.max(axis=1) == key_bias.min(axis=1)).all())
