# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every kind: only typed errors come out, quickly, and they tell nothing."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from encoders import JPEG, j2k, jpeg_baseline, jpeg_ls, rle
from film_builder import code_item, compressed, film, gradient, lut_item, to_bytes
from film_privacy import check_private
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.sequence import Sequence

from edge.errors import EdgeError, InputError
from edge.film import Film, read_film


def rich(**tags: object) -> bytes:
    """A film with one of everything in its header."""
    return to_bytes(
        film(
            WindowCenter=[2000, 1000],
            WindowWidth=[1000, 500],
            RescaleSlope=1,
            RescaleIntercept=0,
            PixelPaddingValue=0,
            AnatomicRegionSequence=Sequence([code_item("51185008", "Thorax")]),
            ViewCodeSequence=Sequence([code_item("272479007", "postero-anterior")]),
            VOILUTSequence=Sequence([lut_item(0, 12, np.arange(256))]),
            **tags,
        )
    )


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(gradient(bits=8).astype(np.uint8)).save(out, kind)
    return out.getvalue()


SEEDS: dict[str, bytes] = {}


def seeds() -> dict[str, bytes]:
    if not SEEDS:
        eight = gradient(bits=8)
        SEEDS.update(
            explicit=rich(),
            implicit=rich(syntax="1.2.840.10008.1.2"),
            big=rich(syntax="1.2.840.10008.1.2.2"),
            deflated=rich(syntax="1.2.840.10008.1.2.1.99"),
            rle=to_bytes(rle(eight, 8)),
            jpeg=to_bytes(compressed(jpeg_baseline(eight), JPEG + "50", eight, bits=8)),
            jpegls=to_bytes(compressed(jpeg_ls(gradient(), 12), JPEG + "80", gradient())),
            j2k=to_bytes(compressed(j2k(gradient(), 12), JPEG + "90", gradient())),
            png=picture("PNG"),
            jpg=picture("JPEG"),
        )
    return SEEDS


NAMES = ["explicit", "implicit", "big", "deflated", "rle", "jpeg", "jpegls", "j2k", "png", "jpg"]


def attempt(path, data: bytes) -> Film | EdgeError:
    path.write_bytes(data)
    start = time.monotonic()
    try:
        return read_film(path)
    except InputError as error:
        check_private(error)
        return error
    finally:
        assert time.monotonic() - start < 30


@pytest.mark.parametrize("name", NAMES)
def test_truncated_anywhere(name, tmp_path):
    """Cut at 60 places and at the last 12 bytes: a typed refusal, or the whole picture where only padding is lost."""
    data = seeds()[name]
    whole = read_film_bytes(tmp_path, data)
    cuts = sorted({*np.linspace(0, len(data) - 1, 60).astype(int).tolist(), *range(len(data) - 12, len(data))})
    for cut in cuts:
        got = attempt(tmp_path / "cut", data[:cut])
        if isinstance(got, Film):
            assert cut > len(data) - 16, f"{name} cut at {cut} of {len(data)} was taken"
            assert np.array_equal(got.pixels, whole.pixels)
        else:
            assert got.exit_code in (21, 22, 25), f"{name} cut at {cut}: {got.kind}"
            assert got.exit_code != 22 or "again" in str(got), f"{name} cut at {cut}: {got}: and what to do?"


def read_film_bytes(folder, data: bytes) -> Film:
    (folder / "whole").write_bytes(data)
    return read_film(folder / "whole")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=35, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes(name, tmp_path, data):
    blob = bytearray(seeds()[name])
    header = min(len(blob), 1700)
    for _ in range(data.draw(st.integers(1, 6))):
        # Most of the damage goes where the decisions are made.
        top = header if data.draw(st.booleans()) else len(blob)
        at = data.draw(st.integers(0, top - 1))
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            blob[at] = data.draw(st.integers(0, 255))
        elif kind == 1:
            blob[at : at + 4] = data.draw(
                st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\xfe\xff\0\xe0"])
            )
        elif kind == 2:
            del blob[at : at + data.draw(st.integers(1, 40))]
        else:
            blob[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        header, blob = min(header, len(blob)), blob or bytearray(b"x")
    attempt(tmp_path / "damaged", bytes(blob))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=600), st.sampled_from([b"", bytes(128) + b"DICM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]))
@example(b"\x08\0\x05\0CS\x0a\0ISO 9\\ZZZ!", bytes(128) + b"DICM")
def test_noise(tmp_path, noise, start):
    got = attempt(tmp_path / "noise", start + noise)
    assert isinstance(got, EdgeError)


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length) + value


def with_elements(extra: bytes) -> bytes:
    """A film with raw elements put in front of its own."""
    data = to_bytes(film())
    at = data.index(b"\x08\0\x16\0UI")
    return data[:at] + extra + data[at:]


ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
UNDEFINED = 0xFFFFFFFF


@pytest.mark.parametrize(
    "extra",
    [
        element(0x00080005, b"CS", b"ISO 2022 XX\\" * 9 + b"ZZSECRET"),
        element(0x00081140, b"SQ", (ITEM + element(0x00081140, b"SQ", b"", UNDEFINED)) * 4000, UNDEFINED),
        element(0x00081140, b"SQ", b"", UNDEFINED),
        element(0x00081140, b"SQ", b"\1\2\3\4" * 30, 120),
        element(0x00091001, b"UN", b"", UNDEFINED),
        element(0x00081140, b"OB", b"x", 0x7FFFFFFE),
        element(0x00080008, b"CS", b"x" * 2) * 300_000,
        element(0x00081140, b"SQ", (struct.pack("<HHL", 0xFFFE, 0xE000, 0)) * 500_000, UNDEFINED),
        element(0x00080008, b"ZZ", b"x" * 2),
        element(0x00080008, b"\0\0", b"x" * 2),
    ],
    ids=["charset", "nested", "open", "no-items", "unknown", "length", "many", "items", "vr", "no-vr"],
)
def test_hostile_headers(tmp_path, extra):
    start = time.monotonic()
    attempt(tmp_path / "hostile", with_elements(extra))
    assert time.monotonic() - start < 20


def test_deflate_bomb(tmp_path, monkeypatch):
    """A few KB that inflate to much more than a film has."""
    import zlib

    monkeypatch.setattr("edge.film.dicomfile._MAX_INFLATED", 8 << 20)

    data = to_bytes(film(syntax="1.2.840.10008.1.2.1.99"))
    length = struct.unpack_from("<L", data, 140)[0]
    packer = zlib.compressobj(9, wbits=-15)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(20)) + packer.flush()
    got = attempt(tmp_path / "bomb", data[: 144 + length] + body)
    assert isinstance(got, EdgeError)
    assert "larger than" in str(got)


def test_large_private_values_are_skipped(read):
    """40 MB of vendor data before the pixels are neither read nor a reason to refuse."""
    extra = element(0x00090010, b"LO", b"VENDOR") + element(0x00091001, b"OB", bytes(40 << 20))
    data = to_bytes(film())
    at = data.index(b"\x10\0\x10\0PN")
    start = time.monotonic()
    got = read(data[:at] + extra + data[at:])
    assert time.monotonic() - start < 10
    assert np.array_equal(got.pixels, gradient())
