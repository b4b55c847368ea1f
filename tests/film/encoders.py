# SPDX-License-Identifier: Apache-2.0
"""Every encoder at hand, for the tests of compressed films."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from film_builder import film, silent, to_bytes
from PIL import Image
from pydicom.dataset import FileDataset

JPEG = "1.2.840.10008.1.2.4."
RLE = "1.2.840.10008.1.2.5"


def jpeg_baseline(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def jpeg_ls(pixels: np.ndarray, bits: int, near: int = 0) -> bytes:
    import jpeg_ls as library

    cells = np.ascontiguousarray(pixels.astype(np.uint8 if bits <= 8 else np.uint16))
    return bytes(library.encode_array(cells, lossy_error=near))


def j2k(pixels: np.ndarray, bits: int, lossy: bool = False) -> bytes:
    from openjpeg.utils import encode_array

    size = 1 if bits <= 8 else 2
    cells = np.ascontiguousarray(pixels.astype(f"<{pixels.dtype.kind}{size}"))
    options: dict[str, Any] = {"compression_ratios": [2]} if lossy else {}
    return bytes(encode_array(cells, bits_stored=bits, photometric_interpretation=2, **options))


def rle(pixels: np.ndarray, bits: int) -> FileDataset:
    ds = film(pixels, bits=bits)
    with silent():
        ds.compress(RLE, generate_instance_uid=False)
    return ds


def by_gdcm(folder: Path, pixels: np.ndarray, bits: int, syntax: str = "JPEGLosslessProcess14_1") -> bytes:
    """A whole DICOM file in a JPEG syntax of GDCM's."""
    import gdcm

    plain, packed = folder / "plain.dcm", folder / "packed.dcm"
    plain.write_bytes(to_bytes(film(pixels, bits=bits)))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    codec = gdcm.JPEGCodec()
    codec.SetLossless("Lossless" in syntax)
    if "Lossless" not in syntax:
        codec.SetQuality(95)
        change.SetUserCodec(codec)
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return packed.read_bytes()
