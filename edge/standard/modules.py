# SPDX-License-Identifier: Apache-2.0
"""The modules that every DICOM object of a report shares (PS3.3 annex C), and its encoding as a file."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from edge.errors import EdgeError, ProcessingError
from edge.film.quiet import quiet
from edge.standard.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, derived_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from edge.report import Report
    from edge.standard.attributes import Attributes
    from edge.standard.filmheader import FilmHeader

MANUFACTURER = "edge-report"
NOTICE = "Draft written by a model, not reviewed by a physician. Not a medical device. Not for clinical use."
_SERIES_BASE = 9100

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Kind:
    """One kind of object: its SOP Class, modality, and how its series is called."""

    name: str
    sop_class: str
    modality: str
    series_number: int
    series_description: str


SR = Kind("sr", "1.2.840.10008.5.1.4.1.1.88.11", "SR", _SERIES_BASE, "Draft findings (model, not reviewed)")
CODED_SR = Kind(
    "sr-tid1500",
    "1.2.840.10008.5.1.4.1.1.88.34",
    "SR",
    _SERIES_BASE + 3,
    "Draft findings, coded (model, not reviewed)",
)
CAPTURE = Kind("capture", "1.2.840.10008.5.1.4.1.1.7", "OT", _SERIES_BASE + 1, "Draft findings, picture (model)")
SEGMENTATION = Kind("seg", "1.2.840.10008.5.1.4.1.1.66.4", "SEG", _SERIES_BASE + 2, "Lungs and heart (model)")


def guarded(build: Callable[P, R]) -> Callable[P, R]:
    """Keep what a library says about a value to ourselves: it may quote the patient's."""

    @wraps(build)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with quiet():
                return build(*args, **kwargs)
        except (EdgeError, MemoryError):
            raise
        except Exception as error:
            problem = ProcessingError(f"this report cannot be put into the object ({type(error).__name__})")
        raise problem

    return run


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 table 8.8-1)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def reference(sop_class: str, sop_instance: str) -> Dataset:
    """An item that points at an object (PS3.3 table 10-11)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


def algorithm_version(report: Report) -> str:
    """The version of what wrote the draft: the software, and the model by its hash."""
    return f"edge-report {report.software['version']}, bundle {report.model['bundle_sha256']}"


def notices(report: Report) -> list[str]:
    """What a reader must see before the findings."""
    edited = [f"{report.edited}."] if report.edited else []
    read = [f"The model had read: {', '.join(report.context)}."] if report.context else []
    return [NOTICE, *edited, *read, *([f"Model: {report.notice}."] if report.notice else [])]


def base(report: Report, film: FilmHeader, kind: Kind, content: Any, when: datetime.datetime | None = None) -> Dataset:
    """A dataset with the patient, study, series, equipment and SOP common modules filled.

    Parameters
    ----------
    content
        Plain values that stand for what the object says; its UID is derived from them.
    when
        When the draft was made; default: now. Without a time zone it is local time.
    """
    from pydicom.dataset import Dataset

    ds = Dataset()
    model = report.model["bundle_sha256"]
    ds.SOPClassUID = kind.sop_class
    ds.SOPInstanceUID = derived_uid(kind.name, film.sop_instance_uid, model, content)
    ds.SeriesInstanceUID = derived_uid(kind.name, "series", film.study_uid, model)
    ds.StudyInstanceUID = film.study_uid
    _patient(ds, film.values)
    _study(ds, film.values)
    ds.Modality = kind.modality
    ds.SeriesNumber = kind.series_number
    ds.SeriesDescription = kind.series_description
    ds.InstanceNumber = abs(film.values.integer("InstanceNumber") or 1)
    _equipment(ds, report)
    ds.DeviceUID = device_uid(report)
    ds.ContributingEquipmentSequence = _contributors(report, film.values)
    moment = _moment(film.values, when)
    ds.ContentDate, ds.ContentTime = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    ds.InstanceCreationDate, ds.InstanceCreationTime = ds.ContentDate, ds.ContentTime
    ds.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    return ds


def _moment(film: Attributes, when: datetime.datetime | None) -> datetime.datetime:
    """`when` in the time zone that the dataset names, if it names one."""
    moment = (when or datetime.datetime.now()).astimezone()
    zone = film.zone()
    if not zone:
        return moment
    minutes = int(zone[1:3]) * 60 + int(zone[3:])
    return moment.astimezone(datetime.timezone(datetime.timedelta(minutes=-minutes if zone[0] == "-" else minutes)))


def _patient(ds: Dataset, film: Attributes) -> None:
    """Patient module (C.7.1.1): names and identifiers as in the film; type 2 is empty where the film has none."""
    ds.PatientName = film.text("PatientName")
    ds.PatientID = film.text("PatientID")
    ds.PatientBirthDate = film.date("PatientBirthDate")
    ds.PatientSex = film.code("PatientSex", ("M", "F", "O"))
    for keyword, value in (
        ("IssuerOfPatientID", film.text("IssuerOfPatientID")),
        ("TypeOfPatientID", film.code("TypeOfPatientID", ("TEXT", "RFID", "BARCODE"))),
        ("PatientBirthTime", film.time("PatientBirthTime")),
        ("QualityControlSubject", film.code("QualityControlSubject", ("YES", "NO"))),
    ):
        if value:
            setattr(ds, keyword, value)
    qualifiers = film.items("IssuerOfPatientIDQualifiersSequence")[:1]
    if found := _copied(qualifiers, text=("UniversalEntityID",), codes=("UniversalEntityIDType",)):
        ds.IssuerOfPatientIDQualifiersSequence = found
    methods = codes_of(film.items("DeidentificationMethodCodeSequence"))
    method = film.description("DeidentificationMethod")
    if film.code("PatientIdentityRemoved", ("YES", "NO")) == "NO":
        ds.PatientIdentityRemoved = "NO"
    elif film.code("PatientIdentityRemoved") == "YES" and (method or methods):
        ds.PatientIdentityRemoved = "YES"
        if method:
            ds.DeidentificationMethod = method
        if methods:
            ds.DeidentificationMethodCodeSequence = methods


def _study(ds: Dataset, film: Attributes) -> None:
    """General Study (C.7.2.1), Patient Study (C.7.2.2)."""
    ds.StudyDate, ds.StudyTime = film.date("StudyDate"), film.time("StudyTime")
    ds.ReferringPhysicianName = film.text("ReferringPhysicianName")
    ds.StudyID, ds.AccessionNumber = film.text("StudyID"), film.text("AccessionNumber")
    for keyword, value in (
        ("StudyDescription", film.description("StudyDescription")),
        ("PatientAge", film.age("PatientAge")),
        ("PatientSize", film.decimal("PatientSize")),
        ("PatientWeight", film.decimal("PatientWeight")),
        ("AdmissionID", film.text("AdmissionID")),
        ("TimezoneOffsetFromUTC", film.zone()),
    ):
        if value:
            setattr(ds, keyword, value)
    if procedure := codes_of(film.items("ProcedureCodeSequence")):
        ds.ProcedureCodeSequence = procedure
    if issuer := issuer_items(film.items("IssuerOfAccessionNumberSequence")):
        ds.IssuerOfAccessionNumberSequence = issuer
    if studies := references(film.items("ReferencedStudySequence")):
        ds.ReferencedStudySequence = studies


def _equipment(ds: Dataset, report: Report) -> None:
    """General Equipment (C.7.5.1) and Enhanced General Equipment (C.7.5.2): the software and its model."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = report.model["name"][:64]
    ds.DeviceSerialNumber = report.model["bundle_sha256"][:64]
    ds.SoftwareVersions = f"edge-report {report.software['version']}"


def device_uid(report: Report) -> str:
    """The UID of "this version of the software with this model", which is what observed the film."""
    return derived_uid("device", report.model["bundle_sha256"])


def _contributors(report: Report, film: Attributes) -> list[Dataset]:
    """Contributing Equipment Sequence (C.12.1.1.5): what made the film, and what made the draft."""
    from pydicom.dataset import Dataset

    items = []
    maker = film.text("Manufacturer")
    if maker:
        item = Dataset()
        item.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
        item.Manufacturer = maker
        for keyword in (
            "InstitutionName",
            "StationName",
            "ManufacturerModelName",
            "DeviceSerialNumber",
            "SoftwareVersions",
        ):
            if value := film.text(keyword):
                setattr(item, keyword, value)
        items.append(item)
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "DCM", "Processing Equipment")]
    _equipment(item, report)
    item.ContributionDescription = f"Findings drafted by the model {report.model['name']}; not reviewed."
    return [*items, item]


def codes_of(items: Sequence[Attributes]) -> list[Dataset]:
    """Coded concepts of the film, those that are whole."""
    found = []
    for item in items:
        value, scheme = item.text("CodeValue"), item.text("CodingSchemeDesignator")
        meaning = item.description("CodeMeaning")
        if value and scheme and meaning and len(value) <= 16:
            found.append(code(value, scheme, meaning))
            if version := item.text("CodingSchemeVersion"):
                found[-1].CodingSchemeVersion = version
    return found


def issuer_items(items: Sequence[Attributes]) -> list[Dataset]:
    """HL7v2 hierarchic designators (PS3.3 table 10-17); none where the film's is empty: such a sequence has an item."""
    return _copied(items[:1], text=("LocalNamespaceEntityID", "UniversalEntityID"), codes=("UniversalEntityIDType",))


def references(items: Sequence[Attributes]) -> list[Dataset]:
    """References of the film to other objects, those that are whole."""
    pairs = [(item.uid("ReferencedSOPClassUID"), item.uid("ReferencedSOPInstanceUID")) for item in items]
    return [reference(*pair) for pair in pairs if all(pair)]


def _copied(items: Sequence[Attributes], *, text: Sequence[str], codes: Sequence[str]) -> list[Dataset]:
    from pydicom.dataset import Dataset

    result = []
    for item in items:
        copy = Dataset()
        for keyword, value in [(k, item.text(k)) for k in text] + [(k, item.code(k)) for k in codes]:
            if value:
                setattr(copy, keyword, value)
        if len(copy):
            result.append(copy)
    return result


def lossy(ds: Dataset, film: FilmHeader) -> None:
    """Lossy once is lossy for ever (C.7.6.1.1.5)."""
    if film.values.code("LossyImageCompression", ("00", "01")) != "01":
        return
    ds.LossyImageCompression = "01"
    ratio, method = film.values.decimal("LossyImageCompressionRatio"), film.values.code("LossyImageCompressionMethod")
    if ratio and method:
        ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = ratio, method


def finished(ds: Dataset) -> Dataset:
    """The dataset with its character set (UTF-8 where ASCII does not do) and file meta information (PS3.10)."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    if not _is_ascii(ds):
        ds.SpecificCharacterSet = "ISO_IR 192"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    ds.file_meta = meta
    return ds


@guarded
def to_file(ds: Dataset) -> bytes:
    """A finished dataset as the bytes of a DICOM file, Explicit VR Little Endian."""
    from pydicom import dcmwrite

    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def _is_ascii(ds: Dataset) -> bool:
    return all(
        all(map(_is_ascii, element.value))
        if element.VR == "SQ"
        else isinstance(element.value, bytes) or str(element.value).isascii()
        for element in ds
    )
