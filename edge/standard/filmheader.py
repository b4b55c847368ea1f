# SPDX-License-Identifier: Apache-2.0
"""The header of a reported film: what a standard object takes over from it, and what it points at."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from edge.errors import CannotRead, CannotReference, CorruptInput, EdgeError, UsageError
from edge.standard.attributes import Attributes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from edge.report import Report

KEYWORDS = (  # noqa: SIM905
    "SpecificCharacterSet SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate ContentDate "
    "StudyTime SeriesTime AcquisitionTime ContentTime TimezoneOffsetFromUTC AccessionNumber "
    "IssuerOfAccessionNumberSequence Manufacturer InstitutionName StationName ManufacturerModelName "
    "DeviceSerialNumber SoftwareVersions ReferringPhysicianName StudyDescription ProcedureCodeSequence "
    "ReferencedStudySequence PatientName PatientID IssuerOfPatientID TypeOfPatientID "
    "IssuerOfPatientIDQualifiersSequence PatientBirthDate PatientBirthTime PatientSex QualityControlSubject "
    "PatientAge PatientSize PatientWeight PatientIdentityRemoved DeidentificationMethod "
    "DeidentificationMethodCodeSequence StudyInstanceUID SeriesInstanceUID StudyID InstanceNumber "
    "FrameOfReferenceUID PositionReferenceIndicator BurnedInAnnotation LossyImageCompression "
    "LossyImageCompressionRatio LossyImageCompressionMethod RequestAttributesSequence AdmissionID PatientOrientation"
).split()


@dataclass(frozen=True)
class FilmHeader:
    """What the objects of one report need of their film.

    Attributes
    ----------
    values : Attributes
    sop_class_uid, sop_instance_uid, study_uid, series_uid : str
        Well-formed; an object that points at the film cannot be without them.
    others : tuple of FilmHeader
        The further films of a study that one report is about.
    """

    values: Attributes
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    others: tuple[FilmHeader, ...] = ()


def film_header(source: Any, report: Report | None = None) -> FilmHeader:
    """Read the header of a film.

    Parameters
    ----------
    source : str, Path, bytes or pydicom.Dataset, or a list of them
        The DICOM film or what is in its file; only its header is read. A :class:`FilmHeader` is given back as it is. A
        list: all films of a report on a study, in its order.
    report : Report, optional
        The film must be the one of this report.

    Raises
    ------
    UsageError
        `source` is a PNG or JPEG picture or an array, or another film than the report's, or not all of them.
    CannotReference
        The film lacks one of the UIDs by which other objects point at it.
    InputError
        It cannot be read.
    """
    given = source if isinstance(source, (list, tuple)) else [source]
    first, *others = (one if isinstance(one, FilmHeader) else _guarded(one) for one in given)
    header = replace(first, others=tuple(others)) if others else first
    if report is not None:
        films = [header, *header.others]
        wanted = [one.get("sop_instance_uid") for one in report.input.get("films", [report.input])]
        if len(wanted) != len(films):
            raise UsageError(
                f"the report is about {len(wanted)} film{'s' * (len(wanted) > 1)}, in that order: give all"
            )
        if any(uid not in ("", film.sop_instance_uid) for uid, film in zip(wanted, films, strict=True)):
            raise UsageError("this is not the film that the report is about")
    return header


def _guarded(source: Any) -> FilmHeader:
    problem: EdgeError
    try:
        return _read(source)
    except OSError as error:
        problem = CannotRead(f"the film cannot be read ({type(error).__name__})")
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        problem = CorruptInput("the header of the film cannot be understood; it is damaged")  # their text may quote it
    raise problem


def _read(source: Any) -> FilmHeader:
    from edge.film.source import open_film

    if isinstance(source, (str, os.PathLike)):
        with open_film(Path(source)) as handle:
            dataset, media_class, media_instance = _from_handle(handle)
    elif isinstance(source, bytes):
        dataset, media_class, media_instance = _from_handle(io.BytesIO(source))
    elif hasattr(source, "file_meta") or type(source).__module__.split(".")[0] == "pydicom":
        from edge.film.dataset import header_of_dataset

        dataset, header = source, header_of_dataset(source)
        media_class, media_instance = header.media_class, header.media_instance
    else:
        raise UsageError(f"a film is a path or a pydicom dataset here, not {type(source).__name__}: a header is needed")
    values = Attributes(dataset)
    found = {
        "SOP Class UID": values.uid("SOPClassUID") or media_class,
        "SOP Instance UID": values.uid("SOPInstanceUID") or media_instance,
        "Study Instance UID": values.uid("StudyInstanceUID"),
        "Series Instance UID": values.uid("SeriesInstanceUID"),
    }
    missing = [name for name, uid in found.items() if not uid]
    if missing:
        raise CannotReference(
            f"the film has no valid {' and no '.join(missing)}: no object can point at it; report it as text or JSON"
        )
    sop_class, sop_instance, study, series = found.values()
    return FilmHeader(values, sop_class, sop_instance, study, series)


def _from_handle(handle: BinaryIO) -> tuple[Dataset, str, str]:
    from pydicom.datadict import tag_for_keyword

    from edge.film.dicomfile import read_header
    from edge.film.source import sniff

    kind, offset = sniff(handle.read(512))
    if kind != "dicom":
        raise UsageError(
            f"a {kind.upper()} picture has no DICOM header: such an object needs patient, study and film;"
            " give the DICOM film, or choose --format text or json"
        )
    header = read_header(handle, offset, tags=[tag for word in KEYWORDS if (tag := tag_for_keyword(word))])
    return cast("Dataset", header.dataset), header.media_class, header.media_instance
