# SPDX-License-Identifier: Apache-2.0
"""The anatomy mask as DICOM Segmentation (PS3.3 section A.51), pixel by pixel in the geometry of the film.

A radiograph has no patient coordinates, so each pixel of the segmentation stands for the pixel of the film at the
same place (section A.51.5.1): rows and columns are the film's.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.errors import UsageError
from edge.film.orientation import turn_of
from edge.standard.filmheader import FilmHeader, film_header
from edge.standard.identity import derived_uid
from edge.standard.modules import SEGMENTATION, algorithm_version, base, code, finished, guarded, lossy, reference

if TYPE_CHECKING:
    import os

    from pydicom.dataset import Dataset

    from edge.report import Report


def at_film_size(mask: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The mask at the size of the film.

    The film was stretched to the model's square input, of which the mask is a coarser grid, so the middle of film
    pixel ``r`` lies in mask row ``floor((r + 1/2) * mask_h / rows)``; nothing is smoothed or invented.

    Parameters
    ----------
    mask : ndarray of uint8, shape (mask_h, mask_w)
    rows, columns : int

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
    """
    height, width = mask.shape
    down = (2 * np.arange(rows) + 1) * height // (2 * rows)
    across = (2 * np.arange(columns) + 1) * width // (2 * columns)
    return np.ascontiguousarray(mask[down[:, None], across[None, :]])


@guarded
def segmentation(
    report: Report,
    source: str | os.PathLike[str] | Dataset | FilmHeader,
    *,
    when: datetime.datetime | None = None,
) -> Dataset:
    """The mask of a report as a binary Segmentation dataset with one segment: lungs and heart.

    Raises
    ------
    UsageError
        The bundle has no segmenter, so there is no mask.
    UsageError, CannotReference, InputError
        See :func:`edge.standard.filmheader.film_header`.
    """
    from pydicom.dataset import Dataset

    film = film_header(source, report)
    if report.mask is None:
        raise UsageError("this model has no segmenter: there is no mask to write")
    rows, columns = report.input["rows"], report.input["columns"]
    # The mask is that of the film as it was read; the film it is laid over is the stored one.
    turn = turn_of(film.values.text("PatientOrientation").split())
    size = (columns, rows) if turn.transpose else (rows, columns)
    mask = turn.undo(at_film_size((report.mask > 0).astype(np.uint8), *size))
    data = np.packbits(mask.ravel(), bitorder="little").tobytes()
    ds = base(report, film, SEGMENTATION, [hashlib.sha256(data).hexdigest(), rows, columns], when)
    if frame_of_reference := film.values.uid("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = frame_of_reference
        ds.PositionReferenceIndicator = film.values.text("PositionReferenceIndicator")
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "LUNGS_HEART", "Lungs and heart", ""
    ds.PatientOrientation = ""
    ds.SegmentationType, ds.LossyImageCompression = "BINARY", "00"
    lossy(ds, film)
    ds.SegmentSequence = [_segment(report)]
    _frames(ds, film)
    evidence = Dataset()
    evidence.SeriesInstanceUID = film.series_uid
    evidence.ReferencedInstanceSequence = [reference(film.sop_class_uid, film.sop_instance_uid)]
    ds.ReferencedSeriesSequence = [evidence]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.NumberOfFrames = 1, "MONOCHROME2", 1
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 1, 0, 0
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"
    return finished(ds)


def _segment(report: Report) -> Dataset:
    """The one segment (C.8.20.4)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = 1, "Lungs and heart"
    item.SegmentDescription = "Where the model takes lungs and heart to be; not reviewed"
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "AUTOMATIC", report.model["name"][:64]
    item.SegmentedPropertyCategoryCodeSequence = [code("91723000", "SCT", "Anatomical Structure")]
    item.SegmentedPropertyTypeCodeSequence = [code("310787001", "SCT", "Structure of lung and/or mediastinum")]
    algorithm = Dataset()  # Algorithm Identification (10.16)
    algorithm.AlgorithmFamilyCodeSequence = [code("123110", "DCM", "Artificial Intelligence")]
    algorithm.AlgorithmName, algorithm.AlgorithmVersion = report.model["name"][:64], algorithm_version(report)[:64]
    item.SegmentationAlgorithmIdentificationSequence = [algorithm]
    return item


def _frames(ds: Dataset, film: FilmHeader) -> None:
    """Multi-frame functional groups (C.7.6.16) and dimensions (C.7.6.17) of the one frame."""
    from pydicom.dataset import Dataset

    organization = Dataset()
    organization.DimensionOrganizationUID = derived_uid("dimensions", ds.SOPInstanceUID)
    ds.DimensionOrganizationSequence = [organization]
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer = 0x0062000B  # Referenced Segment Number
    index.FunctionalGroupPointer = 0x0062000A  # Segment Identification Sequence
    index.DimensionDescriptionLabel = "Segment Number"
    ds.DimensionIndexSequence = [index]

    origin = reference(film.sop_class_uid, film.sop_instance_uid)
    origin.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    origin.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.SourceImageSequence = [origin]
    derivation.DerivationCodeSequence = [code("113076", "DCM", "Segmentation")]
    ds.SharedFunctionalGroupsSequence = [Dataset()]

    content = Dataset()
    content.DimensionIndexValues = [1]
    identification = Dataset()
    identification.ReferencedSegmentNumber = 1
    frame = Dataset()
    frame.FrameContentSequence = [content]
    frame.DerivationImageSequence = [derivation]
    frame.SegmentIdentificationSequence = [identification]
    ds.PerFrameFunctionalGroupsSequence = [frame]
