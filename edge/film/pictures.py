# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG pictures: looked at here, decoded in the sandbox."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from edge.errors import CorruptInput, UnsupportedPixels
from edge.film import codestream, limits
from edge.film.sandbox import shared
from edge.film.types import Film, FilmMeta


def read_picture(handle: BinaryIO, kind: str) -> Film:
    """A film from a picture file.

    Palette pictures become 8-bit grey; colour pictures are taken where all but one in a hundred pixels
    are grey within 24 of 255; transparency is laid on black, and fully transparent pixels are no picture; the
    EXIF orientation is followed. 16 bits are kept for grey PNG without transparency.

    Parameters
    ----------
    handle : binary file
        At its start.
    kind : {"png", "jpeg"}

    Raises
    ------
    UnsupportedPixels
        True colour, several frames, an implausible size, too few bits.
    CorruptInput
    """
    data = handle.read(limits.MAX_ENCODED_BYTES + 1)
    if len(data) > limits.MAX_ENCODED_BYTES:
        raise UnsupportedPixels(f"more than {limits.MAX_ENCODED_BYTES >> 20} MB of picture is implausible")
    claim = codestream.png(data) if kind == "png" else codestream.jpeg(data)
    if claim.frames > 1:
        raise UnsupportedPixels("an animated picture; give a single film")
    limits.check_size(claim.rows, claim.columns)
    limits.check_depth(claim.bits)
    pixels = claim.rows * claim.columns
    if kind == "jpeg":
        if claim.components not in (1, 3):
            raise UnsupportedPixels("a colour picture; give the grey-scale original")
        if claim.bits != 8 or claim.frame not in (0, 1, 2):
            raise UnsupportedPixels("this kind of JPEG (more than 8 bits, lossless or arithmetic) is not taken")
        codestream.check_density("jpeg", claim.frame, pixels, len(data))
    elif pixels > 8200 * len(data):  # deflate makes at most 1032 bytes of one, a byte at most 8 pixels
        raise CorruptInput("the picture is far too few bytes for the claimed size: the file is damaged; copy it again")
    fields = {"op": "picture", "kind": kind, "rows": claim.rows, "columns": claim.columns}
    reply, raw = shared().run(fields, data, pixels=pixels)
    size, rows, columns = (_integer(reply.get(name)) for name in ("bytes", "rows", "columns"))
    mask = reply.get("mask") is True
    if size not in (1, 2) or (rows, columns) not in ((claim.rows, claim.columns), (claim.columns, claim.rows)):
        raise CorruptInput("the picture cannot be decoded: the file is damaged; copy it again")
    if len(raw) != pixels * (size + mask):
        raise CorruptInput("the picture cannot be decoded: the file is damaged; copy it again")
    grey = np.frombuffer(raw, f"<u{size}", pixels).reshape(rows, columns).astype(np.float32)
    warnings: list[str] = []
    valid = None
    if mask:
        valid = np.frombuffer(raw, np.uint8, pixels, pixels * size).reshape(rows, columns) != 0
        if not valid.any():
            raise UnsupportedPixels("every pixel of the picture is transparent")
        valid = None if valid.all() else valid
    meta = FilmMeta(photometric="MONOCHROME2", rows=rows, columns=columns, source=kind)  # type: ignore[arg-type]
    return Film(grey, valid, None, 8 * size, meta, warnings)


def _integer(value: object) -> int:
    return value if type(value) is int else 0
