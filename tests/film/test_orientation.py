# SPDX-License-Identifier: Apache-2.0
"""Films that are stored mirrored, upside down or on their side are turned to be read as usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from film_builder import film, gradient

from edge.film.orientation import Turn, turn_of

AS_READ = gradient(bits=12)
STORED: dict[str, tuple[tuple[str, str], Any]] = {
    "as read": (("L", "F"), lambda a: a),
    "mirrored": (("R", "F"), lambda a: a[:, ::-1]),
    "upside down": (("R", "H"), lambda a: a[::-1, ::-1]),
    "upside down and mirrored": (("L", "H"), lambda a: a[::-1]),
    "on its side": (("F", "L"), lambda a: a.T),
    "on the other side": (("H", "L"), lambda a: a[::-1].T),
    "on its side and mirrored": (("F", "R"), lambda a: a[:, ::-1].T),
    "on the other side and mirrored": (("H", "R"), lambda a: a[::-1, ::-1].T),
}
"""Patient orientation, and how a film as read is stored then."""


@pytest.mark.parametrize("case", STORED)
def test_turned(read, case):
    orientation, store = STORED[case]
    stored = np.ascontiguousarray(store(AS_READ))
    got = read(film(stored, PatientOrientation=list(orientation)))
    assert np.array_equal(got.pixels, AS_READ)
    assert (got.meta.rows, got.meta.columns) == stored.shape
    assert bool(got.warnings) == (case != "as read")
    assert all("patient orientation" in warning for warning in got.warnings)
    turn = turn_of(orientation)
    assert np.array_equal(turn.undo(AS_READ), stored)
    assert np.array_equal(turn.apply(stored), AS_READ)
    assert turn == turn_of([direction + "A" for direction in orientation])


def test_padding_turns_with_the_film(read):
    stored = gradient(bits=12).copy()
    stored[:, :9] = 0
    got = read(film(stored, PixelPaddingValue=0, PatientOrientation=["R", "F"]))
    assert not got.valid[:, -9:].any()
    assert got.valid[:, :-9].all()


@pytest.mark.parametrize("orientation", [(), ("",), ("L",), ("A", "F"), ("P", "H"), ("L", "L"), ("F", "H"), ("X", "Y"),
                                         ("L", "F", "R"), ("", "F")])  # fmt: skip
def test_what_says_nothing_turns_nothing(orientation):
    assert turn_of(orientation) == Turn()


def test_the_wrong_plane_is_told(read):
    """Although the view is named."""
    got = read(film(PatientOrientation=["A", "F"]))
    assert any("lateral view" in warning for warning in got.warnings)
