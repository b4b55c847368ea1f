# SPDX-License-Identifier: Apache-2.0
"""Coded findings as DICOM Comprehensive 3D SR, TID 1500: item by item, and as three other programs see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from standard_parts import (
    FILM,
    NOTICE,
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
from edge.bundle import DEMO, Bundle
from edge.report import Report, Sentence
from edge.standard.modules import to_file

SAID = (
    "The heart is enlarged.",
    "Large right and small left pleural effusions.",
    "Consolidation in the left lower zone.",
    "No pneumothorax.",
    "A nodule is seen.",
)
LABELS = ("cardiomegaly", "effusion_right_large", "effusion_left_small", "opacity_left_lower")


def make_coded(*sentences: str, **changes: Any) -> Report:
    said = tuple(Sentence(text, 0.9, None) for text in sentences or SAID)
    coding = Bundle.open(DEMO).coding_table()
    return make_report(sentences=said, findings=" ".join(sentences or SAID), coding=coding, **changes)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sr") / "coded.dcm"
    path.write_bytes(to_file(make_coded().to_coded_sr(make_film())))
    return path


@pytest.fixture(scope="module")
def sr(path: Path) -> Dataset:
    import pydicom

    return pydicom.dcmread(path)


def concept(item: Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else ""


def inside(item: Dataset, name: str) -> list[Dataset]:
    return [part for part in item.get("ContentSequence", []) if concept(part) == name]


def test_the_tree(sr: Dataset) -> None:
    assert sr.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (sr.StudyInstanceUID, sr.PatientID, sr.Modality) == (STUDY, "ID-4711", "SR")
    flags = sr.PreliminaryFlag, sr.CompletionFlag, sr.VerificationFlag
    assert flags == ("PRELIMINARY", "PARTIAL", "UNVERIFIED")
    assert (concept(sr), sr.ContentTemplateSequence[0].TemplateIdentifier) == ("126000", "1500")
    names = [concept(item) for item in sr.ContentSequence]
    assert names == [
        "121049",
        "121005",
        "121012",
        "121013",
        "121014",
        "121015",
        "121058",
        "111028",
        "126010",
        "C0034375",
    ]
    (library,) = inside(sr, "111028")
    (entry,) = library.ContentSequence[0].ContentSequence
    assert (entry.ValueType, concept(entry)) == ("IMAGE", "")
    assert entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == FILM
    assert inside(entry, "121139")[0].ConceptCodeSequence[0].CodeValue == "DX"
    evidence = sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert evidence.ReferencedSOPInstanceUID == FILM


def test_one_group_for_each_finding(sr: Dataset) -> None:
    groups = inside(sr, "126010")[0].ContentSequence
    assert [inside(group, "112039")[0].TextValue for group in groups] == list(LABELS)
    assert all(group.ContentTemplateSequence[0].TemplateIdentifier == "1501" for group in groups)
    assert len({inside(group, "112040")[0].UID for group in groups}) == len(LABELS)
    large = groups[1]
    assert inside(large, "121071")[0].ConceptCodeSequence[0].CodeValue == "60046008"
    (site,) = inside(large, "363698007")
    assert (site.RelationshipType, site.ConceptCodeSequence[0].CodeMeaning) == ("HAS CONCEPT MOD", "Pleura")
    assert inside(site, "272741003")[0].ConceptCodeSequence[0].CodeMeaning == "Right"
    assert inside(large, "112025")[0].ConceptCodeSequence[0].CodeMeaning == "Large"
    assert inside(large, "121106")[0].TextValue == SAID[1]
    assert inside(large, "121112")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == FILM
    assert inside(large, "111001")[0].TextValue == "model-x"
    assert not inside(groups[0], "112025")


def test_every_sentence_is_there_and_the_notices_before(sr: Dataset) -> None:
    said = [(concept(item), item.TextValue) for item in inside(sr, "C0034375")[0].ContentSequence]
    assert said[0][0] == said[1][0] == "121106"
    assert "Not a medical device" in said[0][1]
    assert NOTICE in said[1][1]
    assert said[2:7] == [("121071", text) for text in SAID]
    assert said[7] == ("121106", "Warning: the text compares with earlier films.")
    assert "1 statement has no code here" in said[8][1]  # the nodule without a place


def test_nothing_coded_is_still_a_report(tmp_path: Path) -> None:
    """No group, because an empty container would say nothing; and no claim that all is normal."""
    path = tmp_path / "sr.dcm"
    sr = written(make_coded("No pneumothorax.", "The bones are intact.").to_coded_sr(make_film()), path)
    assert not inside(sr, "126010")
    assert [i.TextValue for i in inside(sr, "C0034375")[0].ContentSequence if concept(i) == "121071"] == [
        "No pneumothorax.",
        "The bones are intact.",
    ]
    assert dciodvfy(path) == []


def test_what_a_person_wrote_is_coded_and_marked(tmp_path: Path) -> None:
    edited = make_coded().with_text(["The heart is enlarged.", "Left pneumothorax."])
    sr = written(edited.to_coded_sr(make_film()), tmp_path / "sr.dcm")
    groups = inside(sr, "126010")[0].ContentSequence
    assert [inside(group, "112039")[0].TextValue for group in groups] == ["cardiomegaly", "pneumothorax_left"]
    assert "edited by hand" in sr.CompletionFlagDescription
    assert dciodvfy(tmp_path / "sr.dcm") == []


def test_identity() -> None:
    """The same findings give the same object, others another one, and none that of the text report."""
    film, report = make_film(), make_coded()
    first = report.to_coded_sr(film)
    again = make_coded().to_coded_sr(film)
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    assert make_coded("The heart is enlarged.").to_coded_sr(film).SOPInstanceUID != first.SOPInstanceUID
    text = report.to_sr(film)
    assert text.SOPInstanceUID != first.SOPInstanceUID
    assert text.SeriesInstanceUID != first.SeriesInstanceUID


def test_a_film_with_little_in_its_header(tmp_path: Path) -> None:
    film = make_film(drop=("PatientName", "PatientID", "StudyDate", "AccessionNumber", "Manufacturer", "StudyID"))
    path = tmp_path / "sr.dcm"
    written(make_coded(input={**make_report().input, "modality": "XX"}).to_coded_sr(film), path)
    assert dciodvfy(path) == []


def test_a_bundle_without_a_table() -> None:
    with pytest.raises(edge.NotCoded):
        make_report().to_coded_sr(make_film())


@needs_dciodvfy
def test_dciodvfy_finds_no_error(path: Path) -> None:
    assert dciodvfy(path) == []


@needs_dsrdump
def test_dcmtk_reads_it(path: Path) -> None:
    shown = dsrdump(path)
    assert "Comprehensive 3D SR Document" in shown
    assert '<contains CODE:(121071,DCM,"Finding")=(8186001,SCT,"Cardiomegaly")>' in shown
    assert shown.count("Measurement Group") == len(LABELS)


def test_highdicom_reads_it(path: Path) -> None:
    """As a measurement report, by its own template classes."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    document = highdicom.sr.srread(path)
    assert isinstance(document, highdicom.sr.Comprehensive3DSR)
    groups = document.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == list(LABELS)
    read = [
        (
            group.finding_type.meaning,
            [(site.value.meaning, site.laterality and site.laterality.meaning) for site in group.finding_sites],
            [(item.name.meaning, item.value.meaning) for item in group.get_qualitative_evaluations()],
            [image.referenced_sop_instance_uid for image in group.source_images],
        )
        for group in groups
    ]
    assert read == [
        ("Cardiomegaly", [("Heart", None)], [], [FILM]),
        ("Pleural effusion", [("Pleura", "Right")], [("Size Descriptor", "Large")], [FILM]),
        ("Pleural effusion", [("Pleura", "Left")], [("Size Descriptor", "Small")], [FILM]),
        ("Opacity", [("Lower zone of lung", "Left")], [], [FILM]),
    ]
    (observer,) = document.content.get_observer_contexts()
    assert observer.observer_identifying_attributes.model_name == "model-x"
