# SPDX-License-Identifier: Apache-2.0
"""The coded findings of a report as DICOM Comprehensive 3D SR (PS3.3 section A.35.13), TID 1500 "Measurement Report".

Where the bundle says how its model's findings are coded (:mod:`edge.coding`), a machine can read them here: one group
per finding that a sentence states as present. What no sentence states, and what is denied or uncertain, is in no group:
no group for a finding does not mean that it is absent. The sentences are there as they are, beside the groups. The tree
(PS3.16)::

    CONTAINER (126000, DCM, "Imaging Measurement Report")                                      TID 1500
      language (TID 1204) and device observer (TID 1001), as in the text report
      HAS CONCEPT MOD CODE (121058, DCM, "Procedure reported") = XR chest single view
      CONTAINS CONTAINER (111028, DCM, "Image Library")                                        TID 1600
        CONTAINS CONTAINER (126200, DCM, "Image Library Group")
          CONTAINS IMAGE the film, HAS ACQ CONTEXT CODE its modality                           TID 1601, 1602
      CONTAINS CONTAINER (126010, DCM, "Imaging Measurements")       where there are any
        CONTAINS CONTAINER (125007, DCM, "Measurement Group")        one per finding           TID 1501
          HAS OBS CONTEXT TEXT "Tracking Identifier" the label, UIDREF "Tracking Unique Identifier"
          CONTAINS CODE (121071, DCM, "Finding")
          HAS CONCEPT MOD CODE (363698007, SCT, "Finding Site")
            HAS CONCEPT MOD CODE (272741003, SCT, "Laterality")
          HAS CONCEPT MOD TEXT "Algorithm Name", "Algorithm Version"                           TID 4019
          CONTAINS CODE, such as (112025, DCM, "Size Descriptor")
          CONTAINS TEXT (121106, DCM, "Comment")                     the sentence
          CONTAINS IMAGE (121112, DCM, "Source of Measurement")      the film
      CONTAINS CONTAINER (C0034375, UMLS, "Qualitative Evaluations")
        CONTAINS TEXT: notices, every sentence, warnings
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from edge.errors import UsageError
from edge.standard.filmheader import FilmHeader, film_header
from edge.standard.identity import derived_uid
from edge.standard.modules import CODED_SR, algorithm_version, base, finished, guarded, notices
from edge.standard.srtree import COMMENT, FINDING, Concept, coded, container, document, image, item, root, text

if TYPE_CHECKING:
    import os

    from pydicom.dataset import Dataset

    from edge.coding import Code, CodedFinding, Reading
    from edge.report import Report

_TITLE = ("126000", "DCM", "Imaging Measurement Report")
_PROCEDURE = ("36554-4", "LN", "XR Chest Single view")
_MODALITIES = {
    "CR": "Computed Radiography",
    "DX": "Digital Radiography",
    "RF": "Radiofluoroscopy",
    "RG": "Radiographic imaging",
}


@guarded
def measurement_report(
    report: Report,
    source: str | os.PathLike[str] | Dataset | FilmHeader,
    *,
    when: datetime.datetime | None = None,
) -> Dataset:
    """The coded findings of a report as a Comprehensive 3D SR dataset.

    PRELIMINARY, PARTIAL and UNVERIFIED as the text report (:func:`edge.standard.sr.structured_report`), with a derived
    UID; in a series of its own.

    Parameters
    ----------
    report, source, when
        As there.

    Raises
    ------
    NotCoded
        The bundle does not say how findings are coded.
    UsageError, CannotReference, InputError
        See :func:`edge.standard.filmheader.film_header`.
    """
    reading = report.coded()
    film = film_header(source, report)
    if film.others:
        raise UsageError("coded findings are placed on one film, and this report is about several")
    said = _said(report, reading)
    names = [finding.label.name for finding in reading.findings]
    ds = base(report, film, CODED_SR, [said, names], when)
    ds.ReferencedPerformedProcedureStepSequence = []
    document(ds, report, film)
    groups = [_group(report, film, finding) for finding in reading.findings]
    content = [
        coded("HAS CONCEPT MOD", ("121058", "DCM", "Procedure reported"), _PROCEDURE),
        _library(report, film),
        *([container(("126010", "DCM", "Imaging Measurements"), groups)] if groups else []),
        container(
            ("C0034375", "UMLS", "Qualitative Evaluations"),
            [text("CONTAINS", concept, words) for concept, words in said],
        ),
    ]
    root(ds, report, _TITLE, "1500", content)
    return finished(ds)


def _said(report: Report, reading: Reading) -> list[tuple[Concept, str]]:
    """The texts: what a reader must know first, then the sentences, then what is to be said about them."""
    warnings = list(report.warnings)
    if reading.left_out:
        many = "statements have" if reading.left_out > 1 else "statement has"
        warnings.append(f"{reading.left_out} {many} no code here, because side, place or size is not clear")
    return [
        *((COMMENT, words) for words in notices(report)),
        *((FINDING, sentence.text) for sentence in report.sentences),
        *((COMMENT, f"Warning: {words}.") for words in warnings),
    ]


def _library(report: Report, film: FilmHeader) -> Dataset:
    entry = image("CONTAINS", ("260753009", "SCT", "Source"), film)
    del entry.ConceptNameCodeSequence  # TID 1601 gives it none
    modality = str(report.input.get("modality", ""))
    if modality in _MODALITIES:
        kind = (modality, "DCM", _MODALITIES[modality])
        entry.ContentSequence = [coded("HAS ACQ CONTEXT", ("121139", "DCM", "Modality"), kind)]
    return container(
        ("111028", "DCM", "Image Library"),
        [container(("126200", "DCM", "Image Library Group"), [entry])],
        template="1600",
    )


def _group(report: Report, film: FilmHeader, finding: CodedFinding) -> Dataset:
    label = finding.label
    uid = item("HAS OBS CONTEXT", "UIDREF", ("112040", "DCM", "Tracking Unique Identifier"))
    uid.UID = derived_uid("finding", film.sop_instance_uid, report.model["bundle_sha256"], label.name)
    sites = []
    for site in label.sites:
        made = coded("HAS CONCEPT MOD", ("363698007", "SCT", "Finding Site"), _concept(site.place))
        if site.laterality is not None:
            side = coded("HAS CONCEPT MOD", ("272741003", "SCT", "Laterality"), _concept(site.laterality))
            made.ContentSequence = [side]
        sites.append(made)
    return container(
        ("125007", "DCM", "Measurement Group"),
        [
            text("HAS OBS CONTEXT", ("112039", "DCM", "Tracking Identifier"), label.name),
            uid,
            coded("CONTAINS", FINDING, _concept(label.code)),
            *sites,
            text("HAS CONCEPT MOD", ("111001", "DCM", "Algorithm Name"), report.model["name"]),
            text("HAS CONCEPT MOD", ("111003", "DCM", "Algorithm Version"), algorithm_version(report)),
            *(coded("CONTAINS", _concept(name), _concept(value)) for name, value in label.evaluations),
            text("CONTAINS", COMMENT, report.sentences[finding.sentence].text),
            image("CONTAINS", ("121112", "DCM", "Source of Measurement"), film),
        ],
        template="1501",
    )


def _concept(code: Code) -> Concept:
    return code.value, code.scheme, code.meaning
