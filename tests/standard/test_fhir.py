# SPDX-License-Identifier: Apache-2.0
"""FHIR R4 DiagnosticReport: against the model of another project, and item by item."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from standard_parts import BUNDLE, FILM, NOTICE, SENTENCES, STUDY, make_film, make_report

from edge.standard.fhir import to_json

WHEN = datetime.datetime(2026, 5, 4, 12, 0, 1, tzinfo=datetime.UTC)


def validated(resource: dict[str, Any]) -> Any:
    """The resource through fhir.resources; R4B's DiagnosticReport, Observation and Device are R4's."""
    model = pytest.importorskip("fhir.resources.R4B.diagnosticreport", reason="fhir.resources is not installed")
    again = model.DiagnosticReport.model_validate_json(to_json(resource))
    kept, given = json.loads(again.model_dump_json()), json.loads(to_json(resource))
    assert datetime.datetime.fromisoformat(kept.pop("issued")) == datetime.datetime.fromisoformat(given.pop("issued"))
    assert kept == given  # nothing unknown, nothing lost
    return again


def check_contained(resource: dict[str, Any]) -> None:
    """Rule dom-3: what is contained is referred to; and every local reference leads somewhere."""
    text = json.dumps(resource)
    ids = [item["id"] for item in resource["contained"]]
    assert len(set(ids)) == len(ids)
    assert all(f'"reference": "#{name}"' in text for name in ids)
    for result in resource["result"]:
        assert result["reference"][1:] in ids


def test_whole_film() -> None:
    resource = make_report().to_fhir(make_film(), when=WHEN)
    validated(resource)
    check_contained(resource)
    assert (resource["resourceType"], resource["status"]) == ("DiagnosticReport", "preliminary")
    assert resource["code"]["coding"][0]["code"] == "18748-4"
    assert resource["subject"]["identifier"]["value"] == "ID-4711"
    assert resource["subject"]["identifier"]["assigner"] == {"display": "HOSPITAL"}
    assert resource["subject"]["display"] == "Jane Q Doe"
    assert resource["basedOn"][0]["identifier"]["value"] == "ACC9"
    assert resource["imagingStudy"][0]["identifier"] == {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}
    assert resource["media"][0]["link"]["identifier"]["value"] == f"urn:oid:{FILM}"
    assert resource["effectiveDateTime"] == "2026-05-04"
    assert datetime.datetime.fromisoformat(resource["issued"]) == WHEN
    device, *observations = resource["contained"]
    assert (device["resourceType"], BUNDLE in device["version"][0]["value"]) == ("Device", True)
    assert [item["valueString"] for item in observations] == list(SENTENCES)
    for item in observations:
        assert (item["resourceType"], item["status"]) == ("Observation", "preliminary")
        assert item["subject"] == resource["subject"]
        assert item["device"] == {"reference": "#model"}
    for part in (resource["conclusion"], resource["text"]["div"]):
        assert NOTICE in part
        assert "Not a medical device" in part
    assert "&lt; 2 cm &amp; none" in resource["text"]["div"]


def test_time_with_the_zone_of_the_film() -> None:
    resource = make_report().to_fhir(make_film(TimezoneOffsetFromUTC="+0200"))
    validated(resource)
    assert resource["effectiveDateTime"] == "2026-05-04T10:15:00+02:00"


def test_names() -> None:
    for name, shown in (
        ("Doe^Jane", "Jane Doe"),
        ("Doe^Jane^Q^Dr^MD", "Dr Jane Q Doe MD"),
        ("=王^小東", "小東 王"),
        ("Covid0000", "Covid0000"),
    ):
        film = make_film(PatientName=name, SpecificCharacterSet="ISO_IR 192")
        assert make_report().to_fhir(film)["subject"]["display"] == shown


def test_without_a_film() -> None:
    resource = make_report().to_fhir()
    validated(resource)
    check_contained(resource)
    assert not {"subject", "basedOn", "effectiveDateTime"} & set(resource)
    assert resource["imagingStudy"]


def test_bare_film_and_picture_without_uids() -> None:
    bare = make_film(
        drop=("PatientName", "PatientID", "AccessionNumber", "StudyDate", "AcquisitionDate", "IssuerOfPatientID")
    )
    validated(make_report().to_fhir(bare))
    nothing = dict.fromkeys(("sop_instance_uid", "study_instance_uid", "series_instance_uid"), "")
    report = make_report(input={**make_report().input, **nothing})
    resource = report.to_fhir()
    validated(resource)
    assert not {"imagingStudy", "media", "subject"} & set(resource)
    other = make_report(input=report.input, film=255 - report.film)
    assert other.to_fhir()["id"] != resource["id"] == report.to_fhir()["id"]


def test_no_sentence() -> None:
    resource = make_report(findings="", sentences=(), notice=None).to_fhir(make_film())
    validated(resource)
    check_contained(resource)
    assert "valueString" not in resource["contained"][1]


def test_the_same_report_is_the_same_resource() -> None:
    film = make_film()
    first = make_report().to_fhir(film, when=WHEN)
    assert to_json(first) == to_json(make_report().to_fhir(film, when=WHEN))
    other = make_report(model={**make_report().model, "bundle_sha256": "f" * 64})
    assert other.to_fhir(film)["id"] != first["id"] == make_report().to_fhir()["id"]
    assert to_json(first).isascii()
    assert "\n" not in to_json(first, indent=None)
