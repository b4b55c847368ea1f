# SPDX-License-Identifier: Apache-2.0
"""A report as one FHIR R4 resource: a preliminary DiagnosticReport that contains its Observations and its Device.

They are contained and not entries of a Bundle because a sentence of a draft has no life of its own: a server takes,
replaces and deletes the draft as a whole. Patient, study, order and film are logical references (an identifier and no
address), since the film knows no server. The id is derived (:mod:`edge.standard.identity`), so that
``PUT [base]/DiagnosticReport/[id]`` twice leaves one resource.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge.standard.filmheader import FilmHeader, film_header
from edge.standard.identity import derived_uuid
from edge.standard.modules import MANUFACTURER, algorithm_version, guarded, notices

if TYPE_CHECKING:
    import os

    from pydicom.dataset import Dataset

    from edge.report import Report
    from edge.standard.attributes import Attributes

_LOINC = "http://loinc.org"
_DICOM_UID = "urn:dicom:uid"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_TYPES = f"{_HL7}/v2-0203"
_AI = {
    "system": f"{_HL7}/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
_NO_TEXT = {"text": "the model wrote no text"}


@guarded
def diagnostic_report(
    report: Report,
    source: str | os.PathLike[str] | Dataset | FilmHeader | Sequence[Any] | None = None,
    *,
    when: datetime.datetime | None = None,
) -> dict[str, Any]:
    """The report as a FHIR R4 DiagnosticReport, as plain dictionaries, lists and texts.

    Parameters
    ----------
    report : Report
    source : str, Path or pydicom.Dataset, optional
        The DICOM film, for patient, order and study; without it the resource names what the report knows: the UIDs.
    when : datetime, optional
        When the draft was made; default: now.
    """
    film = None if source is None else film_header(source, report)
    said = [sentence.text for sentence in report.sentences]
    notes = [*notices(report), *(f"Warning: {text}." for text in report.warnings)]
    subject = _subject(film.values) if film else None
    effective = _effective(film.values) if film else None
    focus = _identifier_reference("ImagingStudy", _uid(report.input.get("study_instance_uid", "")))
    uids = [one.get("sop_instance_uid", "") for one in report.input.get("films", [report.input])]
    images = [image for uid in uids if (image := _identifier_reference("Media", _uid(uid)))]
    observations = [
        _without_nothing(
            {
                "resourceType": "Observation",
                "id": f"finding-{number}",
                "status": "preliminary",
                "category": [_concept(f"{_HL7}/observation-category", "imaging", "Imaging")],
                "code": _concept(_LOINC, "59776-5", "Procedure findings Narrative"),
                "subject": subject,
                "effectiveDateTime": effective,
                "valueString": text or None,
                "dataAbsentReason": None if text else _NO_TEXT,
                "device": {"reference": "#model"},
                "derivedFrom": [focus] if focus else None,
            }
        )
        for number, text in enumerate(said or [""], 1)
    ]
    key = [_film_key(report), report.model["bundle_sha256"], said, notes]
    return _without_nothing(
        {
            "resourceType": "DiagnosticReport",
            "id": str(derived_uuid("fhir", *key)),
            "meta": {"security": [_AI]},
            "language": "en",
            "text": {"status": "generated", "div": _narrative(notes, said)},
            "contained": [_device(report), *observations],
            "identifier": [_uid(f"2.25.{derived_uuid('fhir', *key).int}")],
            "basedOn": _orders(film.values) if film else None,
            "status": "preliminary",
            "category": [_concept(f"{_HL7}/v2-0074", "RAD", "Radiology")],
            "code": _concept(_LOINC, "18748-4", "Diagnostic imaging study"),
            "subject": subject,
            "effectiveDateTime": effective,
            "issued": (when or datetime.datetime.now()).astimezone().isoformat(timespec="seconds"),
            "result": [{"reference": f"#{item['id']}"} for item in observations],
            "imagingStudy": [focus] if focus else None,
            "media": [{"comment": "the film", "link": image} for image in images] or None,
            "conclusion": " ".join([*notes[: len(notices(report))], report.findings]).strip(),
        }
    )


def to_json(resource: dict[str, Any], *, indent: int | None = 2) -> str:
    """ASCII-only JSON: one line, or indented."""
    separators = (",", ":") if indent is None else None
    return json.dumps(resource, indent=indent, separators=separators, allow_nan=False)


def _film_key(report: Report) -> str:
    """What tells this film from others: its UID, or its picture's hash."""
    uid: str = report.input.get("sop_instance_uid", "")
    if uid or report.film is None:
        return uid
    return hashlib.sha256(repr(report.film.shape).encode() + report.film.tobytes()).hexdigest()


def _device(report: Report) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "id": "model",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:sha256:{report.model['bundle_sha256']}"}],
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": report.model["name"], "type": "model-name"}],
        "version": [{"value": algorithm_version(report)}],
        "note": [{"text": text} for text in notices(report)],
    }


def _subject(film: Attributes) -> dict[str, Any] | None:
    """The patient by identifier and name, as the film has them."""
    value, name = film.text("PatientID"), film.text("PatientName")
    identifier: dict[str, Any] | None = None
    if value:
        issuer = film.text("IssuerOfPatientID")
        identifier = _without_nothing(
            {
                "type": _concept(_TYPES, "MR", "Medical record number"),
                "value": value,
                "assigner": {"display": issuer} if issuer else None,
            }
        )
    display = _readable(name)
    if not identifier and not display:
        return None
    return _without_nothing({"type": "Patient", "identifier": identifier, "display": display or None})


def _readable(name: str) -> str:
    """A DICOM person name as it is read: given names, family name; the first form that is there."""
    form = next((part for part in name.split("=") if part.strip("^ ")), "")
    family, given, middle, prefix, suffix = (*form.split("^"), *[""] * 5)[:5]
    return " ".join(part.strip() for part in (prefix, given, middle, family, suffix) if part.strip())


def _orders(film: Attributes) -> list[dict[str, Any]] | None:
    accession = film.text("AccessionNumber")
    if not accession:
        return None
    identifier = {"type": _concept(_TYPES, "ACSN", "Accession ID"), "value": accession}
    return [{"type": "ServiceRequest", "identifier": identifier}]


def _effective(film: Attributes) -> str | None:
    """When the film was taken: with its time only where the film names its time zone, as R4 asks for one."""
    for part in ("Acquisition", "Content", "Series", "Study"):
        date, time, zone = film.date(f"{part}Date"), film.time(f"{part}Time"), film.zone()
        if date:
            day = f"{date[:4]}-{date[4:6]}-{date[6:]}"
            if zone and len(time) >= 4:
                seconds = min(int(time[4:6] or "0"), 59)
                return f"{day}T{time[:2]}:{time[2:4]}:{seconds:02d}{zone[:3]}:{zone[3:]}"
            return day
    return None


def _uid(uid: str) -> dict[str, Any] | None:
    return {"system": _DICOM_UID, "value": f"urn:oid:{uid}"} if uid else None


def _identifier_reference(kind: str, identifier: dict[str, Any] | None) -> dict[str, Any] | None:
    return {"type": kind, "identifier": identifier} if identifier else None


def _concept(system: str, value: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": value, "display": display}]}


def _narrative(notes: list[str], said: list[str]) -> str:
    """What a person reads: the notices, then the sentences."""
    from html import escape

    lines = "".join(f"<li>{escape(text)}</li>" for text in said)
    head = "".join(f"<p><b>{escape(text)}</b></p>" for text in notes)
    return (
        f'<div xmlns="http://www.w3.org/1999/xhtml">{head}<ul>{lines}</ul></div>'
        if lines
        else (f'<div xmlns="http://www.w3.org/1999/xhtml">{head}<p>(no text)</p></div>')
    )


def _without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
