# SPDX-License-Identifier: Apache-2.0
"""Uncompressed pixels: depth, sign, byte order, dirty bits, files without preamble, datasets and arrays."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from film_builder import INSTANCE, SERIES, STUDY, bare, film, gradient, to_bytes
from pydicom.dataset import Dataset

from edge.errors import CannotRead, CorruptInput, InputError, NotFrontalChest, UnsupportedPixels, UsageError
from edge.film import read_film

IMPLICIT, EXPLICIT, DEFLATED, BIG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG])
def test_depths_and_encodings(read, bits, syntax):
    pixels = gradient(bits=bits)
    got = read(film(pixels, bits=bits, syntax=syntax))
    assert got.pixels.dtype == np.float32
    assert np.array_equal(got.pixels, pixels)
    assert got.bits == bits
    assert got.valid is None
    assert got.window is None
    assert got.warnings == []
    assert got.meta.transfer_syntax == syntax


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_signed(read, bits, syntax):
    pixels = gradient(bits=bits).astype(np.int32) - 2 ** (bits - 1)
    got = read(film(pixels.astype(np.int16), bits=bits, syntax=syntax))
    assert np.array_equal(got.pixels, pixels)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (10, 12), (8, 7)])
def test_dirty_bits_are_masked(read, stored, high, signed):
    """Bits around the stored ones (overlays of old devices) are no part of the value."""
    rng = np.random.default_rng(0)
    values = gradient(bits=stored).astype(np.int32)
    low = high - stored + 1
    mask = ((1 << stored) - 1) << low
    dirt = rng.integers(0, 1 << 16, values.shape)
    cells = ((values << low) | (dirt & ~mask & 0xFFFF)).astype(np.uint16)
    tags = {"BitsStored": stored, "HighBit": high, "PixelRepresentation": int(signed)}
    got = read(film(cells, bits=16, **tags))
    if signed:
        values = np.where(values >= 1 << (stored - 1), values - (1 << stored), values)
    assert np.array_equal(got.pixels, values)


def test_eight_bits_in_big_endian_words(read):
    """OW in big endian swaps 8-bit cells in pairs (PS3.5 section 8.1.2)."""
    pixels = gradient(66, 65, bits=8)
    raw = pixels.astype(np.uint8).tobytes()
    ds = film(pixels, bits=8, syntax=BIG)
    ds.PixelData = np.frombuffer(raw, "<u2").byteswap().tobytes()
    ds["PixelData"].VR = "OW"
    # pydicom writes OW as it is given
    assert np.array_equal(read(ds).pixels, pixels)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_without_preamble_and_meta(read, syntax):
    ds = film(syntax=syntax)
    got = read(bare(ds))
    assert np.array_equal(got.pixels, gradient())
    assert got.meta.sop_instance_uid == INSTANCE
    assert any("transfer syntax" in w for w in got.warnings)


def test_without_preamble_but_with_meta(read):
    got = read(to_bytes(film())[132:])
    assert np.array_equal(got.pixels, gradient())
    assert got.warnings == []


def test_meta_without_transfer_syntax(read):
    ds = film(syntax=IMPLICIT)
    data = to_bytes(ds)
    uid = IMPLICIT.encode() + b"\0"
    at = data.index(b"\x02\0\x10\0UI")
    cut = data[:at] + data[at + 8 + len(uid) :]
    assert np.array_equal(read(cut).pixels, gradient())


def test_header_values_arrive(read):
    meta = read(film()).meta
    assert (meta.sop_instance_uid, meta.study_instance_uid, meta.series_instance_uid) == (INSTANCE, STUDY, SERIES)
    assert (meta.modality, meta.view_position, meta.body_part) == ("DX", "PA", "CHEST")
    assert (meta.photometric, meta.rows, meta.columns, meta.source) == ("MONOCHROME2", 72, 80, "dicom")


def test_odd_size_without_pad_byte(read):
    pixels = gradient(65, 67, bits=8)
    ds = film(pixels, bits=8)
    data = to_bytes(ds)
    assert np.array_equal(read(data).pixels, pixels)
    assert np.array_equal(read(data[:-1]).pixels, pixels)


@pytest.mark.parametrize("from_file", [False, True])
def test_dataset(from_file, tmp_path):
    import pydicom

    ds = film(WindowCenter=2000.0, WindowWidth=1000.0)
    if from_file:
        (tmp_path / "f.dcm").write_bytes(to_bytes(ds))
        ds = pydicom.dcmread(tmp_path / "f.dcm", defer_size=512)
    got = read_film(ds)
    assert np.array_equal(got.pixels, gradient())
    assert got.window.center == 2000.0
    assert got.meta.view_position == "PA"


def test_dataset_whose_file_is_gone(tmp_path):
    import pydicom

    (tmp_path / "f.dcm").write_bytes(to_bytes(film()))
    ds = pydicom.dcmread(tmp_path / "f.dcm", defer_size=512)
    (tmp_path / "f.dcm").unlink()
    with pytest.raises(CannotRead):
        read_film(ds)


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "PixelRepresentation", "WindowCenter", "PixelData"])
@pytest.mark.parametrize("value", ["text", None, [], [1, 2], 3.5, b"\1", object()])
def test_dataset_with_impossible_values(keyword, value):
    """A dataset made in memory may hold anything."""
    ds = film(WindowCenter=1, WindowWidth=2)
    ds[keyword]._value = value
    with contextlib.suppress(InputError):
        read_film(ds)


def test_plain_dataset_without_meta():
    ds = film()
    plain = Dataset()
    plain.update({e.tag: e for e in ds})
    assert np.array_equal(read_film(plain).pixels, gradient())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_array(dtype):
    pixels = gradient(bits=8).astype(dtype)
    got = read_film(pixels)
    assert np.array_equal(got.pixels, pixels)
    assert got.meta.source == "array"
    assert got.pixels is not pixels


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros((70, 70, 3), np.uint8), UnsupportedPixels),
        (np.zeros(100, np.uint8), UnsupportedPixels),
        (np.zeros((70, 70), np.int64), UnsupportedPixels),
        (np.zeros((70, 70), bool), UnsupportedPixels),
        (np.zeros((70, 70), complex), UnsupportedPixels),
        (np.zeros((10, 70), np.uint8), UnsupportedPixels),
        (np.full((70, 70), np.nan), CorruptInput),
        (np.full((70, 70), np.inf, np.float32), CorruptInput),
    ],
)
def test_array_refused(array, kind):
    with pytest.raises(kind):
        read_film(array)


@pytest.mark.parametrize("thing", [None, 3, ["a.dcm"]])
def test_other_types_are_wrong_usage(thing):
    with pytest.raises(UsageError):
        read_film(thing)


def test_uniform_film_is_taken_by_force_only(read):
    """A failed exposure is no clear chest."""
    with pytest.raises(NotFrontalChest, match="same value"):
        read(film(np.full((70, 70), 7, np.uint16)))
    got = read(film(np.full((70, 70), 7, np.uint16)), force=True)
    assert any("same value" in w for w in got.warnings)
    framed = np.pad(np.full((70, 70), 7, np.uint16), 2, constant_values=4000)
    with pytest.raises(NotFrontalChest, match="same value"):  # what differs is padding
        read(film(framed, PixelPaddingValue=4000))
