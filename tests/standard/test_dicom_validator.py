# SPDX-License-Identifier: Apache-2.0
"""dicom-validator: with the standard's text where it lies on this machine, since a test fetches nothing, and with its
tables as the package ``dicom-standard`` holds them.

``validate_iods --edition current FILE`` fetches the text once into ``~/dicom-validator``; ``$EDGE_DICOM_STANDARD`` may
name another folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from standard_parts import make_film, written
from standard_tables import Tables, tables_folder
from test_measurements import make_coded

STANDARD = Path(os.environ.get("EDGE_DICOM_STANDARD") or Path.home() / "dicom-validator")
MAKERS = ("to_sr", "to_coded_sr", "to_secondary_capture", "to_segmentation")
CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("88.11", "88.34", "7", "66.4"))


def problems(info: Any, path: Path) -> list[str]:
    """What the validator says is wrong with a file."""
    validators = pytest.importorskip("dicom_validator.validator.dicom_file_validator", reason="no dicom-validator")
    (result,) = validators.DicomFileValidator(info, logging.ERROR, False, False).validate(path).values()
    return [f"{module} {tag}: {error}" for module, tags in result.module_errors.items() for tag, error in tags.items()]


@pytest.fixture(scope="module")
def tables() -> Any:
    pytest.importorskip("dicom_validator", reason="no dicom-validator")
    if tables_folder() is None:
        pytest.skip("no dicom-standard: its tables are what dicom-validator would go by")
    return Tables(*CLASSES).info


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("film", [{}, {"drop": ("PatientName", "PatientID", "StudyDate", "Manufacturer", "StudyID")}])
def test_by_the_tables(make: str, film: dict[str, Any], tables: Any, tmp_path: Path) -> None:
    path = tmp_path / "made.dcm"
    written(getattr(make_coded(), make)(make_film(**film)), path)
    assert problems(tables, path) == []


@pytest.mark.parametrize(
    ("make", "path", "tag"),
    [
        ("to_sr", "VerificationFlag", "(0040,A493)"),
        ("to_coded_sr", "ContentSequence/2/UID", "(0040,A124)"),
        ("to_coded_sr", "ContentSequence/6/ConceptCodeSequence", "(0040,A168)"),
        ("to_secondary_capture", "ConversionType", "(0008,0064)"),
        ("to_segmentation", "SegmentSequence/0/SegmentAlgorithmType", "(0062,0008)"),
        ("to_segmentation", "PerFrameFunctionalGroupsSequence/0/SegmentIdentificationSequence", "(0062,000A)"),
    ],
)
def test_the_tables_tell_what_is_missing(make: str, path: str, tag: str, tables: Any, tmp_path: Path) -> None:
    """A validator that finds nothing anywhere would pass everything above."""
    made = written(getattr(make_coded(), make)(make_film()), tmp_path / "made.dcm")
    place: Any = made
    *way, last = path.split("/")
    for key in way:
        place = place[int(key)] if key.isdigit() else place[key].value
    del place[last]
    made.save_as(tmp_path / "made.dcm")
    assert any(tag in line for line in problems(tables, tmp_path / "made.dcm"))


@pytest.mark.parametrize("make", MAKERS)
def test_by_the_text(make: str, tmp_path: Path) -> None:
    editions = pytest.importorskip("dicom_validator.spec_reader.edition_reader", reason="no dicom-validator")
    parts = [{path.parents[1].name for path in STANDARD.glob(f"*/docbook/part{n}.xml")} for n in ("03", "04", "06")]
    held = sorted(set.intersection(*parts))
    if not held or not (STANDARD / "editions.json").exists():
        pytest.skip(f"no edition of the DICOM standard in {STANDARD}")
    reader = editions.EditionReader(STANDARD)
    reader.get_edition_path(held[-1], False)
    info = reader.load_dicom_info(held[-1])
    path = tmp_path / "made.dcm"
    made = written(getattr(make_coded(), make)(make_film()), path)
    if made.SOPClassUID not in info.iods:
        pytest.skip(f"the standard in {STANDARD} is an excerpt without this object")
    assert problems(info, path) == []
