# SPDX-License-Identifier: Apache-2.0
"""The picture door: a DICOM, PNG or JPEG file (or a dataset, or an array) in, a checked :class:`Film` out.

Compressed pixels from outside are never decoded in this process but in :mod:`edge.film.sandbox`. Importing the
package imports NumPy and nothing heavier.
"""

from edge.film.read import read_film
from edge.film.types import Film, FilmMeta, Voi

__all__ = ["Film", "FilmMeta", "Voi", "read_film"]
