# SPDX-License-Identifier: Apache-2.0
"""The two real chest films that lie beside the repository, where they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.film import read_film
from edge.preprocess import to_gray8

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT.parent / "shared" / "data" / "dicom", ROOT / "shared" / "data" / "dicom"]


def find(name: str) -> Path:
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is not beside the repository")


@pytest.mark.parametrize(
    ("name", "modality", "view", "part"),
    [
        ("chest_siim_cr_jpeg_baseline_mono2_8bit.dcm", "CR", "PA", "CHEST"),
        ("chest_nih_dx_sc_ivrle_mono2_8bit.dcm", "DX", "", ""),
    ],
)
def test_real_film(name, modality, view, part):
    import pydicom

    path = find(name)
    film = read_film(path)
    dataset = pydicom.dcmread(path)
    assert np.array_equal(film.pixels, dataset.pixel_array)
    assert film.meta.sop_instance_uid == dataset.SOPInstanceUID
    assert (film.meta.modality, film.meta.view_position, film.meta.body_part) == (modality, view, part)
    assert (film.bits, film.valid, film.window, film.warnings) == (8, None, None, [])
    assert str(dataset.PatientName) not in repr(film)
    gray = to_gray8(film, {"mode": "percentile", "low": 0.5, "high": 99.5})
    assert 60 < gray.mean() < 200
    assert np.array_equal(read_film(dataset).pixels, film.pixels)
