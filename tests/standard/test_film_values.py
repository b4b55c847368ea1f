# SPDX-License-Identifier: Apache-2.0
"""What is taken over from films with odd, damaged or foreign headers."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from random import Random
from typing import Any

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from standard_parts import dciodvfy, make_film, make_report, written

import edge
from edge.standard.attributes import Attributes
from edge.standard.filmheader import film_header
from edge.standard.modules import to_file


def raw(path: Path, charset: bytes | None, **values: tuple[int, str, bytes]) -> Path:
    """A film with these bytes as values, whatever they mean."""
    film = make_film(drop=tuple(values))
    elements = dict(values)
    if charset is not None:
        elements["SpecificCharacterSet"] = (0x00080005, "CS", charset)
    for tag, vr, value in elements.values():
        padded = value + b" " * (len(value) % 2)
        film._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(padded), padded, 0, False, True)  # type: ignore[index]
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(stream, film, enforce_file_format=True)
    path.write_bytes(stream.getvalue())
    return path


JAPANESE = "Yamada^Tarou=春日^太郎=かすが^たろう"


@pytest.mark.parametrize(
    ("charset", "encoded", "name"),
    [
        (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
        (b"ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
        (b"ISO_IR 138", "שרון^דבורה".encode("iso8859_8"), "שרון^דבורה"),
        (b"ISO_IR 166", "นามสกุล^ชื่อ".encode("iso8859_11"), "นามสกุล^ชื่อ"),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (b"GBK", "Wang^XiaoDong=王^小东".encode("gbk"), "Wang^XiaoDong=王^小东"),
        (
            b"\\ISO 2022 IR 87",
            b"=".join(b"^".join(c.encode("iso2022_jp") for c in g.split("^")) for g in JAPANESE.split("=")),
            JAPANESE,
        ),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (None, "Gößler^Zoë".encode(), "Gößler^Zoë"),
        (None, "Gößler^Zoë".encode("latin-1"), "Gößler^Zoë"),
        (b"ISO_IR 999", b"Doe^Jane", "Doe^Jane"),
    ],
)
def test_names_in_every_character_set(charset: bytes | None, encoded: bytes, name: str, tmp_path: Path) -> None:
    film = raw(tmp_path / "film.dcm", charset, PatientName=(0x00100010, "PN", encoded))
    sr = written(make_report().to_sr(film), tmp_path / "sr.dcm")
    assert str(sr.PatientName) == name
    assert sr.get("SpecificCharacterSet", "ISO_IR 192") == "ISO_IR 192"
    assert dciodvfy(tmp_path / "sr.dcm") == []


def test_a_dataset_in_memory_gives_the_same_as_its_file(tmp_path: Path) -> None:
    film = raw(tmp_path / "film.dcm", b"ISO_IR 100", PatientName=(0x00100010, "PN", "Müller^Jörg".encode("latin-1")))
    report = make_report()
    assert str(report.to_sr(pydicom.dcmread(film)).PatientName) == "Müller^Jörg"
    made = make_film(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
    assert str(report.to_sr(made).PatientName) == "Müller^Jörg"


def test_values_that_are_not_valid_are_left_out(tmp_path: Path) -> None:
    film = raw(
        tmp_path / "film.dcm",
        None,
        PatientAge=(0x00101010, "AS", b"81"),
        PatientBirthDate=(0x00100030, "DA", b"19511399"),
        PatientSex=(0x00100040, "CS", b"female"),
        StudyDate=(0x00080020, "DA", b"2026.05.04"),
        StudyTime=(0x00080030, "TM", b"10:11:12"),
        StudyID=(0x00200010, "SH", b"line\x07one\x1b[2J"),
        InstanceNumber=(0x00200013, "IS", b"seven"),
        PatientWeight=(0x00101030, "DS", b"heavy"),
        PatientSize=(0x00101020, "DS", b"1.71"),
    )
    sr = written(make_report().to_sr(film), tmp_path / "sr.dcm")
    assert "PatientAge" not in sr
    assert "PatientWeight" not in sr
    assert (sr.PatientBirthDate, sr.PatientSex, sr.PatientSize) == ("", "", 1.71)
    assert (sr.StudyDate, sr.StudyTime) == ("20260504", "101112")
    assert sr.StudyID == "line one [2J"
    assert sr.InstanceNumber == 1
    assert dciodvfy(tmp_path / "sr.dcm") == []


def test_identity_is_kept_even_where_it_is_too_long(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    film = make_film()
    film.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    path = raw(tmp_path / "film.dcm", None, PatientID=(0x00100020, "LO", b"ZZSECRET" * 12))
    recwarn.clear()
    sr = make_report().to_sr(path)
    data = to_file(sr)
    assert b"ZZSECRET" * 12 in data
    assert not [w for w in recwarn if "ZZSECRET" in str(w.message)]


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.parametrize("kind", ["to_sr", "to_secondary_capture", "to_segmentation"])
@pytest.mark.parametrize("words", ["Chest radiograph, standing " * 4, "Thoraxübersicht im Stehen " * 4])
def test_descriptions_are_as_long_as_their_vr_allows(words: str, kind: str, tmp_path: Path) -> None:
    """64 characters, not bytes, of a Long String (PS3.5 table 6.2-1); dciodvfy counts bytes."""
    code, order = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "168537006", "SCT", words
    order.RequestedProcedureID, order.RequestedProcedureDescription = "RP1", words
    order.RequestedProcedureCodeSequence = [code]
    film = make_film(
        StudyDescription=words,
        ProcedureCodeSequence=[code],
        RequestAttributesSequence=[order],
        PatientIdentityRemoved="YES",
        DeidentificationMethod=words,
        SpecificCharacterSet="ISO_IR 100",
    )
    made = written(getattr(make_report(), kind)(film), tmp_path / "made.dcm")
    assert made.StudyDescription == words[:64] != words.strip()
    assert made.ProcedureCodeSequence[0].CodeMeaning == words[:64]
    assert made.DeidentificationMethod == words[:64]
    if kind == "to_sr":
        (request,) = made.ReferencedRequestSequence
        assert request.RequestedProcedureDescription == words[:64]
        assert request.RequestedProcedureCodeSequence[0].CodeMeaning == words[:64]
    if words.isascii():
        assert dciodvfy(tmp_path / "made.dcm") == []


def test_sequences_of_the_film(tmp_path: Path) -> None:
    def item(**values: Any) -> Dataset:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    code = item(CodeValue="168537006", CodingSchemeDesignator="SCT", CodeMeaning="Plain X-ray of chest")
    film = make_film(
        ProcedureCodeSequence=[code, item(CodeMeaning="half a code")],
        IssuerOfAccessionNumberSequence=[item(LocalNamespaceEntityID="RIS")],
        RequestAttributesSequence=[
            item(
                RequestedProcedureID="RP1",
                RequestedProcedureDescription="Thorax",
                RequestedProcedureCodeSequence=[code],
            )
        ],
        PatientIdentityRemoved="YES",
        DeidentificationMethod="by hand",
    )
    path = tmp_path / "film.dcm"
    film.save_as(path, enforce_file_format=True)
    sr = written(make_report().to_sr(path), tmp_path / "sr.dcm")
    assert [c.CodeValue for c in sr.ProcedureCodeSequence] == ["168537006"]
    assert sr.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    (order,) = sr.ReferencedRequestSequence
    assert (order.RequestedProcedureID, order.RequestedProcedureDescription) == ("RP1", "Thorax")
    assert order.RequestedProcedureCodeSequence[0].CodeMeaning == "Plain X-ray of chest"
    assert (sr.PatientIdentityRemoved, sr.DeidentificationMethod) == ("YES", "by hand")
    assert dciodvfy(tmp_path / "sr.dcm") == []
    empty = {"IssuerOfAccessionNumberSequence": [item()], "IssuerOfPatientIDQualifiersSequence": [item()]}
    sr = make_report().to_sr(make_film(**empty, RequestAttributesSequence=[item(AccessionNumber="A")]))
    assert not set(empty) & {element.keyword for element in sr.iterall()}  # a sequence without an item is none


def test_nothing_of_the_patient_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = {
        "PatientName": (0x00100010, "PN", b"ZZSECRET^\xff\xfe\x1b$B"),
        "PatientID": (0x00100020, "LO", b"ZZSECRET\xff" * 20),
        "PatientBirthDate": (0x00100030, "DA", b"ZZSECRET"),
        "ReferringPhysicianName": (0x00080090, "PN", b"ZZSECRET=" * 9),
        "AccessionNumber": (0x00080050, "SH", b"ZZSECRET" * 9),
        "RequestAttributesSequence": (0x00400275, "SQ", b"ZZSECRET"),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for charset in (b"ISO_IR 192", b"\\ISO 2022 IR 87", b"nonsense", None):
            path = raw(tmp_path / "film.dcm", charset, **bad)
            caught.clear()
            for make in ("to_sr", "to_fhir", "to_secondary_capture", "to_segmentation"):
                getattr(make_report(), make)(path)
            to_file(make_report().to_sr(path))
            assert not [w for w in caught if "ZZSECRET" in str(w.message)]
    out, err = capfd.readouterr()
    assert "ZZSECRET" not in out + err + caplog.text


@pytest.mark.parametrize("cut", [140, 200, 300, 420])
def test_truncated_headers_are_refused_or_read_never_half_understood(cut: int, tmp_path: Path) -> None:
    path = raw(tmp_path / "film.dcm", None)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(edge.EdgeError):
        film_header(path)


def test_times() -> None:
    def value(kind: str, keyword: str, text: str) -> str:
        ds = Dataset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(ds, keyword, text)
        return str(getattr(Attributes(ds), kind)(keyword))

    assert value("time", "StudyTime", "101112.123456") == "101112.123456"
    for given, taken in {"10": "10", "1011": "1011", "251112": "", "10.5": "", "1060": ""}.items():
        assert value("time", "StudyTime", given) == taken
    for given, taken in {"20260229": "", "20240229": "20240229", "2024": "", "": ""}.items():
        assert value("date", "StudyDate", given) == taken
    for given, taken in {"9Y": "009Y", "081Y": "081Y", "81": "", "0812Y": ""}.items():
        assert value("age", "PatientAge", given) == taken


def test_flipped_bytes_make_an_object_or_a_typed_error(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "SCT", "x"
    order = Dataset()
    order.RequestedProcedureID, order.RequestedProcedureCodeSequence = "R", [code]
    film = make_film(SpecificCharacterSet="ISO_IR 100", RequestAttributesSequence=[order])
    film.save_as(tmp_path / "good.dcm", enforce_file_format=True)
    good = (tmp_path / "good.dcm").read_bytes()
    end = good.index(b"\xe0\x7f\x10\x00")
    report = make_report(input={**make_report().input, "sop_instance_uid": ""})
    path, random, made = tmp_path / "bad.dcm", Random(5), 0
    for _ in range(80):
        bad = bytearray(good)
        for _ in range(random.choice((1, 1, 3, 10))):
            bad[random.randrange(132, end)] = random.choice((0, 255, 0x1B, 0x5C, random.randrange(256)))
        path.write_bytes(bad)
        try:
            sr = report.to_sr(path)
            pydicom.dcmread(io.BytesIO(to_file(sr)))
            report.to_fhir(path)
            made += 1
        except edge.EdgeError:
            pass
    assert 10 < made < 80


def test_a_text_in_another_character_set_is_told(tmp_path: Path) -> None:
    header = film_header(raw(tmp_path / "a.dcm", b"ISO_IR 192", PatientName=(0x00100010, "PN", b"M\xfcller")))
    assert str(make_report().to_sr(header).PatientName) == "M\ufffdller"
    assert header.values.damaged
    header = film_header(make_film())
    make_report().to_sr(header)
    assert not header.values.damaged
