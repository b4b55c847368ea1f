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
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge.standard.filmheader import FilmHeader, film_header
from edge.standard.modules import SR, algorithm_version, base, finished, guarded, notices
from edge.standard.srtree import COMMENT, FINDING, Concept, container, document, image, root, text

if TYPE_CHECKING:
    import os

    from pydicom.dataset import Dataset

    from edge.report import Report

_TITLE = ("18748-4", "LN", "Diagnostic Imaging Report")
_IMPRESSION = ("121073", "DCM", "Impression")
_IMPRESSION_NAMES = ("impression", "impressions")
_PURPOSE = ("121080", "DCM", "Best illustration of finding")


@guarded
def structured_report(
    report: Report,
    source: str | os.PathLike[str] | Dataset | FilmHeader | Sequence[Any],
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
        The DICOM film; of a report on a study a list of all films.
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
    document(ds, report, film)
    root(ds, report, _TITLE, "2000", _sections(report, film, said))
    return finished(ds)


def _said(report: Report) -> list[tuple[Concept, str]]:
    """The text items of the section, in order: concept and text."""
    return [
        *((COMMENT, text) for text in notices(report)),
        *((FINDING, sentence.text) for sentence in report.sentences),
        *((COMMENT, f"Warning: {text}.") for text in report.warnings),
        (("111001", "DCM", "Algorithm Name"), report.model["name"]),
        (("111003", "DCM", "Algorithm Version"), algorithm_version(report)),
    ]


def _sections(report: Report, film: FilmHeader, said: list[tuple[Concept, str]]) -> list[Dataset]:
    """Findings, with all that is said beside them, and the impression where the model writes one (CID 7001)."""
    impression = [words for name, texts in report.sections if name.casefold() in _IMPRESSION_NAMES for words in texts]
    own = list(said)
    for words in impression:
        own.remove((FINDING, words))
    parts = [(("59776-5", "LN", "Findings"), own)]
    if impression:
        parts.append((("19005-8", "LN", "Impressions"), [(_IMPRESSION, words) for words in impression]))
    return [
        container(heading, [_narrative(concept, words, film) for concept, words in items]) for heading, items in parts
    ]


def _narrative(concept: Concept, words: str, film: FilmHeader) -> Dataset:
    made = text("CONTAINS", concept, words)
    if concept in (FINDING, _IMPRESSION):
        made.ContentSequence = [image("INFERRED FROM", _PURPOSE, one) for one in (film, *film.others)]
    return made
