# SPDX-License-Identifier: Apache-2.0
"""Phantoms as DICOM films and PNG pictures."""

from __future__ import annotations

import io
import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .case import Case
from .draw import Phantom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_PRESENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"
FILM_LONG_SIDE = 2500
"""Default long side of a film, pixels."""
FILM_WIDTH_MM = 350.0
_NAMESPACE = uuid.UUID("8f0e7d0e-6a53-5c0b-9d3c-3b1f4a7e6d21")
_DATE = "20240101"


def film_size(case: Case, long_side: int = FILM_LONG_SIDE) -> tuple[int, int]:
    """Rows and columns of the case's film with its true aspect (both even)."""
    rows = long_side // 2 * 2
    return rows, round(rows / case.aspect / 2) * 2


def uid(seed: int, what: str) -> str:
    """A "2.25." UID fixed by the seed and the name of the thing."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{seed}/{what}').int}"


def to_dataset(
    phantom: Phantom,
    case: Case,
    *,
    bits: int = 12,
    photometric: str = "MONOCHROME2",
    modality: str = "DX",
    rng: np.random.Generator | None = None,
    rle: bool = False,
) -> Dataset:
    """A complete DICOM file dataset of one phantom.

    Parameters
    ----------
    phantom, case : Phantom, Case
        Picture and the case it was drawn from.
    bits : int
        Bits stored, 12 to 16.
    photometric : str
        "MONOCHROME2" or "MONOCHROME1" (stored values inverted).
    modality : str
        "DX" (Digital X-Ray Image, for presentation) or "CR" (Computed Radiography Image).
    rng : numpy.random.Generator, optional
        Chooses the part of the value range the film uses; fixed by the case's seed when left out.
    rle : bool
        RLE Lossless instead of uncompressed Explicit VR Little Endian.

    Raises
    ------
    ValueError
        For another bit depth, photometric interpretation or modality.
    """
    if not 12 <= bits <= 16:
        raise ValueError(f"bits must be 12 to 16, got {bits}")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric must be MONOCHROME1 or MONOCHROME2, got {photometric!r}")
    if modality not in ("CR", "DX"):
        raise ValueError(f"modality must be CR or DX, got {modality!r}")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    rng = np.random.default_rng([case.seed, 7]) if rng is None else rng
    top = (1 << bits) - 1
    low, high = float(rng.uniform(0.0, 0.12)) * top, float(rng.uniform(0.80, 1.0)) * top
    stored = np.clip(np.rint(low + (high - low) * phantom.image), 0, top).astype(np.uint16)
    if photometric == "MONOCHROME1":
        stored = (top - stored).astype(np.uint16)
    rows, columns = stored.shape
    middle = (low + high) / 2 if photometric == "MONOCHROME2" else top - (low + high) / 2

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = DX_PRESENTATION_STORAGE if modality == "DX" else CR_STORAGE
    meta.MediaStorageSOPInstanceUID = uid(case.seed, "image")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid(0, "implementation")
    meta.ImplementationVersionName = "EDGE_PHANTOM_1"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\x00" * 128)
    _identity(ds, case, modality)
    _acquisition(ds, case, modality)
    spacing = f"{FILM_WIDTH_MM / columns:.6f}"
    ds.ImagerPixelSpacing = [f"{FILM_WIDTH_MM * case.aspect / rows:.6f}", spacing]
    ds.PixelSpacing = list(ds.ImagerPixelSpacing)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = photometric
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.WindowCenter, ds.WindowWidth = f"{middle:.1f}", f"{max(high - low, 1.0):.1f}"
    ds.WindowCenterWidthExplanation = "NORMAL"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    if modality == "DX":
        ds.PresentationLUTShape = "IDENTITY" if photometric == "MONOCHROME2" else "INVERSE"
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if rle:
        ds.compress(RLELossless, generate_instance_uid=False)
    return ds


def _identity(ds: Any, case: Case, modality: str) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""] if modality == "DX" else ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = uid(case.seed, "study")
    ds.SeriesInstanceUID = uid(case.seed, "series")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = _DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""
    ds.Manufacturer = "edge-phantom"
    ds.ManufacturerModelName = "synthetic phantom"
    ds.SoftwareVersions = "1"
    ds.DeviceSerialNumber = "0"
    ds.StudyDescription = "SYNTHETIC CHEST PHANTOM"
    ds.SeriesDescription = f"CHEST {case.view}"
    ds.PatientName = f"PHANTOM^{case.seed}"
    ds.PatientID = f"PHANTOM-{case.seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = case.sex
    ds.PatientAge = f"{case.age:03d}Y"
    ds.StudyID = "1"
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 1, 1, 1
    ds.ImageComments = "Synthetic phantom, not a patient"


def _acquisition(ds: Any, case: Case, modality: str) -> None:
    from pydicom.dataset import Dataset

    def code(value: str, scheme: str, meaning: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return item

    ds.Modality = modality
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = case.view
    ds.PatientOrientation = ["L", "F"]
    ds.KVP = "120"
    if modality == "CR":
        return
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid(case.seed, "frame"), ""
    ds.PositionerType = ""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [code("51185008", "SCT", "Chest")]
    if case.view == "AP":
        ds.ViewCodeSequence = [code("399348003", "SCT", "antero-posterior")]
    else:
        ds.ViewCodeSequence = [code("272479007", "SCT", "postero-anterior")]
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorID = "PHANTOM"
    ds.AcquisitionContextSequence = []


def _atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Write through a temporary neighbour, so that ``path`` is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_dicom(dataset: Dataset, path: str | Path) -> None:
    """Write a dataset of `to_dataset` as a DICOM file, atomically."""
    data = io.BytesIO()  # pydicom puts its own traceback into the message where a disk is full
    dataset.save_as(data, enforce_file_format=True)
    _atomic(Path(path), lambda target: target.write_bytes(data.getbuffer()))


def write_png8(phantom: Phantom, path: str | Path) -> None:
    """Write the picture as an 8-bit grey PNG, atomically."""
    _write_grey(np.rint(phantom.image * 255).astype(np.uint8), path)


def write_mask(mask: np.ndarray, path: str | Path) -> None:
    """Write a boolean mask as an 8-bit PNG of 0 and 255, atomically."""
    _write_grey(mask.astype(np.uint8) * 255, path)


def _write_grey(grey: np.ndarray, path: str | Path) -> None:
    import cv2

    made, data = cv2.imencode(".png", grey)
    if not made:
        raise OSError(f"cannot write {path}")
    # Not by OpenCV, which does not look whether the last of a file reached the disk.
    _atomic(Path(path), lambda target: target.write_bytes(data.tobytes()))
