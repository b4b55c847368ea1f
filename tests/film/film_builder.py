# SPDX-License-Identifier: Apache-2.0
"""Builds chest-film files for the tests: honest ones, variations and attacks."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

MARKER = "ZZSECRET^PATIENT"
"""Stands in every field that may hold patient data; must appear in no message."""

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"
STUDY, SERIES, INSTANCE = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "instance"))


@contextmanager
def silent() -> Iterator[None]:
    """pydicom quotes odd values while it writes; only what is said while reading counts."""
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def gradient(rows: int = 72, columns: int = 80, bits: int = 12) -> np.ndarray:
    """A picture with every value range in it; uint16."""
    y, x = np.mgrid[0:rows, 0:columns]
    wave = 0.5 + 0.5 * np.sin(x / 9.0) * np.cos(y / 7.0)
    ramp = (x + y) / (rows + columns - 2)
    picture = (0.3 * wave + 0.7 * ramp) * (2**bits - 1)
    return np.round(picture).astype(np.uint16)


def film(
    pixels: np.ndarray | None = None,
    *,
    bits: int = 12,
    syntax: str = ExplicitVRLittleEndian,
    drop: tuple[str, ...] = (),
    **tags: Any,
) -> FileDataset:
    """A conformant DX chest film, PA, with the given stored values; `tags` replace elements, `drop` removes."""
    pixels = gradient(bits=bits) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(tags.get("SOPClassUID", DX))
    meta.MediaStorageSOPInstanceUID = INSTANCE
    meta.TransferSyntaxUID = UID(syntax)
    ds = FileDataset("film.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = DX, INSTANCE
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.Modality = "DX"
    ds.PatientName, ds.PatientID = MARKER, MARKER
    ds.ReferringPhysicianName = ds.InstitutionName = MARKER
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape[:2]
    wide = bits > 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (16 if wide else 8), bits, bits - 1
    ds.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    size = 2 if wide else 1
    raw = pixels.astype(f"{order}{pixels.dtype.kind}{size}").tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OW" if wide else "OB"
    with silent():
        for name, value in tags.items():
            setattr(ds, name, value)
    for name in drop:
        if name in ds:
            delattr(ds, name)
    return ds


def compressed(stream: bytes | list[bytes], syntax: str, pixels: np.ndarray, **tags: Any) -> FileDataset:
    """A film whose one frame is `stream` (several fragments where it is a list)."""
    ds = film(pixels, syntax=syntax, **tags)
    fragments = stream if isinstance(stream, list) else [stream]
    if len(fragments) == 1:
        ds.PixelData = encapsulate(fragments)
    else:
        items = [struct.pack("<HHL", 0xFFFE, 0xE000, 0)]
        items += [struct.pack("<HHL", 0xFFFE, 0xE000, len(f)) + f for f in fragments]
        ds.PixelData = b"".join(items) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    ds["PixelData"].is_undefined_length = True
    return ds


def to_bytes(ds: Dataset, **options: Any) -> bytes:
    """The dataset as a DICOM file."""
    out = io.BytesIO()
    options.setdefault("enforce_file_format", True)
    with silent():
        pydicom.dcmwrite(out, ds, **options)
    return out.getvalue()


def bare(ds: FileDataset) -> bytes:
    """The dataset alone: neither preamble nor file meta information."""
    data = to_bytes(ds)
    first = b"\0\x08\0\x16" if ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2" else b"\x08\0\x16\0"
    return data[data.index(first) :]


def lut_item(first: int, bits: int, table: list[int] | np.ndarray, signed: bool = False) -> Dataset:
    """A Modality or VOI LUT item."""
    item = Dataset()
    count = len(table)
    item.add_new("LUTDescriptor", "SS" if signed else "US", [0 if count == 65536 else count, first, bits])
    item.add_new("LUTData", "OW", np.asarray(table, "<u2").tobytes())
    item.LUTExplanation = MARKER
    return item


def code_item(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    """A coded concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
