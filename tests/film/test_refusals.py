# SPDX-License-Identifier: Apache-2.0
"""Every refusal has its class and exit code, is decided on the header, and tells nothing about the patient."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from film_builder import CR, DX, MARKER, SC, code_item, compressed, film, gradient, to_bytes
from film_privacy import check_private
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from edge.errors import (
    CannotRead,
    CorruptInput,
    NoPixelData,
    NotAnImage,
    NotFrontalChest,
    UnsupportedModality,
    UnsupportedPixels,
    UnsupportedTransferSyntax,
    UsageError,
)
from edge.film import read_film

BASE = "1.2.840.10008.5.1.4.1.1."
EXIT_CODES = {
    UsageError: 1,
    CannotRead: 20,
    NotAnImage: 21,
    CorruptInput: 22,
    UnsupportedModality: 23,
    NotFrontalChest: 24,
    NoPixelData: 25,
    UnsupportedPixels: 26,
    UnsupportedTransferSyntax: 27,
}


def test_exit_codes():
    assert {kind: kind.exit_code for kind in EXIT_CODES} == EXIT_CODES
    assert [kind for kind in EXIT_CODES if kind.soft] == [NotFrontalChest]


# -- files ---------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(CannotRead) as caught:
        read_film(tmp_path / MARKER)
    check_private(caught.value)


def test_folder(tmp_path):
    with pytest.raises(UsageError) as caught:
        read_film(str(tmp_path))
    assert "*.dcm" in str(caught.value)


def test_unreadable_file(tmp_path):
    path = tmp_path / "f.dcm"
    path.write_bytes(to_bytes(film()))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(CannotRead):
        read_film(path)


def test_device_and_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(CannotRead):
            read_film(path)


def test_impossible_name():
    with pytest.raises(CannotRead):
        read_film("a\0b")
    with pytest.raises(CannotRead):
        read_film("x" * 5000)


@pytest.mark.parametrize(
    "content",
    [
        b"%PDF-1.7 " + bytes(500),
        b"GIF89a" + bytes(500),
        b"II*\0" + bytes(500),
        b"BM" + bytes(500),
        b"hello, this is a text about " + MARKER.encode(),
        bytes(3000),
        b"\x1f\x8b\x08" + bytes(200),
        b"PK\x03\x04" + bytes(200),
        b"x",
        bytes(range(256)) * 4,
        b"\x93NUMPY" + bytes(100),
        b'{"PatientName": "x"}',
        b"<?xml version='1.0'?><x/>",
        b"\x7fELF" + bytes(200),
    ],
)
def test_other_content(refused, content):
    refused(content, NotAnImage)


def test_empty_file(refused):
    refused(b"", CorruptInput)


def test_name_does_not_matter(tmp_path):
    path = tmp_path / "film.png"
    path.write_bytes(to_bytes(film()))
    assert read_film(path).meta.source == "dicom"


# -- modality and class --------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "RG", "RF", "dx "])
@pytest.mark.parametrize("sop_class", [DX, CR, SC, BASE + "7.2", BASE + "12.2", BASE + "1.1.1", "1.2.3.4"])
def test_radiographs_are_taken(read, modality, sop_class):
    assert read(film(Modality=modality, SOPClassUID=sop_class)).meta.modality == modality.strip().upper()


@pytest.mark.parametrize(
    "modality", ["CT", "MR", "US", "MG", "XA", "PX", "IO", "NM", "PT", "SM", "ES", "SEG", "SR", "HC", "ZZ", MARKER]
)
def test_other_modalities(refused, modality):
    error = refused(film(Modality=modality), UnsupportedModality)
    assert "radiograph" in str(error)
    refused(film(Modality=modality, SOPClassUID=SC), UnsupportedModality, force=True)


@pytest.mark.parametrize(
    ("sop_class", "word"),
    [
        (BASE + "88.11", "report"),
        (BASE + "88.33", "report"),
        (BASE + "88.59", "key object"),
        (BASE + "104.1", "PDF"),
        (BASE + "104.3", "document"),
        (BASE + "481.1", "radiotherapy"),
        (BASE + "481.2", "radiotherapy"),
        (BASE + "481.3", "radiotherapy"),
        (BASE + "481.5", "radiotherapy"),
        (BASE + "66.4", "segmentation"),
        (BASE + "66.1", "registration"),
        (BASE + "11.1", "presentation state"),
        (BASE + "9.1.1", "waveform"),
        (BASE + "2", "CT"),
        (BASE + "2.1", "CT"),
        (BASE + "4", "MR"),
        (BASE + "6.1", "ultrasound"),
        (BASE + "1.2", "mammogram"),
        (BASE + "1.3", "intra-oral"),
        (BASE + "12.1", "angiogram"),
        (BASE + "13.1.3", "tomosynthesis"),
        (BASE + "77.1.4", "picture"),
        (BASE + "128", "PET"),
        (BASE + "20", "nuclear"),
        ("1.2.840.10008.1.3.10", "DICOMDIR"),
    ],
)
@pytest.mark.parametrize("modality", ["DX", "", None])
def test_other_classes_say_what_they_are(refused, sop_class, word, modality):
    ds = film(SOPClassUID=sop_class, drop=("Modality", "PixelData", "Rows", "Columns"))
    if modality is not None:
        ds.Modality = modality
    assert word in str(refused(ds, UnsupportedModality, force=True))


def test_dicomdir_without_class(refused):
    ds = film(drop=("SOPClassUID", "PixelData", "Modality"), DirectoryRecordSequence=Sequence([Dataset()]))
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    assert "DICOMDIR" in str(refused(ds, UnsupportedModality))


@pytest.mark.parametrize("modality", [None, "", "OT"])
@pytest.mark.parametrize("sop_class", [SC, None])
def test_capture_without_modality_gets_a_hint(refused, modality, sop_class):
    ds = film(SOPClassUID=SC, drop=("Modality",))
    if modality is not None:
        ds.Modality = modality
    if sop_class is None:
        del ds.SOPClassUID
    error = refused(ds, UnsupportedModality)
    assert "set Modality (0008,0060) to CR or DX" in str(error)
    assert not error.hint  # it would stand behind the message and say the same again


@pytest.mark.parametrize(("sop_class", "modality"), [(CR, "CR"), (DX, "DX"), (BASE + "12.2", "RF")])
def test_missing_modality_is_told_from_the_class(read, sop_class, modality):
    got = read(film(SOPClassUID=sop_class, drop=("Modality",)))
    assert got.meta.modality == modality
    assert any("modality" in w for w in got.warnings)


# -- body part and view --------------------------------------------------------------------------------------

NAMELESS = ("BodyPartExamined", "ViewPosition")


def test_raw_detector_data_is_a_warning(read):
    for tags in ({"SOPClassUID": BASE + "1.1.1"}, {"PresentationIntentType": "FOR PROCESSING"}):
        assert any("raw" in w for w in read(film(**tags)).warnings)


def test_unnamed_body_part_and_view_are_no_refusal(read):
    got = read(film(drop=NAMELESS))
    assert (got.meta.body_part, got.meta.view_position, got.warnings) == ("", "", [])


@pytest.mark.parametrize(
    "part", ["CHEST", "chest", "THORAX", "CHEST_TO_HIP"[:5], "CHESTABDOMEN", "LUNG", "Thorax ap", "BRUSTKORB", "TORAX"]
)
def test_chest(read, part):
    assert read(film(BodyPartExamined=part)).meta.body_part == "CHEST"


@pytest.mark.parametrize("part", ["", "UNKNOWN", "OTHER", "N/A", "NONE", "PORTABLE"])
def test_placeholders_name_nothing(read, part):
    assert read(film(BodyPartExamined=part)).meta.body_part == ""


@pytest.mark.parametrize(
    "part",
    ["KNEE", "HAND", "SKULL", "ABDOMEN", "PELVIS", "TSPINE", "LSPINE", "CSPINE", "THORACIC SPINE", "FOOT", "SHOULDER",
     "CLAVICLE", "BREAST", "HIP", "RIB", "EXTREMITY", "ARM", "LEG", "HEART", "ZZZ", "WHOLEBODY", MARKER],
)  # fmt: skip
def test_other_body_parts(read, refused, part):
    ds = film(BodyPartExamined=part)
    error = refused(ds, NotFrontalChest)
    assert "--force" in error.hint
    got = read(ds, force=True)
    assert any("force" in w for w in got.warnings)
    assert got.meta.body_part not in ("", "CHEST")


@pytest.mark.parametrize(
    ("code", "meaning", "taken"),
    [
        ("51185008", "", True),
        ("816094009", "Chest", True),
        ("T-D3000", "Chest", True),
        ("999", "Thorax", True),
        ("416550000", "Chest and Abdomen", True),
        ("72696002", "Knee", False),
        ("T-D9200", "Knee region", False),
        ("122495006", "Thoracic spine", False),
        ("12345", MARKER, False),
        ("12345", "", True),
    ],
)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_anatomic_region(read, refused, code, meaning, taken, syntax):
    ds = film(drop=NAMELESS, syntax=syntax, AnatomicRegionSequence=Sequence([code_item(code, meaning)]))
    if taken:
        read(ds)
    else:
        refused(ds, NotFrontalChest)
        read(ds, force=True)


def test_undefined_length_sequences(read, refused):
    for code, meaning in (("51185008", "Thorax"), ("72696002", "Knee")):
        ds = film(drop=NAMELESS, AnatomicRegionSequence=Sequence([code_item(code, meaning)]))
        ds["AnatomicRegionSequence"].is_undefined_length = True
        ds.AnatomicRegionSequence[0].is_undefined_length_sequence_item = True
        if meaning == "Knee":
            refused(ds, NotFrontalChest)
        else:
            read(ds)


def test_chest_beside_a_part_that_is_not_known_is_a_warning(read):
    got = read(film(AnatomicRegionSequence=Sequence([code_item("12345", "Zzz")])))
    assert any("another body part" in w for w in got.warnings)


@pytest.mark.parametrize("keyword", ["StudyDescription", "SeriesDescription", "ProtocolName"])
@pytest.mark.parametrize("words", ["XR KNEE 2 VIEWS", "Left hand", "ABDOMEN", "L-Spine", "KUB", "Skull PA"])
def test_words_that_name_another_part(read, refused, keyword, words):
    refused(film(drop=NAMELESS, **{keyword: words}), NotFrontalChest)
    read(film(drop=NAMELESS, **{keyword: words}), force=True)
    assert read(film(**{keyword: words})).meta.body_part == "CHEST"  # a tag outweighs words


def test_words_that_name_the_chest_too_are_a_warning(read):
    got = read(film(drop=NAMELESS, StudyDescription="XR CHEST AND ABDOMEN", SeriesDescription="ABDOMEN"))
    assert any("another body part" in w for w in got.warnings)


@pytest.mark.parametrize(
    "words", ["No Finding", "", "PORTABLE", "C-ARM", "XR CHEST PA", "Thorax p.a.", MARKER, "headless handheld"]
)
def test_words_that_say_nothing_against(read, words):
    assert read(film(drop=NAMELESS, StudyDescription=words)).warnings == []


@pytest.mark.parametrize("view", ["PA", "AP", "pa", "AP SUPINE", "PA ERECT", "AP AXIAL", "P.A.", "", "GENERIC"])
def test_frontal_views(read, view):
    read(film(ViewPosition=view))


@pytest.mark.parametrize(
    "view",
    ["LL", "RL", "LLO", "RLO", "LAT", "LATERAL", "Left Lateral", "LLD", "RLD", "LAO", "RAO", "LPO", "RPO", "OBL",
     "OBLIQUE", "XTABLE LATERAL", "SWIMMERS", "AP OBLIQUE"],
)  # fmt: skip
def test_side_views(read, refused, view):
    ds = film(ViewPosition=view)
    refused(ds, NotFrontalChest)
    got = read(ds, force=True)
    assert any("force" in w for w in got.warnings)


@pytest.mark.parametrize(
    ("code", "meaning", "taken"),
    [
        ("272479007", "postero-anterior", True),
        ("R-10206", "antero-posterior", True),
        ("399067008", "lateral", False),
        ("399173006", "", False),
        ("R-10236", "left lateral", False),
        ("777", "left anterior oblique", False),
        ("777", "seitlich", False),
        ("777", "Thorax p.a.", True),
        ("399312000", "antero-posterior oblique", False),
        ("777", "postero-anterior", True),
        ("777", MARKER, True),
    ],
)
def test_view_codes(read, refused, code, meaning, taken):
    ds = film(drop=("ViewPosition",), ViewCodeSequence=Sequence([code_item(code, meaning)]))
    if taken:
        read(ds)
    else:
        refused(ds, NotFrontalChest)


@pytest.mark.parametrize("words", ["LAT", "CHEST LAT", "W Chest Lat.", "Thorax lateral", "CHEST OBLIQUE", "THORAX LL"])
@pytest.mark.parametrize("keyword", ["SeriesDescription", "ProtocolName"])
def test_words_of_side_views(read, refused, keyword, words):
    refused(film(drop=("ViewPosition",), **{keyword: words}), NotFrontalChest)
    got = read(film(ViewPosition="PA", **{keyword: words}))
    assert any("description" in w for w in got.warnings)


@pytest.mark.parametrize("words", ["view: PA", "CHEST PA AND LAT", "bilateral", "Unilateral effusion", "p.a./lat."])
def test_words_that_are_no_side_view(read, words):
    read(film(drop=("ViewPosition",), SeriesDescription=words))


def test_study_of_two_views_is_no_side_view(read):
    got = read(film(drop=("ViewPosition",), StudyDescription="XR CHEST PA AND LATERAL"))
    assert got.warnings == []


@pytest.mark.parametrize(
    "words", ["Thorax seitl.", "Torax perfil", "Thorax lateraal", "Klatka piersiowa bok", "ChestLat", "Tórax perfil"]
)
def test_side_views_in_other_languages(refused, words):
    side = film(drop=("ViewPosition",), SpecificCharacterSet="ISO_IR 100", SeriesDescription=words)
    assert "lateral" in str(refused(side, NotFrontalChest))


@pytest.mark.parametrize(
    "words", ["Schädel", "Hüfte links", "Handgelenk links", "Knie rechts", "LWS", "HWS", "Genou gauche", "Rodilla"]
)
def test_other_parts_in_other_languages(refused, words):
    study = film(drop=("BodyPartExamined",), SpecificCharacterSet="ISO_IR 100", StudyDescription=words)
    assert "another body part" in str(refused(study, NotFrontalChest))


@pytest.mark.parametrize("words", ["Main building", "PIE, follow-up", "ANCA vasculitis", "Crane ward"])
def test_words_that_are_no_other_part(read, words):
    """Although they are a hand, a foot, a hip and a skull elsewhere."""
    assert read(film(drop=("BodyPartExamined",), StudyDescription=words)).warnings == []


@pytest.mark.parametrize("view", ["SEITLING", "L", "R", "AXIAL"])
def test_a_view_that_is_not_known_is_told(read, view):
    assert any("view position" in warning for warning in read(film(ViewPosition=view)).warnings)
    assert read(film(ViewPosition="")).warnings == []


def test_lateral_patient_orientation_is_a_warning(read):
    got = read(film(drop=("ViewPosition",), PatientOrientation=["A", "F"]))
    assert any("orientation" in w for w in got.warnings)
    assert read(film(drop=("ViewPosition",), PatientOrientation=["L", "F"])).warnings == []


def test_hard_refusals_come_before_soft_ones(refused):
    refused(film(BodyPartExamined="KNEE", Modality="CT"), UnsupportedModality)
    refused(film(BodyPartExamined="KNEE", drop=("PixelData",)), NoPixelData)
    refused(film(BodyPartExamined="KNEE", NumberOfFrames=5), UnsupportedPixels)


# -- pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tags",
    [
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
        {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 3},
        {"PhotometricInterpretation": "HSV"},
        {"PhotometricInterpretation": MARKER[:16]},
        {"NumberOfFrames": 2},
        {"NumberOfFrames": 100000},
        {"Rows": 63},
        {"Columns": 1},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 12001},
        {"Rows": 11000, "Columns": 11000},
        {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"BitsAllocated": 12, "BitsStored": 12},
        {"BitsStored": 4, "HighBit": 3},
    ],
)
def test_pixels_that_are_not_taken(refused, tags):
    refused(film(**tags), UnsupportedPixels, force=True)


@pytest.mark.parametrize(
    "tags",
    [
        {"drop": ("Rows",)},
        {"drop": ("Columns",)},
        {"Rows": 0},
        {"drop": ("BitsAllocated",)},
        {"drop": ("PhotometricInterpretation",)},
        {"BitsStored": 17},
        {"Rows": 73},
        {"Rows": 9000, "Columns": 9000},
        {"Rows": 64, "Columns": 64, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
    ],
)
def test_pixels_that_contradict_the_header(refused, tags):
    refused(film(**tags), CorruptInput, force=True)


def test_no_pixel_data(refused):
    refused(film(drop=("PixelData",)), NoPixelData)
    refused(film(drop=("PixelData", "Rows", "Columns")), NoPixelData)
    ds = film()
    ds.PixelData = b""
    refused(ds, NoPixelData)
    refused(film(drop=("PixelData",), PixelDataProviderURL="http://x/" + MARKER), NoPixelData)


def test_float_pixels(refused):
    ds = film(drop=("PixelData",))
    ds.FloatPixelData = gradient().astype("<f4").tobytes()
    refused(ds, UnsupportedPixels)


def test_one_frame_is_taken(read):
    assert np.array_equal(read(film(NumberOfFrames=1)).pixels, gradient())


def test_excess_is_a_warning(read, refused):
    ds = film()
    ds.PixelData += bytes(100)
    assert any("longer" in w for w in read(ds).warnings)
    ds.PixelData += ds.PixelData
    refused(ds, CorruptInput)


def test_impossible_high_bit_is_a_warning(read):
    got = read(film(HighBit=3))
    assert np.array_equal(got.pixels, gradient())
    assert any("high bit" in w for w in got.warnings)


def test_claimed_length_beyond_the_file(refused):
    """The header claims 200 MB; 12 KB are there. Nothing of that size is allocated."""
    data = bytearray(to_bytes(film(Rows=10000, Columns=10000)))
    at = data.index(b"\xe0\x7f\x10\0OW\0\0")
    struct.pack_into("<L", data, at + 8, 200_000_000)
    assert "truncated" in str(refused(bytes(data), CorruptInput))


def test_length_shorter_than_the_header_claims(refused):
    error = refused(film(Rows=144), CorruptInput)
    assert "11520" in str(error)
    assert "23040" in str(error)


# -- transfer syntaxes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "word"),
    [
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
        ("1.2.840.10008.1.2.4.103", "H.264"),
        ("1.2.840.10008.1.2.4.107", "H.265"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
        ("1.2.840.10008.1.2.4.92", "Part 2"),
        ("1.2.840.10008.1.2.4.52", "1.2.840.10008.1.2.4.52"),
        ("1.2.3.4.5", "1.2.3.4.5"),
    ],
)
def test_syntaxes_without_decoder(refused, syntax, word):
    known = "1.2.840.10008.1.2.4.103"  # of the same length as the ones pydicom does not write
    data = to_bytes(compressed(b"\0" * 100, known if ".4.11" in syntax else syntax, gradient()))
    data = data.replace(known.encode(), syntax.encode()) if ".4.11" in syntax else data
    error = refused(data, UnsupportedTransferSyntax, force=True)
    assert word in str(error)


def test_missing_decoder_names_the_package(refused, monkeypatch):
    from edge.film import checks

    monkeypatch.setattr(checks, "_installed", lambda module: False)
    for syntax, package in (
        ("80", "pyjpegls"),
        ("90", "pylibjpeg-openjpeg"),
        ("70", "python-gdcm"),
        ("50", "python-gdcm"),
    ):
        ds = compressed(b"\0" * 100, "1.2.840.10008.1.2.4." + syntax, gradient())
        error = refused(ds, UnsupportedTransferSyntax)
        assert f"pip install {package}" in str(error)
        assert not error.hint


def test_ill_formed_syntax(refused):
    data = to_bytes(film())
    marked = data.replace(b"1.2.840.10008.1.2.1\0", b"ZZSECRET^PATIENT^XYZ", 1)
    # Not a UID, so no known syntax: the text itself is not shown.
    refused(marked, UnsupportedTransferSyntax)
