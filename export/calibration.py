# SPDX-License-Identifier: Apache-2.0
"""A user's own films, on which an int8 export measures its errors beside the pictures it draws itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UsageError

MOST_FILMS = 64


def film_paths(folder: Path) -> list[Path]:
    """Files of a folder by name, no more than ``MOST_FILMS`` of them, evenly picked.

    Raises
    ------
    UsageError
        There is no such folder, or nothing in it.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise UsageError(f"--calibrate {folder}: {error.strerror}") from None
    if not paths:
        raise UsageError(f"--calibrate {folder}: no files in it")
    return paths[:: -(-len(paths) // MOST_FILMS)]


def read_films(paths: list[Path], image: dict[str, Any]) -> Iterator[np.ndarray]:
    """Normalised pixels float32 [1, 3, H, W] of each film, read and prepared as ``edge-report`` does it.

    Raises
    ------
    InputError
        A file is no film that ``edge-report`` would take, even by force; the message tells its place, not its name.
    """
    from edge.errors import InputError
    from edge.film import read_film
    from edge.preprocess import to_gray8, to_pixels

    for place, path in enumerate(paths, 1):
        try:
            film = read_film(path, force=True)
        except InputError as error:
            raise type(error)(f"file {place} of --calibrate: {error}") from None
        yield to_pixels(to_gray8(film, image["intensity"]), image)
