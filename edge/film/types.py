# SPDX-License-Identifier: Apache-2.0
"""What comes out of the picture door."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.film.voi import Voi

__all__ = ["Film", "FilmMeta", "Voi"]


@dataclass(frozen=True, slots=True)
class FilmMeta:
    """What may be told about a film: identifiers and technique, never anything about the patient.

    Texts are taken over only where they are one of the terms this package knows, identifiers only where they
    are well-formed UIDs; anything else is an empty string.
    """

    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    modality: str = ""
    view_position: str = ""
    body_part: str = ""
    photometric: str = ""
    transfer_syntax: str = ""
    rows: int = 0
    columns: int = 0
    source: Literal["dicom", "png", "jpeg", "array"] = "array"


@dataclass(slots=True)
class Film:
    """One radiograph, ready for :func:`edge.preprocess.to_gray8`.

    Attributes
    ----------
    pixels : ndarray of float32, shape (rows, columns)
        Modality units (after rescale or modality LUT); higher is brighter on display, whatever the file's
        photometric interpretation.
    valid : ndarray of bool, shape (rows, columns), or None
        False where there is no picture (pixel padding, transparent pixels). None: valid everywhere.
    window : Voi or None
        The grey-scale transformation the file asks for, in the units and direction of `pixels`.
    bits : int
        Bits stored per pixel (8 to 16; 32 for a floating-point array).
    meta : FilmMeta
    warnings : list of str
        Oddities that are no refusal. They hold no patient data.
    """

    pixels: NDArray[np.float32] = field(repr=False)
    valid: NDArray[np.bool_] | None = field(repr=False)
    window: Voi | None
    bits: int
    meta: FilmMeta
    warnings: list[str] = field(default_factory=list)
