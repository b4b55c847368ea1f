# SPDX-License-Identifier: Apache-2.0
"""Body parts and descriptions in every script: what cannot be read is unknown, what is known stays refused."""

from __future__ import annotations

import io
from typing import Any

import pydicom
import pytest
from film_builder import code_item, film, silent, to_bytes
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.sequence import Sequence
from pydicom.valuerep import TEXT_VR_DELIMS

from edge.errors import NotFrontalChest
from edge.film import read_film
from edge.film.charset import decode

JIS, KOREAN, CHINESE = ["", "ISO 2022 IR 87"], ["", "ISO 2022 IR 149"], ["", "ISO 2022 IR 58"]
CHEST: dict[str, tuple[str, Any]] = {
    "Russian": ("Грудная клетка", "ISO_IR 144"),
    "Russian, extensions": ("Органы грудной клетки", ["", "ISO 2022 IR 144"]),
    "Ukrainian": ("Грудна порожнина", "ISO_IR 192"),
    "Greek": ("Θώρακας", "ISO_IR 126"),
    "Hebrew": ("בית החזה", "ISO_IR 138"),
    "Arabic": ("الصدر", "ISO_IR 127"),
    "Arabic, marked": ("\u202bالصدر AP\u202c", "ISO_IR 192"),
    "Persian": ("قفسه سینه", "ISO_IR 192"),
    "Thai": ("ทรวงอก", "ISO_IR 166"),
    "Hindi": ("छाती", "ISO_IR 192"),
    "Korean": ("흉부", KOREAN),
    "Korean, UTF-8": ("흉부 PA", "ISO_IR 192"),
    "Japanese": ("胸部正面", JIS),
    "Japanese katakana": ("ｷｮｳﾌﾞ", "ISO_IR 13"),
    "Japanese katakana, extensions": ("キョウブ", JIS),
    "Chinese": ("胸部", CHINESE),
    "Chinese, GB18030": ("胸部正位", "GB18030"),
    "Chinese, GBK": ("胸部後前位", "GBK"),
    "Chinese, UTF-8": ("肺", "ISO_IR 192"),
    "Georgian": ("გულმკერდი", "ISO_IR 192"),
}
PLAIN = ("BodyPartExamined", "ViewPosition")


def written(text: str, charset: Any) -> str:
    """A text as the letters that pydicom writes byte by byte into a code string."""
    with silent():
        ds = film(SpecificCharacterSet=charset, StudyDescription=text)
        data = to_bytes(ds)
    at = data.index(b"\x08\0\x30\x10LO")
    size = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[at + 8 : at + 8 + size].decode("latin-1").rstrip()


@pytest.mark.parametrize("name", CHEST)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_the_chest_is_nowhere_refused(read, name, syntax):
    text, charset = CHEST[name]
    for ds in (
        film(syntax=syntax, SpecificCharacterSet=charset, BodyPartExamined=written(text, charset)),
        film(
            syntax=syntax,
            SpecificCharacterSet=charset,
            drop=PLAIN,
            StudyDescription=text,
            SeriesDescription=text,
            ProtocolName=text,
        ),
        film(
            syntax=syntax,
            SpecificCharacterSet=charset,
            drop=PLAIN,
            AnatomicRegionSequence=Sequence([code_item("12345", text)]),
        ),
    ):
        got = read(ds)
        assert got.meta.body_part in ("CHEST" if "胸" in text else "", "")
        assert got.warnings == []


@pytest.mark.parametrize("name", CHEST)
@pytest.mark.parametrize("named", [None, "ISO_IR 100", "ISO_IR 144", "ISO_IR 192", "GB18030"])
def test_nor_where_the_file_names_another_character_set_or_none(read, name, named):
    text, charset = CHEST[name]
    tags = {} if named is None else {"SpecificCharacterSet": named}
    assert read(film(BodyPartExamined=written(text, charset), **tags)).meta.body_part in ("", "CHEST")


@pytest.mark.parametrize(
    ("text", "codec"),
    [("ГРУДЬ", "cp1251"), ("ГРУДЬ", "koi8-r"), ("Грудь", "cp866"), ("ГК AP", "cp1251"), ("ΘΩΡΑΚΑΣ", "cp1253"),
     ("頭", "big5"), ("手", "big5"), ("レントゲン", "shift_jis"), ("胸部", "euc-jp"), ("חזה", "cp1255"),
     ("صدر", "cp1256"), ("흉부", "cp949")],
)  # fmt: skip
def test_nor_in_encodings_that_dicom_does_not_have(read, text, codec):
    for charset in ({}, {"SpecificCharacterSet": "ISO_IR 100"}):
        assert read(film(BodyPartExamined=text.encode(codec).decode("latin-1"), **charset)).meta.body_part == ""


@pytest.mark.parametrize("name", CHEST)
def test_a_known_part_is_refused_beside_any_script(refused, name):
    text, charset = CHEST[name]
    if "胸" in text:
        text = text.replace("胸", "手")
    for word in ("HAND", "Knee", "L-Spine"):
        both = f"{text} {word}"
        refused(film(SpecificCharacterSet=charset, BodyPartExamined=written(both, charset)), NotFrontalChest)
        refused(film(SpecificCharacterSet=charset, drop=PLAIN, StudyDescription=both), NotFrontalChest)
    code = code_item("72696002", f"{text} KNEE")
    refused(film(SpecificCharacterSet=charset, drop=PLAIN, AnatomicRegionSequence=Sequence([code])), NotFrontalChest)


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "ISO_IR 203", "ISO_IR 148", None])
@pytest.mark.parametrize("words", ["Hüfte", "Schädel", "Épaule", "Région lombaire", "Hüftgelenk beidseits"])
def test_western_words_are_read_in_every_set_that_has_them(refused, charset, words):
    part = words.encode({None: "latin-1", "ISO_IR 192": "utf-8"}.get(charset, "latin-1")).decode("latin-1")
    tags = {} if charset is None else {"SpecificCharacterSet": charset}
    refused(film(BodyPartExamined=part, **tags), NotFrontalChest)


def test_bytes_of_japanese_are_no_views(read, refused):
    """In ISO 2022 "front" holds the letters LL, which are a lateral view's; nor where it is damaged."""
    tags = {"SpecificCharacterSet": JIS, "drop": PLAIN}
    assert read(film(SeriesDescription="胸部正面", **tags)).warnings == []
    refused(film(SeriesDescription="胸部 LAT", **tags), NotFrontalChest)
    for damaged in (b"\x1b$B6;It@5LL\x1b(B", b"\x1b$BLL L", b"\x1b$ZLL", b"\x1b", b"PA \x1b$BLL\x1b\x1b(B"):
        # What pydicom writes as it is
        assert read(film(drop=PLAIN, ViewPosition=damaged.decode())).meta.view_position in ("", "PA")


SIDES: dict[str, tuple[str, str, str, Any]] = {
    "Japanese": ("胸部正面", "胸部側面", "斜位", JIS),
    "Chinese": ("胸部后前位", "胸部左侧位", "右前斜位", "GB18030"),
    "Korean": ("흉부 정면", "흉부 측면", "우전 사위", KOREAN),
    "Russian": ("ОГК прямая", "ОГК боковая", "Правая косая", "ISO_IR 144"),
    "Ukrainian": ("ОГК пряма", "ОГК бічна", "Коса", "ISO_IR 192"),
    "Greek": ("Θώρακας οπισθοπροσθία", "Θώρακας πλάγια", "Λοξή", "ISO_IR 126"),
    "Hebrew": ("חזה קדמי", "חזה צדי", "", "ISO_IR 138"),
    "Arabic": ("الصدر أمامي", "الصدر جانبي", "", "ISO_IR 192"),
}


@pytest.mark.parametrize("keyword", ["ViewPosition", "SeriesDescription", "ProtocolName"])
@pytest.mark.parametrize("language", SIDES)
def test_side_views_in_other_scripts(read, refused, keyword, language):
    front, side, oblique, charset = SIDES[language]

    def viewed(text: str) -> Any:
        if keyword == "ViewPosition":
            return film(SpecificCharacterSet=charset, ViewPosition=written(text, charset))
        return film(SpecificCharacterSet=charset, drop=("ViewPosition",), **{keyword: text})

    assert read(viewed(front)).warnings == []
    assert "lateral" in str(refused(viewed(side), NotFrontalChest))
    if oblique:
        assert "oblique" in str(refused(viewed(oblique), NotFrontalChest))
    code = Sequence([code_item("777", side)])
    refused(film(SpecificCharacterSet=charset, drop=("ViewPosition",), ViewCodeSequence=code), NotFrontalChest)
    if keyword != "ViewPosition":  # a study of both
        assert any("lateral" in warning for warning in read(viewed(f"{front}, {side}")).warnings)


def test_the_spine_behind_the_chest_is_not_the_chest(refused):
    for part, words in (("胸椎", "SPINE"), ("胸腰椎", "SPINE"), ("胸骨", "STERNUM")):
        ds = film(SpecificCharacterSet="ISO_IR 192", BodyPartExamined=written(part, "ISO_IR 192"))
        assert f"({words})" in str(refused(ds, NotFrontalChest))
    assert "(STERNUM)" in str(refused(film(BodyPartExamined="BRUSTBEIN"), NotFrontalChest))


@pytest.mark.parametrize(
    "part",
    ["MELLKAS", "HRUDNIK", "Hrudník", "TORAKS", "Göğüs", "Akciğer", "Ngực", "Lồng ngực", "Rintakehä", "Bröstkorg",
     "BRYSTKASSE", "Prsni koš", "ＣＨＥＳＴ"],
)  # fmt: skip
def test_the_chest_in_more_languages(read, part):
    ds = film(SpecificCharacterSet="ISO_IR 192", BodyPartExamined=written(part, "ISO_IR 192"))
    assert read(ds).meta.body_part == "CHEST"


def test_an_item_has_the_character_set_that_it_names(read):
    item = code_item("12345", "胸部")
    item.SpecificCharacterSet = JIS
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        ds = film(drop=PLAIN, syntax=syntax, AnatomicRegionSequence=Sequence([item]), SpecificCharacterSet="ISO_IR 144")
        assert read(ds).meta.body_part == "CHEST"


@pytest.mark.parametrize("name", CHEST)
def test_a_dataset_whose_values_were_looked_at(name):
    """pydicom converts code strings as Latin-1, whatever the character set."""
    text, charset = CHEST[name]
    data = to_bytes(film(SpecificCharacterSet=charset, BodyPartExamined=written(text, charset), StudyDescription=text))
    with silent():
        ds = pydicom.dcmread(io.BytesIO(data))
        for element in ds:
            str(element.value)
    assert read_film(ds).meta.body_part == ("CHEST" if "胸" in text else "")


def _as_pydicom(raw: bytes, charset: Any) -> str:
    terms = [charset] if isinstance(charset, str) else charset
    with silent():
        return decode_bytes(raw, convert_encodings(terms), TEXT_VR_DELIMS)


@pytest.mark.parametrize("name", CHEST)
def test_characters_are_those_that_pydicom_reads(name):
    text, charset = CHEST[name]
    raw = written(text, charset).encode("latin-1")
    terms = [charset] if isinstance(charset, str) else charset
    assert decode(raw, terms) == text
    if charset != CHINESE:  # for these pydicom writes no escape sequence, and cannot read that
        assert decode(raw, terms) == _as_pydicom(raw, charset)


def test_sets_that_are_changed_within_a_text():
    mixed = "Yamada 山田 ﾔﾏﾀﾞ 龠 丂 김 Ж λ א ع é ő ğ ก"
    sets = ["ISO 2022 IR 6", *(f"ISO 2022 IR {n}" for n in (87, 159, 149, 144, 126, 138, 127, 100, 101, 148, 166, 13))]
    with silent():
        raw = pydicom.charset.encode_string(mixed, convert_encodings(sets))
    assert raw.count(b"\x1b") > 10
    assert decode(raw, sets) == mixed


@given(
    st.binary(max_size=40),
    st.lists(st.sampled_from(["", "ISO_IR 100", "ISO_IR 13", "GB18030", "GBK", "X", "ISO 2022 IR 149"])),
)
def test_any_bytes_have_characters(raw, terms):
    for data in (raw, raw.replace(b"\x00", b"\x1b$B").replace(b"\x01", b"\x1b(B"), b"A" + raw):
        assert isinstance(decode(data, terms), str)
