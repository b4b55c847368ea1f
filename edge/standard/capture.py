# SPDX-License-Identifier: Apache-2.0
"""The overlay as DICOM Secondary Capture (PS3.3 section A.8.1): an RGB picture in the film's study.

The picture has a geometry of its own (the film at a long side of 1024 pixels, a legend beside it), so it carries
neither pixel spacing nor a frame of reference, and points at the film as its source.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING

from edge.standard.filmheader import FilmHeader, film_header
from edge.standard.modules import CAPTURE, base, code, finished, guarded, lossy, notices, reference

if TYPE_CHECKING:
    import os

    from pydicom.dataset import Dataset

    from edge.report import Report


@guarded
def secondary_capture(
    report: Report,
    source: str | os.PathLike[str] | Dataset | FilmHeader,
    *,
    when: datetime.datetime | None = None,
) -> Dataset:
    """The overlay of a report (:mod:`edge.render.overlay`) as a Secondary Capture dataset.

    Raises
    ------
    UsageError, CannotReference, InputError
        See :func:`edge.standard.filmheader.film_header`; also where the report holds no picture.
    """
    import numpy as np

    from edge.render.overlay import overlay_image

    film = film_header(source, report)
    pixels = np.ascontiguousarray(np.asarray(overlay_image(report).convert("RGB"), np.uint8))
    data = pixels.tobytes()
    ds = base(report, film, CAPTURE, [hashlib.sha256(data).hexdigest(), *pixels.shape], when)
    ds.BodyPartExamined = "CHEST"
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = ""
    ds.ImageComments = " ".join(notices(report))[:10240]
    ds.DerivationDescription = "The film with what a model saw drawn over it, and its draft beside it"
    origin = reference(film.sop_class_uid, film.sop_instance_uid)
    origin.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    ds.SourceImageSequence = [origin]
    if burned := film.values.code("BurnedInAnnotation", ("YES", "NO")):
        ds.BurnedInAnnotation = burned  # what the film shows, its picture shows
    lossy(ds, film)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"
    return finished(ds)
