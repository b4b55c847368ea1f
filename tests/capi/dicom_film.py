# SPDX-License-Identifier: Apache-2.0
"""What a host does with a DICOM object: its elements' values into an edge_film."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from capi import VOI, Film, Library, Lut


def lut_of(item: Any, keep: list[Any], *, signed: bool) -> Lut:
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    if signed and first >= 1 << 15:
        first -= 1 << 16
    data = item.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data, np.uint16)
    keep.append(np.ascontiguousarray(entries))
    return Lut(keep[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_uint16)), count or 1 << 16, first, bits)


def first_number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float)) or not hasattr(value, "__getitem__") else value[0])


def film_of_dataset(library: Library, ds: Any, keep: list[Any], cells: np.ndarray | None = None) -> Film:
    """The film of a dataset; its pixels are native ones, or the given `cells`. `keep` holds what must stay alive."""
    keep.append(np.ascontiguousarray(cells) if cells is not None else np.frombuffer(ds.PixelData, np.uint8))
    signed = ds.PixelRepresentation == 1
    values: dict[str, Any] = {
        "pixels": keep[-1].ctypes.data,
        "rows": ds.Rows,
        "columns": ds.Columns,
        "bits_allocated": ds.BitsAllocated,
        "bits_stored": ds.BitsStored,
        "high_bit": ds.HighBit,
        "is_signed": int(signed),
        "big_endian": int(ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2"),
        "photometric": int(ds.PhotometricInterpretation == "MONOCHROME1"),
        "presentation": {"": 0, "IDENTITY": 1, "INVERSE": 2}[ds.get("PresentationLUTShape", "")],
        "modality": ds.Modality.encode(),
        "view_position": str(ds.get("ViewPosition", "")).encode(),
        "sop_instance_uid": str(ds.SOPInstanceUID).encode(),
        "study_instance_uid": str(ds.StudyInstanceUID).encode(),
        "series_instance_uid": str(ds.SeriesInstanceUID).encode(),
    }
    for name, keyword in (("rescale_slope", "RescaleSlope"), ("rescale_intercept", "RescaleIntercept")):
        number = first_number(ds.get(keyword))
        if number is not None:
            values[name] = number
    center, width = first_number(ds.get("WindowCenter")), first_number(ds.get("WindowWidth"))
    if center is not None and width is not None:
        values |= {"window_center": center, "window_width": width}
        values["voi"] = VOI[ds.get("VOILUTFunction", "LINEAR")]
    lowest = -(1 << (ds.BitsStored - 1)) if signed else 0
    lowest = lowest * values.get("rescale_slope", 1.0) + values.get("rescale_intercept", 0.0)
    if ds.get("ModalityLUTSequence"):
        values["modality_lut"] = lut_of(ds.ModalityLUTSequence[0], keep, signed=signed)
        lowest = 0
    if ds.get("VOILUTSequence"):
        values["voi_lut"] = lut_of(ds.VOILUTSequence[0], keep, signed=lowest < 0)
    padding = ds.get("PixelPaddingValue")
    if padding is not None:
        limit = ds.get("PixelPaddingRangeLimit")
        values |= {"has_padding": 1, "padding_value": padding, "padding_limit": padding if limit is None else limit}
    return library.film(**values)
