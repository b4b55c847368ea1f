# SPDX-License-Identifier: Apache-2.0
"""Compressed transfer syntaxes: round trips, and streams that contradict their header."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from encoders import JPEG, RLE, by_gdcm, j2k, jpeg_baseline, jpeg_ls, rle
from film_builder import compressed, film, gradient, to_bytes
from PIL import Image

from edge.errors import CorruptInput, UnsupportedPixels, UnsupportedTransferSyntax
from edge.film import read_film


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_ls(read, bits):
    pixels = gradient(bits=bits)
    got = read(compressed(jpeg_ls(pixels, bits), JPEG + "80", pixels, bits=bits))
    assert np.array_equal(got.pixels, pixels)
    assert got.meta.transfer_syntax == JPEG + "80"


def test_jpeg_ls_near_lossless(read):
    pixels = gradient()
    got = read(compressed(jpeg_ls(pixels, 12, near=3), JPEG + "81", pixels))
    assert np.abs(got.pixels - pixels).max() <= 3


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_2000(read, bits):
    pixels = gradient(bits=bits)
    got = read(compressed(j2k(pixels, bits), JPEG + "90", pixels, bits=bits))
    assert np.array_equal(got.pixels, pixels)
    assert got.warnings == []


def test_jpeg_2000_lossy(read):
    pixels = gradient()
    got = read(compressed(j2k(pixels, 12, lossy=True), JPEG + "91", pixels))
    assert np.abs(got.pixels - pixels).max() < 100


@pytest.mark.parametrize("stream_signed", [False, True])
def test_jpeg_2000_signed(read, stream_signed):
    """The header's sign counts, whether or not the stream says the same."""
    pixels = gradient().astype(np.int16) - 2048
    coded = pixels if stream_signed else (pixels & 0xFFF).astype(np.uint16)
    got = read(compressed(j2k(coded, 12), JPEG + "90", pixels))
    assert np.array_equal(got.pixels, pixels)


def test_jpeg_2000_narrower_than_the_header(read):
    pixels = gradient(bits=8).astype(np.uint16)
    got = read(compressed(j2k(pixels, 8), JPEG + "90", pixels, bits=12))
    assert np.array_equal(got.pixels, pixels)


def test_jpeg_2000_in_a_jp2_box(read):
    pixels = gradient(bits=8)
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG2000", irreversible=False)
    got = read(compressed(out.getvalue(), JPEG + "90", pixels, bits=8))
    assert np.array_equal(got.pixels, pixels)


def test_jpeg_baseline(read):
    pixels = gradient(bits=8)
    stream = jpeg_baseline(pixels)
    got = read(compressed(stream, JPEG + "50", pixels, bits=8))
    assert np.array_equal(got.pixels, np.asarray(Image.open(io.BytesIO(stream))))


def test_jpeg_baseline_under_the_extended_syntax(read):
    pixels = gradient(bits=8)
    got = read(compressed(jpeg_baseline(pixels), JPEG + "51", pixels, bits=8))
    assert np.abs(got.pixels - pixels).max() < 12


@pytest.mark.parametrize("process", ["14", "14_1"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_lossless(read, tmp_path, bits, process):
    pixels = gradient(bits=bits)
    got = read(by_gdcm(tmp_path, pixels, bits, "JPEGLosslessProcess" + process))
    assert np.array_equal(got.pixels, pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rle(read, bits):
    pixels = gradient(bits=bits)
    assert np.array_equal(read(rle(pixels, bits)).pixels, pixels)


def test_rle_with_dirty_bits(read):
    pixels = gradient()
    ds = rle(pixels | 0xA000, 16)
    ds.BitsStored, ds.HighBit = 12, 11
    assert np.array_equal(read(ds).pixels, pixels)


@pytest.mark.parametrize("bits", [8, 12])
def test_encapsulated_uncompressed(read, bits):
    pixels = gradient(bits=bits)
    raw = film(pixels, bits=bits).PixelData
    got = read(compressed(raw, "1.2.840.10008.1.2.1.98", pixels, bits=bits))
    assert np.array_equal(got.pixels, pixels)


def other_syntax(data: bytes, old: str, new: str) -> bytes:
    """For syntaxes pydicom does not write: its UID replaced by one of the same length."""
    assert len(old) + len(old) % 2 == len(new) + len(new) % 2
    old_bytes, new_bytes = (u.encode() + b"\0" * (len(u) % 2) for u in (old, new))
    assert old_bytes in data
    return data.replace(old_bytes, new_bytes, 1)


def test_deflated_frame(read):
    pixels = gradient()
    packer = zlib.compressobj(wbits=-15)
    stream = packer.compress(film(pixels).PixelData) + packer.flush()
    data = to_bytes(compressed(stream, JPEG + "90", pixels))
    data = other_syntax(data, JPEG + "90", "1.2.840.10008.1.2.8.1")
    assert np.array_equal(read(data).pixels, pixels)


@pytest.mark.parametrize("parts", [2, 7])
def test_fragments_are_joined(read, parts):
    pixels = gradient()
    stream = jpeg_ls(pixels, 12)
    step = len(stream) // parts & ~1
    cuts = [stream[i * step : (i + 1) * step] for i in range(parts - 1)] + [stream[(parts - 1) * step :]]
    cuts[-1] += b"\0" * (len(cuts[-1]) % 2)
    assert np.array_equal(read(compressed(cuts, JPEG + "80", pixels)).pixels, pixels)


def test_missing_delimiter_is_forgiven_where_the_stream_is_whole(read, refused):
    pixels = gradient(bits=8)
    assert np.array_equal(read(to_bytes(compressed(j2k(pixels, 8), JPEG + "90", pixels, bits=8))[:-8]).pixels, pixels)
    refused(to_bytes(rle(pixels, 8))[:-8], CorruptInput)


@pytest.mark.parametrize("codec", ["50", "80", "90"])
def test_stream_of_another_size(refused, codec):
    """The decoder is never asked for what the header did not claim."""
    large = gradient(200, 300, bits=8)
    stream = {"50": jpeg_baseline(large), "80": jpeg_ls(large, 8), "90": j2k(large, 8)}[codec]
    error = refused(compressed(stream, JPEG + codec, gradient(bits=8), bits=8), CorruptInput)
    assert "300x200" in str(error)


def test_colour_stream_in_a_grey_header(refused):
    out = io.BytesIO()
    Image.new("RGB", (80, 72), "red").save(out, "JPEG")
    refused(compressed(out.getvalue(), JPEG + "50", gradient(bits=8), bits=8), UnsupportedPixels)


@pytest.mark.parametrize("codec", ["50", "70", "80", "90"])
def test_garbage_streams(refused, codec):
    for stream in (b"\0" * 500, b"\xff\xd8\xff\xd9" * 40, np.random.default_rng(0).bytes(700)):
        refused(compressed(stream, JPEG + codec, gradient(bits=8), bits=8), CorruptInput)


@pytest.mark.parametrize("syntax", [RLE, JPEG + "90"])
def test_native_pixels_under_a_compressed_syntax(refused, syntax):
    data = to_bytes(compressed(b"\0" * 40, syntax, gradient()))
    at = data.index(b"\xe0\x7f\x10\0")
    native = data[: at + 8] + (11520).to_bytes(4, "little") + gradient().tobytes()
    refused(native, CorruptInput)


def test_compressed_pixels_under_a_native_syntax(refused):
    data = to_bytes(compressed(jpeg_ls(gradient(), 12), JPEG + "80", gradient()))
    refused(other_syntax(data, JPEG + "80", "1.2.840.10008.1.2.1\0\0\0"), CorruptInput)


def test_far_too_few_bytes_for_the_claimed_size(refused):
    """A 9000x9000 frame header over 60 bytes of data."""
    stream = bytearray(jpeg_baseline(gradient(bits=8)))
    at = stream.index(b"\xff\xc0")
    stream[at + 5 : at + 9] = (9000).to_bytes(2, "big") * 2
    ds = compressed(bytes(stream), JPEG + "50", gradient(bits=8), bits=8, Rows=9000, Columns=9000)
    assert "too few" in str(refused(ds, CorruptInput))
    ds = rle(gradient(bits=8), 8)
    ds.Rows = ds.Columns = 9000
    assert "too few" in str(refused(ds, CorruptInput))


def test_twelve_bit_dct(read, tmp_path):
    got = read(by_gdcm(tmp_path, gradient(), 12, "JPEGExtendedProcess2_4"))
    assert got.meta.transfer_syntax == JPEG + "51"
    assert np.abs(got.pixels - gradient()).max() < 60


def test_arithmetic_dct_has_no_decoder(refused):
    stream = bytearray(jpeg_baseline(gradient(bits=8)))
    stream[stream.index(b"\xff\xc0") + 1] = 0xC9
    refused(compressed(bytes(stream), JPEG + "51", gradient(bits=8), bits=8), UnsupportedTransferSyntax)


@pytest.mark.parametrize("codec", ["50", "70"])
def test_hole_in_a_jpeg_stream(refused, tmp_path, codec):
    """The end marker is there and a part in the middle is not: no decoder raises, the picture would be half grey."""
    import pydicom
    from pydicom.encaps import generate_frames

    bits = 8 if codec == "50" else 12
    if codec == "50":
        stream = jpeg_baseline(gradient(bits=8))
    else:
        packed = pydicom.dcmread(io.BytesIO(by_gdcm(tmp_path, gradient(), 12)))
        stream = next(generate_frames(packed.PixelData, number_of_frames=1))
    stream = stream[: len(stream) // 2] + b"\xff\xd9"
    stream += b"\0" * (len(stream) % 2)
    refused(compressed(stream, JPEG + codec, gradient(bits=bits), bits=bits), CorruptInput)


@pytest.mark.parametrize("codec", ["50", "80", "90"])
def test_stream_without_its_end(refused, codec):
    pixels = gradient(bits=8)
    stream = {"50": jpeg_baseline(pixels), "80": jpeg_ls(pixels, 8), "90": j2k(pixels, 8)}[codec]
    for share in (0.3, 0.6, 0.95):
        cut = stream[: int(len(stream) * share) & ~1]
        refused(compressed(cut, JPEG + codec, pixels, bits=8), CorruptInput)


def test_compressed_dataset(tmp_path):
    import pydicom

    pixels = gradient()
    ds = compressed(j2k(pixels, 12), JPEG + "90", pixels)
    assert np.array_equal(read_film(ds).pixels, pixels)
    (tmp_path / "f.dcm").write_bytes(to_bytes(ds))
    assert np.array_equal(read_film(pydicom.dcmread(tmp_path / "f.dcm")).pixels, pixels)


@pytest.mark.parametrize("kind", ["rle", "raw"])
def test_a_dataset_keeps_the_frame_without_its_delimiter(tmp_path, kind):
    """These streams do not say where they end: in a file the delimiter does, and pydicom leaves it out."""
    import pydicom

    pixels = gradient()
    ds = rle(pixels, 12) if kind == "rle" else compressed(film(pixels).PixelData, "1.2.840.10008.1.2.1.98", pixels)
    assert np.array_equal(read_film(ds).pixels, pixels)
    (tmp_path / "f.dcm").write_bytes(to_bytes(ds))
    whole = pydicom.dcmread(tmp_path / "f.dcm")
    assert np.array_equal(read_film(whole).pixels, pixels)
    whole.PixelData = whole.PixelData[: len(whole.PixelData) // 2 & ~1]
    with pytest.raises(CorruptInput):
        read_film(whole)


def test_compressed_monochrome1(read):
    pixels = gradient()
    ds = compressed(j2k(4095 - pixels, 12), JPEG + "90", pixels, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(ds).pixels, pixels)
