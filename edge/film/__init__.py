# SPDX-License-Identifier: Apache-2.0
"""The picture door: a DICOM, PNG or JPEG file (or a dataset, or an array) in, a checked :class:`Film` out.

Compressed pixels from outside are never decoded in this process but in :mod:`edge.film.sandbox`. Importing the
package imports nothing: its names are resolved on first use (:pep:`562`), so that a worker can be started before
NumPy is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.film.read import read_film
    from edge.film.types import Film, FilmMeta, Voi

_HOME = {
    "read_film": "edge.film.read",
    "Film": "edge.film.types",
    "FilmMeta": "edge.film.types",
    "Voi": "edge.film.types",
}

__all__ = ["Film", "FilmMeta", "Voi", "read_film"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'edge.film' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
