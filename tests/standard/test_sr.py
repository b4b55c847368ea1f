# SPDX-License-Identifier: Apache-2.0
"""DICOM Basic Text SR: item by item, and as two other readers see it."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from standard_parts import (
    BUNDLE,
    DX,
    FILM,
    NOTICE,
    SENTENCES,
    SERIES,
    STUDY,
    dciodvfy,
    dsrdump,
    make_film,
    make_report,
    needs_dciodvfy,
    needs_dsrdump,
    written,
)

import edge
from edge.report import Sentence
from edge.standard.modules import to_file

WHEN = datetime.datetime(2026, 5, 4, 12, 0, 1, tzinfo=datetime.UTC)


def concept(item: Dataset) -> tuple[str, str, str]:
    (name,) = item.ConceptNameCodeSequence
    return name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning


def meaning(item: Dataset) -> str:
    (value,) = item.ConceptCodeSequence
    return value.CodeMeaning


@pytest.fixture(scope="module")
def sr(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(make_report().to_sr(make_film(), when=WHEN), tmp_path_factory.mktemp("sr") / "sr.dcm")


def test_root_and_context(sr: Dataset) -> None:
    assert sr.SOPClassUID == sr.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert sr.SOPInstanceUID == sr.file_meta.MediaStorageSOPInstanceUID
    assert (sr.ValueType, sr.ContinuityOfContent) == ("CONTAINER", "SEPARATE")
    assert concept(sr) == ("18748-4", "LN", "Diagnostic Imaging Report")
    assert sr.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    language, kind, uid, name, maker, model, section = sr.ContentSequence
    assert (language.RelationshipType, language.ValueType) == ("HAS CONCEPT MOD", "CODE")
    assert concept(language)[0] == "121049"
    assert (language.ConceptCodeSequence[0].CodeValue, meaning(language)) == ("en", "English")
    assert all(item.RelationshipType == "HAS OBS CONTEXT" for item in (kind, uid, name, maker, model))
    assert (concept(kind)[0], meaning(kind)) == ("121005", "Device")
    assert (concept(uid)[0], uid.UID) == ("121012", sr.DeviceUID)
    assert [(concept(i)[0], i.TextValue) for i in (name, maker, model)] == [
        ("121013", "edge-report"),
        ("121014", "edge-report"),
        ("121015", "model-x"),
    ]
    assert (section.RelationshipType, section.ValueType) == ("CONTAINS", "CONTAINER")
    assert concept(section) == ("59776-5", "LN", "Findings")


def test_findings_item_by_item(sr: Dataset) -> None:
    items = list(sr.ContentSequence[-1].ContentSequence)
    assert all((item.RelationshipType, item.ValueType) == ("CONTAINS", "TEXT") for item in items)
    said = [(concept(item)[0], item.TextValue) for item in items]
    assert said[0][0] == said[1][0] == "121106"
    assert "Not a medical device. Not for clinical use." in said[0][1]
    assert NOTICE in said[1][1]
    assert said[2:5] == [("121071", text) for text in SENTENCES]
    assert said[5] == ("121106", "Warning: the text compares with earlier films.")
    assert said[6:] == [("111001", "model-x"), ("111003", f"edge-report 0.1.0, bundle {BUNDLE}")]
    for item in items[2:5]:
        assert concept(item) == ("121071", "DCM", "Finding")
        (image,) = item.ContentSequence
        assert (image.RelationshipType, image.ValueType) == ("INFERRED FROM", "IMAGE")
        (film,) = image.ReferencedSOPSequence
        assert (film.ReferencedSOPClassUID, film.ReferencedSOPInstanceUID) == (DX, FILM)
    assert all("ContentSequence" not in item for item in [*items[:2], *items[5:]])


def test_state_evidence_and_equipment(sr: Dataset) -> None:
    flags = sr.PreliminaryFlag, sr.CompletionFlag, sr.VerificationFlag
    assert flags == ("PRELIMINARY", "PARTIAL", "UNVERIFIED")
    assert "VerifyingObserverSequence" not in sr
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (film,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, SERIES)
    assert (film.ReferencedSOPClassUID, film.ReferencedSOPInstanceUID) == (DX, FILM)
    (author,) = sr.AuthorObserverSequence
    assert (author.ObserverType, author.ManufacturerModelName) == ("DEV", "model-x")
    assert (sr.Manufacturer, sr.ManufacturerModelName, sr.DeviceSerialNumber) == ("edge-report", "model-x", BUNDLE)
    assert sr.SoftwareVersions == "edge-report 0.1.0"
    scanner, model = sr.ContributingEquipmentSequence
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert (scanner.Manufacturer, scanner.ManufacturerModelName) == ("Maker", "Model 3")
    assert model.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (model.Manufacturer, model.SoftwareVersions) == ("edge-report", "edge-report 0.1.0")
    (order,) = sr.ReferencedRequestSequence
    assert (order.AccessionNumber, order.StudyInstanceUID) == ("ACC9", STUDY)


def test_patient_and_study_are_the_films(sr: Dataset) -> None:
    film = make_film()
    for keyword in (
        *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
        *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
        *("ReferringPhysicianName", "StudyDescription", "InstanceNumber"),
    ):
        assert sr[keyword].value == film[keyword].value, keyword
    assert sr.SeriesInstanceUID not in (SERIES, STUDY)
    assert (sr.Modality, sr.SeriesNumber) == ("SR", 9100)
    assert "SpecificCharacterSet" in sr  # a sentence holds "ï"
    assert sr.SpecificCharacterSet == "ISO_IR 192"


def test_ascii_needs_no_character_set(tmp_path: Path) -> None:
    report = make_report(sentences=(Sentence("No effusion.", 0.5, None),))
    assert "SpecificCharacterSet" not in written(report.to_sr(make_film()), tmp_path / "sr.dcm")


def test_the_same_report_is_the_same_object() -> None:
    film, report = make_film(), make_report()
    first = report.to_sr(film, when=WHEN)
    assert to_file(first) == to_file(report.to_sr(film, when=WHEN))
    later = report.to_sr(film)
    assert later.SOPInstanceUID == first.SOPInstanceUID
    assert first.SOPInstanceUID.startswith("2.25.")
    assert len(first.SOPInstanceUID) <= 64
    others = [
        make_report(model={**report.model, "bundle_sha256": "f" * 64}).to_sr(film),
        make_report(sentences=report.sentences[:2]).to_sr(film),
        make_report(input={**report.input, "sop_instance_uid": "1.2.3"}).to_sr(make_film(SOPInstanceUID="1.2.3")),
        report.to_secondary_capture(film),
        report.to_segmentation(film),
    ]
    assert len({first.SOPInstanceUID, *(other.SOPInstanceUID for other in others)}) == 6
    assert others[1].SeriesInstanceUID == others[2].SeriesInstanceUID == first.SeriesInstanceUID
    assert others[3].SeriesInstanceUID != others[4].SeriesInstanceUID


def test_content_time_is_in_the_zone_that_the_film_names() -> None:
    sr = make_report().to_sr(make_film(TimezoneOffsetFromUTC="-0530"), when=WHEN)
    assert (sr.TimezoneOffsetFromUTC, sr.ContentDate, sr.ContentTime) == ("-0530", "20260504", "063001")
    assert "TimezoneOffsetFromUTC" not in make_report().to_sr(make_film(TimezoneOffsetFromUTC="nonsense"))


@pytest.mark.parametrize(
    "film",
    [
        make_film(),
        make_film(
            drop=(
                *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
                *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
                *("StudyDescription", "InstanceNumber", "Manufacturer"),
            )
        ),
        make_film(PatientName="Йванов^Пётр=伊^万=", SpecificCharacterSet="ISO_IR 192"),
    ],
    ids=["whole", "bare", "names"],
)
@needs_dciodvfy
@needs_dsrdump
def test_other_readers_accept_it(film: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    sr = written(make_report().to_sr(film), path)
    assert dciodvfy(path) == []
    text = dsrdump(path)
    for sentence in SENTENCES:
        assert sentence in text
    assert "Not a medical device" in text
    assert text.count('(121071,DCM,"Finding")') == 3
    assert "UNVERIFIED" in text
    assert sr.PatientID == film.get("PatientID", "")


@pytest.mark.parametrize("missing", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_film_that_nothing_can_point_at_is_refused(missing: str) -> None:
    film = make_film(drop=(missing,))
    film.file_meta = type(film.file_meta)()
    film.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    report = make_report(input={**make_report().input, "sop_instance_uid": ""})
    with pytest.raises(edge.CannotReference) as caught:
        report.to_sr(film)
    assert caught.value.exit_code == 41
    assert "Doe" not in str(caught.value)


def test_another_film_is_refused() -> None:
    with pytest.raises(edge.UsageError):
        make_report().to_sr(make_film(SOPInstanceUID="1.2.3.4"))


def test_an_array_is_refused() -> None:
    with pytest.raises(edge.UsageError):
        make_report().to_sr(make_report().film)  # type: ignore[arg-type]


@needs_dciodvfy
def test_the_validator_sees_what_is_wrong(tmp_path: Path) -> None:
    sr = make_report().to_sr(make_film())
    del sr.VerificationFlag
    written(sr, tmp_path / "sr.dcm")
    assert dciodvfy(tmp_path / "sr.dcm") != []


def test_no_sentence(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    sr = written(make_report(findings="", sentences=()).to_sr(make_film()), path)
    assert "Not a medical device" in sr.ContentSequence[-1].ContentSequence[0].TextValue
    assert dciodvfy(path) == []


def test_impression_has_its_own_section(tmp_path: Path) -> None:
    report = make_report(
        sentences=(
            Sentence("Clear lungs.", None, None, "findings"),
            Sentence("Normal chest.", None, None, "impression"),
        )
    )
    ds = report.to_sr(make_film())
    sections = [item for item in ds.ContentSequence if item.ValueType == "CONTAINER"]
    headings = [(s.ConceptNameCodeSequence[0].CodeValue, s.ConceptNameCodeSequence[0].CodeMeaning) for s in sections]
    assert headings == [("59776-5", "Findings"), ("19005-8", "Impressions")]
    assert [item.TextValue for item in sections[1].ContentSequence] == ["Normal chest."]
    assert "Normal chest." not in [item.TextValue for item in sections[0].ContentSequence]
