# SPDX-License-Identifier: Apache-2.0
"""dicom-validator, where the standard that it reads lies on this machine: it is not fetched by a test.

``validate_iods --edition current FILE`` fetches it once into ``~/dicom-validator``; ``$EDGE_DICOM_STANDARD`` may name
another folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from standard_parts import make_film, make_report, written

STANDARD = Path(os.environ.get("EDGE_DICOM_STANDARD") or Path.home() / "dicom-validator")


@pytest.mark.parametrize("make", ["to_sr", "to_secondary_capture", "to_segmentation"])
def test_dicom_validator(make: str, tmp_path: Path) -> None:
    editions = pytest.importorskip("dicom_validator.spec_reader.edition_reader", reason="no dicom-validator")
    validators = pytest.importorskip("dicom_validator.validator.dicom_file_validator")
    parts = [{path.parents[1].name for path in STANDARD.glob(f"*/docbook/part{n}.xml")} for n in ("03", "04", "06")]
    held = sorted(set.intersection(*parts))
    if not held or not (STANDARD / "editions.json").exists():
        pytest.skip(f"no edition of the DICOM standard in {STANDARD}")
    reader = editions.EditionReader(STANDARD)
    reader.get_edition_path(held[-1], False)
    info = reader.load_dicom_info(held[-1])
    path = tmp_path / "made.dcm"
    made = written(getattr(make_report(), make)(make_film()), path)
    if made.SOPClassUID not in info.iods:
        pytest.skip(f"the standard in {STANDARD} is an excerpt without this object")
    (result,) = validators.DicomFileValidator(info, logging.ERROR, False, False).validate(path).values()
    assert result.errors == 0, result.module_errors
