# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG pictures."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from film_builder import film, gradient
from PIL import Image

from edge.errors import CorruptInput, UnsupportedPixels

GREY = gradient(bits=8).astype(np.uint8)


def save(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(columns: int, rows: int, bits: int = 8, kind: int = 0, data: bytes = b"\0" * 50) -> bytes:
    """A hand-made PNG: any header, any data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    head = struct.pack(">LLBBBBB", columns, rows, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_png_in_every_mode(read, mode):
    got = read(save(Image.fromarray(GREY).convert(mode)))
    assert np.array_equal(got.pixels, GREY)
    assert (got.bits, got.meta.source, got.valid, got.window) == (8, "png", None, None)
    assert (got.meta.rows, got.meta.columns) == GREY.shape


def test_16_bit_png(read):
    pixels = gradient(bits=16)
    got = read(save(Image.fromarray(pixels)))
    assert np.array_equal(got.pixels, pixels)
    assert got.bits == 16


def test_a_png_of_few_bits_is_refused_as_a_dicom_object_is(refused):
    """Two black-and-white levels, or sixteen grey ones, are no radiograph, whatever the file is called."""
    for bits in (1, 2, 4):
        rows = b"".join(b"\0" + bytes([0x1B] * (10 * bits)) for _ in range(72))
        error = refused(png_header(80, 72, bits=bits, data=rows), UnsupportedPixels, force=True)
        tags = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelData": bytes(720 * bits)}
        assert str(error) == str(refused(film(**tags), UnsupportedPixels, force=True))
        assert str(error) == f"{bits} bit{'' if bits == 1 else 's'} per pixel is too few for a radiograph"
    refused(save(Image.fromarray(GREY > 100)), UnsupportedPixels)
    refused(save(Image.fromarray(GREY // 17).quantize(16)), UnsupportedPixels)  # a palette of sixteen


def test_transparent_pixels_are_no_picture(read):
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    for layers in ((GREY,), (GREY, GREY, GREY)):
        image = Image.merge("LA" if len(layers) == 1 else "RGBA", [Image.fromarray(c) for c in (*layers, alpha)])
        got = read(save(image))
        assert np.array_equal(got.valid, alpha > 0)
        assert (got.pixels[:10] == 0).all()
        assert np.abs(got.pixels[10:20] - GREY[10:20] * (128 / 255)).max() <= 0.51
        assert np.array_equal(got.pixels[20:], GREY[20:])


def test_all_transparent_is_refused(refused):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (80, 72), 0)])
    refused(save(image), UnsupportedPixels)


def test_transparent_palette(read):
    image = Image.fromarray(GREY).convert("P")
    got = read(save(image, transparency=int(np.asarray(image)[0, 0])))
    assert got.valid is not None
    assert not got.valid[0, 0]


@pytest.mark.parametrize("progressive", [False, True])
def test_grey_jpeg(read, progressive):
    data = save(Image.fromarray(GREY), "JPEG", quality=90, progressive=progressive)
    got = read(data)
    assert np.array_equal(got.pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert got.meta.source == "jpeg"


def test_grey_jpeg_stored_in_colour(read):
    got = read(save(Image.fromarray(GREY).convert("RGB"), "JPEG", quality=95))
    assert np.abs(got.pixels - GREY).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation(read, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(GREY), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    plain = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    expected = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.T, 6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].T, 8: np.rot90(plain),
    }[orientation]  # fmt: skip
    got = read(data)
    assert np.array_equal(got.pixels, expected)
    assert (got.meta.rows, got.meta.columns) == expected.shape


def test_damaged_exif_is_ignored(read):
    data = save(Image.fromarray(GREY), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(data).pixels.shape == GREY.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_colour_is_refused(refused, kind):
    hue = np.stack([GREY, GREY[::-1], np.full_like(GREY, 90)], axis=2)
    refused(save(Image.fromarray(hue), kind), UnsupportedPixels)


def test_colour_palette_is_refused(refused):
    hue = np.stack([GREY, GREY[::-1], np.full_like(GREY, 90)], axis=2)
    refused(save(Image.fromarray(hue).quantize(64)), UnsupportedPixels)


def test_cmyk_is_refused(refused):
    refused(save(Image.fromarray(GREY).convert("CMYK"), "JPEG"), UnsupportedPixels)


def test_a_small_coloured_mark_is_taken(read):
    picture = np.repeat(GREY[..., None], 3, axis=2)
    picture[:5, :5] = (255, 0, 0)
    assert read(save(Image.fromarray(picture))).pixels.shape == GREY.shape


def test_animated_png_is_refused(refused):
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    data = save(frames[0], save_all=True, append_images=frames[1:])
    refused(data, UnsupportedPixels)


@pytest.mark.parametrize(
    "size", [(60, 80), (80, 60), (12001, 100), (100, 12001), (11000, 11000), (2**31 - 1, 2**31 - 1)]
)
def test_implausible_size_is_refused_unread(refused, size):
    refused(png_header(*size), UnsupportedPixels)


def test_bombs(refused):
    """A 10000x10000 picture of zeros: a claim its bytes cannot hold, and one that they can, just."""
    refused(png_header(10000, 10000), CorruptInput)
    stream = bytearray(save(Image.fromarray(GREY), "JPEG"))
    at = stream.index(b"\xff\xc0")
    stream[at + 5 : at + 9] = struct.pack(">HH", 10000, 10000)
    refused(bytes(stream), CorruptInput)


def test_jpeg_of_many_bits_is_refused(refused):
    stream = bytearray(save(Image.fromarray(GREY), "JPEG"))
    stream[stream.index(b"\xff\xc0") + 4] = 12
    refused(bytes(stream), UnsupportedPixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated(refused, kind):
    data = save(Image.fromarray(GREY), kind)
    for length in (9, 20, 30, 40, len(data) // 2, len(data) * 9 // 10):
        refused(data[:length], CorruptInput)


def test_damaged_png(refused):
    data = bytearray(save(Image.fromarray(GREY)))
    data[len(data) // 2] ^= 0xFF
    refused(bytes(data), CorruptInput)
    refused(png_header(80, 72, bits=3), CorruptInput)
    refused(png_header(80, 72, kind=5), CorruptInput)


def test_one_huge_side_is_not_called_small(refused):
    for size in ((2**31 + 1, 10), (10, 2**31 + 1)):
        assert "implausibly large" in str(refused(png_header(*size), UnsupportedPixels))
