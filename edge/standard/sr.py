# SPDX-License-Identifier: Apache-2.0
"""A report as DICOM Basic Text SR (PS3.3 section A.35.1), built on TID 2000 "Basic Diagnostic Imaging Report".

The tree (PS3.16)::

    CONTAINER (18748-4, LN, "Diagnostic Imaging Report")                       TID 2000
      HAS CONCEPT MOD  CODE   (121049, DCM, "Language of Content Item and Descendants") = en     TID 1204
      HAS OBS CONTEXT  CODE   (121005, DCM, "Observer Type") = Device                            TID 1002
      HAS OBS CONTEXT  UIDREF (121012, DCM, "Device Observer UID"), TEXT name, manufacturer, model TID 1004
      CONTAINS CONTAINER (59776-5, LN, "Findings")                                               TID 2002
        CONTAINS TEXT (121106, DCM, "Comment")          the notices: first, where a reader sees them
        CONTAINS TEXT (121071, DCM, "Finding")          one per sentence
          INFERRED FROM IMAGE                           the film                                 TID 2001
        CONTAINS TEXT (121106, DCM, "Comment")          one per warning
        CONTAINS TEXT (111001, DCM, "Algorithm Name"), TEXT (111003, DCM, "Algorithm Version")
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from edge.standard.filmheader import FilmHeader, film_header
from edge.standard.modules import (
    MANUFACTURER,
    SR,
    algorithm_version,
    base,
    code,
    codes_of,
    device_uid,
    finished,
    guarded,
    issuer_items,
    notices,
    reference,
    references,
)

if TYPE_CHECKING:
    import os

    from pydicom.dataset import Dataset

    from edge.report import Report

LANGUAGE = ("en", "RFC5646", "English")
"""The only language of the models supported so far; a bundle does not name one."""

_COMMENT = ("121106", "DCM", "Comment")
_FINDING = ("121071", "DCM", "Finding")
_IMPRESSION = ("121073", "DCM", "Impression")
_IMPRESSION_NAMES = ("impression", "impressions")
_PURPOSE = ("121080", "DCM", "Best illustration of finding")
_MAX_UT = 1 << 20


@guarded
def structured_report(
    report: Report,
    source: str | os.PathLike[str] | Dataset | FilmHeader,
    *,
    when: datetime.datetime | None = None,
) -> Dataset:
    """The report as a Basic Text SR dataset; :func:`edge.standard.modules.to_file` makes it a file.

    It is PRELIMINARY, PARTIAL and UNVERIFIED, of the film's study, in a series of its own. Its UID is derived
    (:mod:`edge.standard.identity`).

    Parameters
    ----------
    report : Report
    source : str, Path or pydicom.Dataset
        The DICOM film.
    when : datetime, optional
        When the draft was made; default: now.

    Raises
    ------
    UsageError, CannotReference, InputError
        See :func:`edge.standard.filmheader.film_header`.
    """
    film = film_header(source, report)
    said = _said(report)
    ds = base(report, film, SR, said, when)
    ds.ReferencedPerformedProcedureStepSequence = []
    _document(ds, report, film)
    _root(ds, report, film, said)
    return finished(ds)


def _said(report: Report) -> list[tuple[tuple[str, str, str], str]]:
    """The text items of the section, in order: concept and text."""
    return [
        *((_COMMENT, text) for text in notices(report)),
        *((_FINDING, sentence.text) for sentence in report.sentences),
        *((_COMMENT, f"Warning: {text}.") for text in report.warnings),
        (("111001", "DCM", "Algorithm Name"), report.model["name"]),
        (("111003", "DCM", "Algorithm Version"), algorithm_version(report)),
    ]


def _document(ds: Dataset, report: Report, film: FilmHeader) -> None:
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
    series = Dataset()
    series.SeriesInstanceUID = film.series_uid
    series.ReferencedSOPSequence = [reference(film.sop_class_uid, film.sop_instance_uid)]
    study = Dataset()
    study.StudyInstanceUID = film.study_uid
    study.ReferencedSeriesSequence = [series]
    ds.CurrentRequestedProcedureEvidenceSequence = [study]


def _requests(film: FilmHeader) -> list[Dataset]:
    """Referenced Request Sequence (C.17.2): the orders that the film answers, where it names any."""
    from pydicom.dataset import Dataset

    accession = film.values.text("AccessionNumber")
    asked: list[Any] = film.values.items("RequestAttributesSequence") or ([None] if accession else [])
    found = []
    for order in asked:
        item = Dataset()
        item.StudyInstanceUID = (order and order.uid("StudyInstanceUID")) or film.study_uid
        item.ReferencedStudySequence = references(order.items("ReferencedStudySequence")) if order else []
        item.AccessionNumber = (order and order.text("AccessionNumber")) or accession
        if issuer := film.values.items("IssuerOfAccessionNumberSequence"):
            item.IssuerOfAccessionNumberSequence = issuer_items(issuer)
        item.PlacerOrderNumberImagingServiceRequest = item.FillerOrderNumberImagingServiceRequest = ""
        item.RequestedProcedureID = order.text("RequestedProcedureID") if order else ""
        item.RequestedProcedureDescription = order.text("RequestedProcedureDescription") if order else ""
        item.RequestedProcedureCodeSequence = codes_of(order.items("RequestedProcedureCodeSequence")) if order else []
        found.append(item)
    return found


def _root(ds: Dataset, report: Report, film: FilmHeader, said: list[tuple[tuple[str, str, str], str]]) -> None:
    """SR Document Content (C.17.3)."""
    from pydicom.dataset import Dataset

    ds.ValueType = "CONTAINER"
    ds.ConceptNameCodeSequence = [code("18748-4", "LN", "Diagnostic Imaging Report")]
    ds.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2000"
    ds.ContentTemplateSequence = [template]
    language = _item("HAS CONCEPT MOD", "CODE", ("121049", "DCM", "Language of Content Item and Descendants"))
    language.ConceptCodeSequence = [code(*LANGUAGE)]
    kind = _item("HAS OBS CONTEXT", "CODE", ("121005", "DCM", "Observer Type"))
    kind.ConceptCodeSequence = [code("121007", "DCM", "Device")]
    uid = _item("HAS OBS CONTEXT", "UIDREF", ("121012", "DCM", "Device Observer UID"))
    uid.UID = device_uid(report)
    observer = [
        _text("HAS OBS CONTEXT", (number, "DCM", f"Device Observer {what}"), value)
        for number, what, value in (
            ("121013", "Name", "edge-report"),
            ("121014", "Manufacturer", MANUFACTURER),
            ("121015", "Model Name", report.model["name"]),
        )
    ]
    ds.ContentSequence = [language, kind, uid, *observer, *_sections(report, film, said)]


def _sections(report: Report, film: FilmHeader, said: list[tuple[tuple[str, str, str], str]]) -> list[Dataset]:
    """Findings, with all that is said beside them, and the impression where the model writes one (CID 7001)."""
    impression = [text for name, texts in report.sections if name.casefold() in _IMPRESSION_NAMES for text in texts]
    own = list(said)
    for text in impression:
        own.remove((_FINDING, text))
    parts = [(("59776-5", "LN", "Findings"), own)]
    if impression:
        parts.append((("19005-8", "LN", "Impressions"), [(_IMPRESSION, text) for text in impression]))
    sections = []
    for heading, items in parts:
        section = _item("CONTAINS", "CONTAINER", heading)
        section.ContinuityOfContent = "SEPARATE"
        section.ContentSequence = [_narrative(concept, text, film) for concept, text in items]
        sections.append(section)
    return sections


def _narrative(concept: tuple[str, str, str], text: str, film: FilmHeader) -> Dataset:
    item = _text("CONTAINS", concept, text)
    if concept in (_FINDING, _IMPRESSION):
        image = _item("INFERRED FROM", "IMAGE", _PURPOSE)
        image.ReferencedSOPSequence = [reference(film.sop_class_uid, film.sop_instance_uid)]
        item.ContentSequence = [image]
    return item


def _text(relation: str, concept: tuple[str, str, str], text: str) -> Dataset:
    item = _item(relation, "TEXT", concept)
    item.TextValue = text[:_MAX_UT]
    return item


def _item(relation: str, value_type: str, concept: tuple[str, str, str]) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.RelationshipType, item.ValueType = relation, value_type
    item.ConceptNameCodeSequence = [code(*concept)]
    return item
