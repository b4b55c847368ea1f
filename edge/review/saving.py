# SPDX-License-Identifier: Apache-2.0
"""What the page saves: the edited draft as SR, FHIR or text. The browser downloads it; nothing is written here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import CannotReference, UsageError
from edge.standard.modules import notices

if TYPE_CHECKING:
    from edge.report import Report
    from edge.standard.filmheader import FilmHeader

FORMATS = {
    "sr": ("application/dicom", "dcm"),
    "fhir": ("application/fhir+json", "json"),
    "text": ("text/plain; charset=utf-8", "txt"),
}


def saved(
    report: Report, sentences: list[str], form: str, header: FilmHeader | None, no_header: str = ""
) -> tuple[bytes, str, str]:
    """The draft as it now reads.

    Returns
    -------
    data : bytes
    media_type, name : str
        The name tells draft from draft, and nothing about the patient.

    Raises
    ------
    UsageError
        Another format.
    CannotReference
        An SR of a film that has no header to point at.
    """
    if form not in FORMATS:
        raise UsageError(f"the format must be one of {', '.join(FORMATS)}")
    media_type, suffix = FORMATS[form]
    edited = report.with_text(sentences)
    if form == "sr":
        if header is None:
            raise CannotReference(no_header or "this film has no header that an SR could point at")
        from edge.standard.modules import to_file

        data = to_file(edited.to_sr(header))
    elif form == "fhir":
        from edge.standard.fhir import to_json

        data = to_json(edited.to_fhir(header)).encode() + b"\n"
    else:
        data = _text(edited).encode()
    return data, media_type, f"draft-{form}-{_tag(data)}.{suffix}"


def _text(report: Report) -> str:
    lines = [*notices(report), "", *(sentence.text for sentence in report.sentences)]
    if report.warnings:
        lines += ["", *(f"Warning: {warning}." for warning in report.warnings)]
    return "\n".join(lines) + "\n"


def _tag(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()[:8]
