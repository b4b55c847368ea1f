# SPDX-License-Identifier: Apache-2.0
"""The quick reader of regular headers reads what pydicom reads, or leaves it to pydicom."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_builder import code_item, film, lut_item, to_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STR_VR, VR
from test_fuzz import rich

from edge.errors import EdgeError
from edge.film import dicomfile, elements
from edge.film import header as header_module
from edge.film.elements import Irregular
from edge.film.header import ITEM_TAGS, TAGS, Values
from edge.film.source import sniff

SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "big": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
}


def nested(**tags: Any) -> bytes:
    """A film with sequences of defined and undefined length inside each other, empty values and private elements."""
    inner = code_item("272479007", "postero-anterior")
    inner.add_new(0x00080110, "SQ", Sequence([code_item("1", "one"), Dataset()]))
    inner[0x00080110].is_undefined_length = True
    view = Sequence([inner, code_item("2", "two")])
    view[0].is_undefined_length_sequence_item = True
    ds = film(
        ViewCodeSequence=view,
        VOILUTSequence=Sequence([lut_item(0, 12, np.arange(256))]),
        AnatomicRegionSequence=Sequence([]),
        StudyDescription="",
        WindowCenter=None,
        PixelPaddingValue=None,
        SeriesDescription="Tho\u0301rax" if tags.get("syntax") != SYNTAXES["big"] else "Thorax",
        **tags,
    )
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds["ViewCodeSequence"].is_undefined_length = True
    ds.add_new(0x00400555, "SQ", Sequence([code_item("3", "three")]))
    ds[0x00400555].is_undefined_length = True
    ds.private_block(0x0029, "SOMEBODY", create=True).add_new(1, "UN", b"anything" * 9)
    return to_bytes(ds)


@pytest.fixture
def by_pydicom(monkeypatch):
    """Read with pydicom only."""

    def refuse(*_: object, **__: object) -> None:
        raise Irregular

    def read(data: bytes) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(dicomfile, "read_elements", refuse)
            patch.setattr(header_module, "read_items", refuse)
            return seen(data)

    return read


@pytest.fixture
def alone(monkeypatch):
    """Read without pydicom; None where that is not possible."""

    def give_up(*_: object, **__: object) -> None:
        raise LeftToPydicom

    def read(data: bytes) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(dicomfile, "_walk_anything", give_up)
            patch.setattr("pydicom.filereader.read_sequence", give_up)
            try:
                return seen(data)
            except LeftToPydicom:
                return None

    return read


class LeftToPydicom(BaseException):
    """Nothing catches this on the way."""


def seen(data: bytes) -> Any:
    """Everything that a header tells."""
    stream = io.BytesIO(data)
    try:
        _, offset = sniff(stream.read(512))
        header = dicomfile.read_header(stream, offset)
        pixels = header.pixels
        where = None if pixels is None else (pixels.tag, pixels.vr, pixels.length, pixels.available, pixels.start)
        media = (header.syntax, header.syntax_named, header.truncated, header.media_class, header.media_instance)
        return media, where, told(header.values, TAGS)
    except EdgeError as error:
        return "error", type(error).__name__, str(error)


def told(values: Values, tags: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keyword in tags:
        if keyword not in values:
            continue
        if keyword.endswith("Sequence"):
            try:
                found[keyword] = [(item.order, told(item, ITEM_TAGS)) for item in values.items(keyword)]
            except EdgeError as error:
                found[keyword] = str(error)
        else:
            value = values._get(keyword)
            found[keyword] = values.vr(keyword), value if isinstance(value, bytes) else None, values.texts(keyword)
    return found


def test_the_standard_s_tables() -> None:
    assert {str(vr) for vr in EXPLICIT_VR_LENGTH_32} == elements._LONG
    assert {str(vr) for vr in VR if len(vr) == 2} == elements._LONG | elements._SHORT
    assert {str(vr) for vr in STR_VR} - {"DS", "IS"} | {"SQ"} == elements._EMPTY


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("make", [rich, nested])
def test_reads_what_pydicom_reads(by_pydicom, alone, make, syntax: str) -> None:
    data = make(syntax=SYNTAXES[syntax])
    expected = by_pydicom(data)
    assert len(expected[2]) > 20
    assert expected[2]["ViewCodeSequence"][0][1]["CodeValue"][2] == ["272479007"]
    got = alone(data)
    if make is nested and syntax == "implicit":  # what holds items is known to dictionaries only
        assert got is None
    else:
        assert got == expected


@pytest.mark.parametrize("length", [0x28, 0x44, 0xFFFF])
def test_a_character_set_that_swallowed_its_neighbours(by_pydicom, alone, length: int) -> None:
    """pydicom looks its name up and stumbles; passing over the element would not."""
    blob = bytearray(nested(syntax=SYNTAXES["explicit"]))
    at = blob.index(b"CS\x0a\0ISO_IR 192")
    struct.pack_into("<H", blob, at + 2, length)
    assert by_pydicom(bytes(blob))[0] == "error"
    assert alone(bytes(blob)) is None


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_never_reads_something_else(by_pydicom, alone, syntax: str, data) -> None:
    """Damaged headers: the same answer as pydicom's, or none."""
    make = data.draw(st.sampled_from([rich, nested]))
    blob = bytearray(SEEDS.setdefault((make, syntax), make(syntax=SYNTAXES[syntax])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(132, min(len(blob) - 1, 1700)))
        patch = data.draw(
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"SQ\0\0", b"UN"])
            | st.binary(min_size=1, max_size=2)
        )
        blob[at : at + len(patch)] = patch
    if data.draw(st.booleans()):
        del blob[data.draw(st.integers(140, len(blob))) :]
    got = alone(bytes(blob))
    if got is None:
        return
    expected = by_pydicom(bytes(blob))
    if got[0] == expected[0] == "error":  # pydicom does not say where a file ends
        got, expected = got[:2], expected[:2]
    assert got == expected


SEEDS: dict[Any, bytes] = {}


def test_sequences_without_end() -> None:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHL", 0x0054, 0x0220, b"SQ", 0, 0xFFFFFFFF)
    with pytest.raises(Irregular):
        elements.read_items((item + sequence) * 1000, False, True, ())


def test_a_plain_film_is_read_without_pydicom() -> None:
    sample = Path(__file__).parents[2] / "examples" / "phantom.dcm"
    code = f"import sys; from edge.film import read_film; read_film({str(sample)!r}); print('pydicom' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
