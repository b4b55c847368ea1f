# SPDX-License-Identifier: Apache-2.0
"""Patient data in every text field a file has: none of it comes out (see also the fixture around all tests)."""

from __future__ import annotations

import dataclasses
import struct

import pydicom
import pytest
from film_builder import MARKER, film, silent, to_bytes
from film_privacy import check_private

from edge.errors import EdgeError
from edge.film import read_film
from edge.film.header import TAGS

TEXTS = [name for name in TAGS if name not in ("PaletteDescriptor", "EncapsulatedDocument")]


def item(tag: int) -> bytes:
    """An implicit-VR sequence item with the marker in one element."""
    body = struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(MARKER)) + MARKER.encode()
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
@pytest.mark.parametrize("keyword", TEXTS)
def test_marker_in_every_element(tmp_path, keyword, syntax):
    """A name typed into any field we look at, whatever its type: refused or taken, never repeated."""
    data = to_bytes(film(syntax=syntax, drop=(keyword,)))
    value = MARKER.encode()
    if keyword.endswith("Sequence"):
        value = item(0x00080100) + item(0x00080104) + item(0x00283002) + item(0x00283006)
    tag = struct.pack("<HH", TAGS[keyword] >> 16, TAGS[keyword] & 0xFFFF)
    implicit = syntax == "1.2.840.10008.1.2"
    head = tag + (struct.pack("<L", len(value)) if implicit else b"UN\0\0" + struct.pack("<L", len(value)))
    at = data.index(b"\x08\0\x60\0" if keyword != "Modality" else b"\x08\0\x18\0")
    data = data[:at] + head + value + data[at:]
    (tmp_path / "f.dcm").write_bytes(data)
    for force in (False, True):
        try:
            got = read_film(tmp_path / "f.dcm", force=force)
        except EdgeError as error:
            check_private(error)
        else:
            assert "ZZSECRET" not in repr(got) + repr(dataclasses.asdict(got.meta)) + repr(got.warnings)
    with silent():  # the caller's reading is not ours
        dataset = pydicom.dcmread(tmp_path / "f.dcm")
    try:
        got = read_film(dataset, force=True)
    except EdgeError as error:
        check_private(error)
    else:
        assert "ZZSECRET" not in repr(got) + repr(got.warnings)


def test_only_our_tags_are_kept_in_memory(tmp_path):
    """Values of other elements are skipped in the file, the patient's name among them."""
    from edge.film.dicomfile import read_header

    path = tmp_path / "f.dcm"
    path.write_bytes(to_bytes(film()))
    with open(path, "rb") as handle:
        header = read_header(handle, 132)
    kept = set(header.values._elements)
    assert kept <= {*TAGS.values(), 0x00080005}
    assert 0x00100010 not in kept
