# SPDX-License-Identifier: Apache-2.0
"""What every engine gets: the same film, and for those that take tensors its pixels as the bundle makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .shapes import bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS, COLUMNS = 2500, 2048


def film() -> NDArray[np.uint16]:
    """A picture of a film's size, the same in every process."""
    import numpy as np

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4096, (ROWS // 100, COLUMNS // 64)).astype(np.uint16)
    return np.kron(coarse, np.ones((100, 64), np.uint16))[:ROWS, :COLUMNS]


def pixels(shape: str) -> NDArray[np.float32]:
    """float32 [1, 3, H, W]."""
    from edge.bundle import Bundle
    from edge.film import read_film
    from edge.preprocess import to_gray8, to_pixels

    image = Bundle.open(bundle(shape, "none")).manifest.image
    return to_pixels(to_gray8(read_film(film()), image["intensity"]), image)


SINGLE = "greedy_single"
"""A greedy text one token per pass, of an engine that otherwise drafts."""


def kind_of(task: str) -> str:
    """``greedy`` or ``beams``: tasks of one kind write the same text."""
    return task.split("_")[0]


def beams_of(task: str) -> int:
    """Beams of a task: one where it is greedy, else 4."""
    return {"greedy": 1, "beams": 4}[kind_of(task)]


def digest(ids: Any) -> str:
    """Names a text in the results."""
    import hashlib

    return hashlib.sha256(",".join(str(int(i)) for i in ids).encode()).hexdigest()[:12]
