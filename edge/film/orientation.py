# SPDX-License-Identifier: Apache-2.0
"""Which way a film is stored: PatientOrientation (0020,0020), PS3.3 C.7.6.1.1.1.

Its two values say to which side of the patient a row and a column run. A frontal film is read with the patient's left
on the right of the picture and the feet below: ``L`` and ``F``. Models have seen no others, and would name the wrong
side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Turn:
    """What makes a stored film one that is read as usual: rows and columns change places, then either is reversed."""

    transpose: bool = False
    rows: bool = False
    columns: bool = False

    def __bool__(self) -> bool:
        return self.transpose or self.rows or self.columns

    def apply(self, stored: NDArray[Any]) -> NDArray[Any]:
        """An array [rows, columns] as stored to one as read."""
        turned = stored.T if self.transpose else stored
        return np.ascontiguousarray(turned[:: -1 if self.rows else 1, :: -1 if self.columns else 1])

    def undo(self, read: NDArray[Any]) -> NDArray[Any]:
        """An array [rows, columns] as read to one as stored."""
        back = read[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return np.ascontiguousarray(back.T if self.transpose else back)


def turn_of(orientation: Sequence[str]) -> Turn:
    """How a film has to be turned; not at all where its header does not say, or not of a frontal film.

    Parameters
    ----------
    orientation : sequence of str
        The values of PatientOrientation. Of several letters (``LF``) the first one is the main direction.
    """
    row, column = (text[:1].upper() for text in (*orientation, "", "")[:2])
    transpose = row in ("F", "H") and column in ("L", "R")
    if transpose:
        row, column = column, row
    if row not in ("L", "R") or column not in ("F", "H"):
        return Turn()
    return Turn(transpose, column == "H", row == "R")


def words(turn: Turn) -> str:
    """For the film's warnings."""
    if turn.transpose:
        how = "on its side"
    elif turn.rows:
        how = "upside down" if turn.columns else "upside down and mirrored"
    else:
        how = "mirrored"
    return f"the header says that the film is stored {how} (patient orientation): it was turned to be read as usual"
