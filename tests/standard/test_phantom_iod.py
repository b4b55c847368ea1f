# SPDX-License-Identifier: Apache-2.0
"""Drawn films are what they say: whole objects of their storage class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from standard_parts import dciodvfy, needs_dciodvfy

pytest.importorskip("cv2")
from edge_export.phantom.case import sample_case
from edge_export.phantom.dicom import to_dataset, write_dicom
from edge_export.phantom.draw import draw

pytestmark = needs_dciodvfy


@pytest.mark.parametrize("modality", ["CR", "DX"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_drawn_films(modality: str, photometric: str, tmp_path: Path) -> None:
    case = sample_case(np.random.default_rng(5), frozenset())
    film = tmp_path / "film.dcm"
    write_dicom(to_dataset(draw(case, 320, 320), case, photometric=photometric, modality=modality), film)
    assert dciodvfy(film) == []


def test_the_example() -> None:
    assert dciodvfy(Path(__file__).parents[2] / "examples" / "phantom.dcm") == []
