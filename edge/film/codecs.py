# SPDX-License-Identifier: Apache-2.0
"""What the worker decodes, and with which library. Runs in the worker only."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

Decode = Callable[[bytearray], tuple[dict[str, Any], Any]]

_GREY_SPREAD = 24
"""Largest difference between the channels of a pixel that still counts as grey (tinted scans, JPEG noise)."""
_COLOUR_SHARE = 0.01
"""Share of pixels that may be coloured (a burnt-in mark) before the picture counts as a colour picture."""


class Refused(Exception):
    """A picture of a kind that is not taken; `code` is one word for the parent."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


_LIBRARY = {"picture": "PIL.Image", "jpeg": "gdcm", "jpegls": "jpeg_ls", "j2k": "openjpeg", "rle": "rle.utils"}


def get_ready(codec: str) -> None:
    """Import the library that a codec uses first."""
    if codec in _LIBRARY:
        import_module(_LIBRARY[codec])


def prepare(fields: dict[str, Any]) -> Decode:
    """Import what a request needs and return the function that serves it."""
    warnings.simplefilter("ignore")
    if fields["op"] == "picture":
        from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin  # noqa: F401

        Image.MAX_IMAGE_PIXELS = None  # the parent has looked at the size
        return lambda data: _picture(fields, data)
    codec = fields["codec"]
    decode = {"jpeg": _jpeg, "jpegls": _jpegls, "j2k": _j2k, "rle": _rle, "zlib": _zlib}[codec](fields)
    return lambda data: _plain(decode(bytes(data)), fields)


def _plain(cells: Any, fields: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Cells as unsigned little-endian integers of 8 or 16 bits."""
    cells = np.ascontiguousarray(cells)
    if cells.dtype.kind == "i":
        cells = cells.astype("<i2").view("<u2")
    elif cells.dtype.itemsize > 2:
        if int(cells.max()) > 0xFFFF:
            raise Refused("corrupt")
        cells = cells.astype("<u2")
    if cells.shape != (fields["rows"], fields["columns"]):
        raise Refused("corrupt")
    size = cells.dtype.itemsize
    return {"bytes": size}, cells.astype(f"<u{size}", copy=False)


def _module(name: str) -> bool:
    return find_spec(name) is not None


def _jpeg(fields: dict[str, Any]) -> Callable[[bytes], Any]:
    if _module("gdcm"):  # first choice also for 8 bits: it tells of damage that Pillow passes over
        return _gdcm(fields)
    if not _module("PIL") or fields["frame"] == 3 or fields["bits"] > 8:
        raise Refused("decoder")
    from PIL import Image, JpegImagePlugin  # noqa: F401

    Image.MAX_IMAGE_PIXELS = None

    def decode(data: bytes) -> Any:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.mode != "L":
                raise Refused("colour")
            return np.asarray(image)

    return decode


def _jpegls(fields: dict[str, Any]) -> Callable[[bytes], Any]:
    if not _module("jpeg_ls"):
        return _gdcm(fields)
    import jpeg_ls  # type: ignore[import-untyped]

    def decode(data: bytes) -> Any:
        cells, info = jpeg_ls.decode_pixel_data(data)
        if info["components"] != 1:
            raise Refused("colour")
        size = 1 if info["bits_per_sample"] <= 8 else 2
        return np.frombuffer(cells, f"<u{size}").reshape(int(info["height"]), int(info["width"]))

    return decode


def _j2k(fields: dict[str, Any]) -> Callable[[bytes], Any]:
    if not _module("openjpeg"):
        return _gdcm(fields)
    import openjpeg

    return lambda data: openjpeg.decode(data)  # type: ignore[attr-defined]


def _rle(fields: dict[str, Any]) -> Callable[[bytes], Any]:
    rows, columns, allocated = fields["rows"], fields["columns"], fields["allocated"]
    if not _module("rle"):
        return _gdcm(fields)
    from rle.utils import decode_pixel_data

    def decode(data: bytes) -> Any:
        options = {"rows": rows, "columns": columns, "bits_allocated": allocated, "samples_per_pixel": 1}
        cells = decode_pixel_data(data, version=2, number_of_frames=1, **options)
        return np.frombuffer(cells, f"<u{allocated // 8}").reshape(rows, columns)

    return decode


def _zlib(fields: dict[str, Any]) -> Callable[[bytes], Any]:
    rows, columns, size = fields["rows"], fields["columns"], fields["allocated"] // 8

    def decode(data: bytes) -> Any:
        cells = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, rows * columns * size)
        return np.frombuffer(cells, f"<u{size}").reshape(rows, columns)

    return decode


def _gdcm(fields: dict[str, Any]) -> Callable[[bytes], Any]:
    """Decode with GDCM, and refuse what its JPEG library calls corrupt: it returns a part of the picture then."""
    if not _module("gdcm"):
        raise Refused("decoder")
    import gdcm

    rows, columns = fields["rows"], fields["columns"]
    bits = fields["bits"] or fields["stored"]
    allocated = 8 if bits <= 8 else 16
    if fields["codec"] == "rle":
        bits = allocated = fields["allocated"]

    def decode(data: bytes) -> Any:
        fragment = gdcm.Fragment()
        fragment.SetByteStringValue(data)
        fragments = gdcm.SequenceOfFragments.New()
        fragments.AddFragment(fragment)
        element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
        element.SetValue(fragments.__ref__())
        image = gdcm.Image()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((columns, rows, 1))
        image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(fields["syntax"])))
        grey = gdcm.PhotometricInterpretation.MONOCHROME2
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
        image.SetPixelFormat(gdcm.PixelFormat(1, allocated, bits, bits - 1, fields["signed"]))
        image.SetDataElement(element)
        with _overheard() as complaints:
            text = image.GetBuffer()
        if text is None or any(b"orrupt" in complaint for complaint in complaints):
            raise Refused("corrupt")
        cells = text.encode("utf-8", "surrogateescape")  # how the binding hands out bytes
        return np.frombuffer(cells, f"<u{allocated // 8}").reshape(rows, columns)

    return decode


@contextlib.contextmanager
def _overheard() -> Iterator[list[bytes]]:
    """Collect what a library prints on standard error inside the block (the first 64 KB of it)."""
    heard: list[bytes] = []
    source, sink = os.pipe()
    os.set_blocking(source, False)
    os.set_blocking(sink, False)  # a library that prints without end must not wait for us
    before = os.dup(2)
    os.dup2(sink, 2)
    try:
        yield heard
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(sink)
        with contextlib.suppress(OSError):
            heard.append(os.read(source, 1 << 16))
        os.close(source)


def _picture(fields: dict[str, Any], data: bytearray) -> tuple[dict[str, Any], Any]:
    """A PNG or JPEG picture as upright grey values, and behind them a mask of opaque pixels if it has one."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=[fields["kind"].upper()]) as image:
        if sorted(image.size) != sorted((fields["rows"], fields["columns"])):
            raise Refused("corrupt")
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except MemoryError:
            raise
        except Exception:  # damaged EXIF data say nothing about the pixels
            upright = image
        grey, alpha = _grey(upright)
    rows, columns = grey.shape
    reply = {"bytes": grey.dtype.itemsize, "rows": rows, "columns": columns, "mask": alpha is not None}
    if alpha is None:
        return reply, np.ascontiguousarray(grey)
    return reply, b"".join((grey.tobytes(), (alpha > 0).tobytes()))


def _grey(image: Any) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Grey values (uint8 or little-endian uint16) and the alpha channel; refuses colours beyond near-grey."""
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        return np.clip(values, 0, 0xFFFF).astype("<u2"), None
    if mode in ("P", "PA"):
        image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
        mode = image.mode
    if mode == "L":
        return np.asarray(image), None
    if mode not in ("LA", "RGB", "RGBA"):
        raise Refused("colour")
    alpha = np.asarray(image.getchannel("A")) if mode.endswith("A") else None
    if mode == "LA":
        grey = np.asarray(image.getchannel("L"))
    else:
        colours = np.asarray(image)
        if _coloured(colours, alpha):
            raise Refused("colour")
        grey = np.asarray(image.convert("RGB").convert("L"))
    if alpha is None or int(alpha.min()) == 255:
        return grey, None
    # On black, as a viewer with a dark background shows it.
    return ((grey.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8), alpha


def _coloured(colours: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> bool:
    count = 0
    for top in range(0, len(colours), 256):  # in strips: three channels of a large film are much memory
        strip = colours[top : top + 256, :, :3]
        spread = strip.max(axis=2) - strip.min(axis=2) > _GREY_SPREAD
        if alpha is not None:
            spread &= alpha[top : top + 256] > 0
        count += int(spread.sum())
    return bool(count > _COLOUR_SHARE * colours.shape[0] * colours.shape[1])
