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
RAGGED = 9
"""Edges between cells in and outside a mask, over the square root of its area: some 6 to 8 for lungs and heart at any
resolution, and mostly more for what a model makes of noise, of nothing or of another picture."""
APART = 0.4
"""In at least this share of its upper rows the mask of a chest has a lung on each side and a gap between them."""
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
    elif _edges(mask) ** 2 > RAGGED**2 * int((mask > 0.5).sum()):
        problem = "the lung and heart mask is ragged"
    elif _apart(mask) < APART:
        problem = "the lung and heart mask shows no two lungs"
    return [f"anatomy not found: {problem}; is this a frontal chest film?"] if problem else []


def _edges(mask: NDArray[np.float32]) -> int:
    """Sides of cells of the mask that face a cell outside it, or the border of the picture."""
    import numpy as np

    inside = np.pad(mask > 0.5, 1)
    return int((inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum())


def _apart(mask: NDArray[np.float32]) -> float:
    """Of the upper two fifths of the mask's rows, the share with cells on each side and a gap in the middle third."""
    import numpy as np

    inside = mask > 0.5
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    upper, width = box[: max(1, len(box) * 2 // 5)], box.shape[1]
    both = upper[:, : width // 2].any(1) & upper[:, width // 2 :].any(1)
    return float((both & ~upper[:, width // 3 : width - width // 3].all(1)).mean())


def hides_everything(key_bias: NDArray[np.float32], bias: BiasSpec) -> bool:
    """Whether a strict mask hides every patch in some layer; `key_bias` [layers, patches]."""
    return bias.kind == "hidden" and bool((key_bias <= HIDDEN_BELOW).all(axis=1).any())


def gives_no_guidance(key_bias: NDArray[np.float32]) -> bool:
    """Whether in every layer all patches have the same bias; `key_bias` [layers, patches]."""
    return bool((key_bias.max(axis=1) == key_bias.min(axis=1)).all())
