# SPDX-License-Identifier: Apache-2.0
"""The C library warns about the same masks, in the same words, as the Python package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from capi import Engine, Library
from dicom_film import film_of_dataset

import edge

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS = np.mgrid[:400, :400]
PICTURES = {
    "ragged": np.random.default_rng(0).integers(0, 4095, (400, 400)),
    "lungs": 4000 - ROWS * 9,
    "side": 4000 - COLUMNS * 9,
    "ramp": COLUMNS * 9,
    "stripes": ROWS * 9 % 1000,
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_pictures_that_are_no_film(engine: Engine, library: Library, demo: Path, picture: Any) -> None:
    ds = pydicom.dcmread(ROOT / "examples" / "phantom.dcm")
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.Rows, ds.Columns = picture.shape
    ds.PixelData = picture.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    keep: list[Any] = []
    ours = engine.report(film_of_dataset(library, ds, keep))
    theirs = edge.load(demo, threads=1).report(ds)
    assert ours["warnings"] == list(theirs.warnings)
    assert any("anatomy not found" in warning for warning in theirs.warnings)
