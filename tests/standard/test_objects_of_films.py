# SPDX-License-Identifier: Apache-2.0
"""Objects of the sample film, and of the two real films that lie beside the repository, where they do."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from standard_parts import dciodvfy, make_report, written

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT.parent / "shared" / "data" / "dicom", ROOT / "shared" / "data" / "dicom", ROOT / "examples"]


@pytest.mark.parametrize(
    "name",
    ["phantom.dcm", "chest_siim_cr_jpeg_baseline_mono2_8bit.dcm", "chest_nih_dx_sc_ivrle_mono2_8bit.dcm"],
)
def test_every_object(name: str, tmp_path: Path) -> None:
    path = next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)
    if path is None:
        pytest.skip(f"{name} is not beside the repository")
    film = pydicom.dcmread(path, stop_before_pixels=True)
    seen = {"sop_instance_uid": film.SOPInstanceUID, "study_instance_uid": film.StudyInstanceUID}
    report = make_report(input={**make_report().input, **seen, "rows": film.Rows, "columns": film.Columns})
    for make in (report.to_sr, report.to_secondary_capture, report.to_segmentation):
        made = written(make(path), tmp_path / "made.dcm")
        assert made.PatientName == film.PatientName
        assert made.StudyInstanceUID == film.StudyInstanceUID
        assert dciodvfy(tmp_path / "made.dcm") == []
    assert made.pixel_array.shape == (film.Rows, film.Columns)
    assert report.to_fhir(path)["subject"]["identifier"]["value"] == film.PatientID
