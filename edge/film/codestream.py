# SPDX-License-Identifier: Apache-2.0
"""Reads what a JPEG, JPEG-LS, JPEG 2000 or PNG stream claims about itself, without decoding it.

ISO 10918-1 annex B, ISO 14495-1 annex C, ISO 15444-1 annex A, PNG (ISO 15948) section 11.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge.errors import CorruptInput, UnsupportedPixels


@dataclass(frozen=True, slots=True)
class Claim:
    """Size and kind of a picture as its own header claims.

    `frame` is the number of the JPEG start-of-frame marker (0 baseline, 1 extended, 2 progressive, 3 lossless),
    55 for JPEG-LS, else -1. `frames` is the number of pictures in the file.
    """

    rows: int
    columns: int
    bits: int
    components: int
    frame: int = -1
    frames: int = 1


_NO_LENGTH = {0x01, *range(0xD0, 0xDA)}
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables, reserved, arithmetic conditioning


def jpeg(data: bytes) -> Claim:
    """The first frame header of a JPEG or JPEG-LS stream.

    Raises
    ------
    CorruptInput
        There is none.
    """
    position, end = 2, len(data)
    if data[:2] != b"\xff\xd8":
        raise CorruptInput("the compressed pixels are not the JPEG stream the file says they are")
    while position + 4 <= end:
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _NO_LENGTH:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xF7 or marker in _FRAME_MARKERS:
            if length < 8 or position + 10 > end:
                break
            bits, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            return Claim(rows, columns, bits, components, 55 if marker == 0xF7 else marker - 0xC0)
        if length < 2 or marker == 0xDA:
            break
        position += 2 + length
    raise CorruptInput("the JPEG stream has no frame header: the file is damaged or truncated; copy it again")


def jpeg2000(data: bytes) -> Claim:
    """The SIZ marker segment of a JPEG 2000 codestream (bare, or inside JP2 boxes).

    Raises
    ------
    CorruptInput
        There is none.
    """
    start = 0 if data[:2] == b"\xff\x4f" else data[:65536].find(b"\xff\x4f\xff\x51")
    if start < 0 or data[start + 2 : start + 4] != b"\xff\x51" or len(data) < start + 45:
        raise CorruptInput("the compressed pixels are not the JPEG 2000 stream the file says they are")
    x1, y1, x0, y0 = struct.unpack_from(">4L", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    depth = data[start + 42]
    if x1 <= x0 or y1 <= y0:
        raise CorruptInput("the JPEG 2000 stream claims an impossible size")
    return Claim(y1 - y0, x1 - x0, (depth & 0x7F) + 1, components)


def png(data: bytes) -> Claim:
    """The header chunk of a PNG picture.

    Raises
    ------
    CorruptInput
        There is none.
    """
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise CorruptInput("the PNG picture has no header: the file is damaged or truncated; copy it again")
    columns, rows, bits, kind = struct.unpack_from(">LLBB", data, 16)
    components = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(kind)
    if components is None or bits not in (1, 2, 4, 8, 16):
        raise CorruptInput("the PNG picture has an impossible header")
    frames, position = 1, 33
    while position + 12 <= len(data):  # acTL, if any, stands before the first IDAT
        length, name = struct.unpack_from(">L4s", data, position)
        if name == b"acTL" and length == 8:
            frames = max(1, struct.unpack_from(">L", data, position + 8)[0])
        if name in (b"IDAT", b"acTL"):
            break
        position += 12 + length
    return Claim(rows, columns, bits, components, frames=frames)


def check_end(data: bytes) -> None:
    """Refuse a JPEG-family stream whose end marker is missing: decoders make up the rest without a word.

    Raises
    ------
    CorruptInput
    """
    tail = data[-4096:].rstrip(b"\0")
    if not tail.endswith(b"\xff\xd9") and b"\xff\xd9" not in tail[-64:]:
        raise CorruptInput("the compressed pixels end early: the file is truncated; copy it again")


def check_density(codec: str, frame: int, pixels: int, encoded: int) -> None:
    """Refuse a size the compressed bytes cannot hold, whatever the picture.

    A DCT block of 64 pixels takes at least two bits, lossless JPEG one bit a pixel; two bytes of RLE make at most
    128. Progressive JPEG, JPEG-LS and JPEG 2000 can do with very little for an empty picture.

    Raises
    ------
    CorruptInput
    """
    per_byte = 1 << 18
    if codec == "jpeg":
        per_byte = 8 if frame == 3 else 256 if frame in (0, 1) else 1 << 18
    elif codec == "rle":
        per_byte = 64
    if pixels > per_byte * encoded:
        raise CorruptInput(
            "the compressed pixels are far too few bytes for the claimed size: the file is damaged; copy it again"
        )


def check_grey(claim: Claim) -> None:
    """Refuse more than one component.

    Raises
    ------
    UnsupportedPixels
    """
    if claim.components != 1:
        raise UnsupportedPixels("the compressed pixels are in colour; give the grey-scale original")
