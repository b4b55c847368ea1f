# SPDX-License-Identifier: Apache-2.0
"""What every structured report shares: the document module (PS3.3 C.17.2), the beginning of its tree, content items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge.standard.modules import MANUFACTURER, code, codes_of, device_uid, issuer_items, reference, references

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from edge.report import Report
    from edge.standard.filmheader import FilmHeader

Concept = tuple[str, str, str]

COMMENT: Concept = ("121106", "DCM", "Comment")
FINDING: Concept = ("121071", "DCM", "Finding")
LANGUAGE: Concept = ("en", "RFC5646", "English")
"""The only language of the models supported so far; a bundle does not name one."""

_MAX_UT = 1 << 20


def document(ds: Dataset, report: Report, film: FilmHeader) -> None:
    """SR Document General (C.17.2)."""
    from pydicom.dataset import Dataset

    ds.PreliminaryFlag = "PRELIMINARY"
    ds.CompletionFlag = "PARTIAL"
    ds.CompletionFlagDescription = f"Draft written by a model{', edited by hand' * bool(report.edited)}; not reviewed"
    ds.VerificationFlag = "UNVERIFIED"
    author = Dataset()  # Identified Person or Device (C.17.2.4)
    author.ObserverType = "DEV"
    author.StationName = ""
    author.DeviceUID = device_uid(report)
    author.Manufacturer, author.ManufacturerModelName = MANUFACTURER, ds.ManufacturerModelName
    author.SoftwareVersions = ds.SoftwareVersions
    author.InstitutionName = ""
    author.InstitutionCodeSequence = []
    ds.AuthorObserverSequence = [author]
    ds.PerformedProcedureCodeSequence = []
    if requests := _requests(film):
        ds.ReferencedRequestSequence = requests
    ds.CurrentRequestedProcedureEvidenceSequence = _evidence([film, *film.others])


def _evidence(films: Sequence[FilmHeader]) -> list[Dataset]:
    """The films by study and series (PS3.3 table C.17-3)."""
    from pydicom.dataset import Dataset

    found: dict[str, dict[str, list[Dataset]]] = {}
    for film in films:
        series = found.setdefault(film.study_uid, {}).setdefault(film.series_uid, [])
        series.append(reference(film.sop_class_uid, film.sop_instance_uid))
    items = []
    for study_uid, by_series in found.items():
        study = Dataset()
        study.StudyInstanceUID, study.ReferencedSeriesSequence = study_uid, []
        for series_uid, objects in by_series.items():
            one = Dataset()
            one.SeriesInstanceUID, one.ReferencedSOPSequence = series_uid, objects
            study.ReferencedSeriesSequence.append(one)
        items.append(study)
    return items


def _requests(film: FilmHeader) -> list[Dataset]:
    """Referenced Request Sequence (C.17.2): the orders that the film answers, where it names any."""
    from pydicom.dataset import Dataset

    accession = film.values.text("AccessionNumber")
    asked: list[Any] = film.values.items("RequestAttributesSequence") or ([None] if accession else [])
    found = []
    for order in asked:
        request = Dataset()
        request.StudyInstanceUID = (order and order.uid("StudyInstanceUID")) or film.study_uid
        request.ReferencedStudySequence = references(order.items("ReferencedStudySequence")) if order else []
        request.AccessionNumber = (order and order.text("AccessionNumber")) or accession
        if issuer := issuer_items(film.values.items("IssuerOfAccessionNumberSequence")):
            request.IssuerOfAccessionNumberSequence = issuer
        request.PlacerOrderNumberImagingServiceRequest = request.FillerOrderNumberImagingServiceRequest = ""
        request.RequestedProcedureID = order.text("RequestedProcedureID") if order else ""
        request.RequestedProcedureDescription = order.description("RequestedProcedureDescription") if order else ""
        request.RequestedProcedureCodeSequence = (
            codes_of(order.items("RequestedProcedureCodeSequence")) if order else []
        )
        found.append(request)
    return found


def root(ds: Dataset, report: Report, title: Concept, template: str, content: Sequence[Dataset]) -> None:
    """SR Document Content (C.17.3): title, language and the device that observed, then `content`."""
    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code(*title)]
    ds.ContinuityOfContent = "SEPARATE"
    ds.ContentTemplateSequence = [template_item(template)]
    language = coded("HAS CONCEPT MOD", ("121049", "DCM", "Language of Content Item and Descendants"), LANGUAGE)
    kind = coded("HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device"))
    uid = item("HAS OBS CONTEXT", "UIDREF", ("121012", "DCM", "Device Observer UID"))
    uid.UID = device_uid(report)
    observer = [
        text("HAS OBS CONTEXT", (number, "DCM", f"Device Observer {what}"), value)
        for number, what, value in (
            ("121013", "Name", "edge-report"),
            ("121014", "Manufacturer", MANUFACTURER),
            ("121015", "Model Name", report.model["name"]),
        )
    ]
    ds.ContentSequence = [language, kind, uid, *observer, *content]


def coded(relation: str, concept: Concept, value: Concept) -> Dataset:
    made = item(relation, "CODE", concept)
    made.ConceptCodeSequence = [code(*value)]
    return made


def image(relation: str, concept: Concept, film: FilmHeader) -> Dataset:
    """The film."""
    made = item(relation, "IMAGE", concept)
    made.ReferencedSOPSequence = [reference(film.sop_class_uid, film.sop_instance_uid)]
    return made


def container(concept: Concept, content: Sequence[Dataset], template: str | None = None) -> Dataset:
    made = item("CONTAINS", "CONTAINER", concept)
    made.ContinuityOfContent = "SEPARATE"
    if template is not None:
        made.ContentTemplateSequence = [template_item(template)]
    made.ContentSequence = list(content)
    return made


def template_item(identifier: str) -> Dataset:
    """A template of the DICOM Content Mapping Resource (PS3.16)."""
    from pydicom.dataset import Dataset

    made = Dataset()
    made.MappingResource, made.TemplateIdentifier = "DCMR", identifier
    return made


def text(relation: str, concept: Concept, value: str) -> Dataset:
    made = item(relation, "TEXT", concept)
    made.TextValue = value[:_MAX_UT]
    return made


def item(relation: str, value_type: str, concept: Concept) -> Dataset:
    from pydicom.dataset import Dataset

    made = Dataset()
    made.RelationshipType, made.ValueType = relation, value_type
    made.ConceptNameCodeSequence = [code(*concept)]
    return made
