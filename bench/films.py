# SPDX-License-Identifier: Apache-2.0
"""The film that reports are timed on: the same one in every run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from edge.errors import CannotRead

ROWS, COLUMNS = 2500, 2048


def choose_film(given: str | None, work: Path) -> Path:
    """`given`; else a sample film of the source tree (``examples/*.dcm``); else a picture drawn into `work`.

    Raises
    ------
    CannotRead
        `given` is not a file.
    """
    if given is not None:
        path = Path(given)
        if not os.path.isfile(path):  # false also where it cannot be looked at
            raise CannotRead("the film given with --film is not a file; check the name")
        return path
    for folder in (Path.cwd(), Path(__file__).resolve().parent.parent):
        for path in sorted((folder / "examples").glob("*.dcm")):
            return path
    return draw_film(work / "generated.png")


def draw_film(path: Path) -> Path:
    """Write a grey picture of a film's size: two ovals, a gradient and fixed noise."""
    import numpy as np
    from PIL import Image

    y = np.linspace(0.0, 1.0, ROWS, dtype=np.float32)[:, None]
    x = np.linspace(0.0, 1.0, COLUMNS, dtype=np.float32)[None, :]
    picture = 120 + 60 * y + 20 * np.cos(6 * x)
    for centre in (0.29, 0.71):
        picture -= 80 * (((x - centre) / 0.17) ** 2 + ((y - 0.46) / 0.32) ** 2 < 1)
    picture += 6 * np.random.default_rng(0).standard_normal(picture.shape, np.float32)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, compress_level=1)
    return path


def describe_film(path: Path) -> dict[str, Any]:
    """File name, size and hash: enough to tell films apart, nothing of their content."""
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
