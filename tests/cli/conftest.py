# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the command-line tests: a hand-made bundle, films, and a way to run the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from handmade import chest_picture, make_bundle

Run = Callable[..., subprocess.CompletedProcess[str]]


def make_dicom(path: Path, number: int = 1, **tags: object) -> Path:
    """A small frontal chest film in DICOM, with a patient's name that must never be seen again."""
    picture = np.roll(chest_picture(), 2 * number, axis=0)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.100"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.101"
    dataset.PatientName, dataset.PatientID = "SECRETNAME^ANNA", "SECRETID"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.Rows, dataset.Columns = picture.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = picture.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("cli") / "bundle")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [make_dicom(folder / f"film{i}.dcm", i) for i in (1, 2, 3)]


@pytest.fixture(scope="session")
def environment(bundle: Path) -> dict[str, str]:
    return {**os.environ, "EDGE_REPORT_BUNDLE": str(bundle), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def command() -> list[str]:
    return [sys.executable, "-m", "edge.cli.report"]


@pytest.fixture(scope="session")
def run(environment: dict[str, str], command: list[str]) -> Run:
    """``run("--format", "json", film, env={...})``: the finished process."""

    def call(*words: object, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [*command, "--threads", "1", *map(str, words)],
            env=environment | (env or {}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            **options,
        )
        assert "Traceback" not in result.stderr
        assert "SECRET" not in result.stdout + result.stderr
        return result

    return call
