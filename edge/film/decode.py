# SPDX-License-Identifier: Apache-2.0
"""Stored pixel values of a DICOM object: native ones here, compressed ones in the sandbox."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import CorruptInput, UnsupportedTransferSyntax
from edge.film import codestream, limits
from edge.film.checks import PixelShape
from edge.film.dicomfile import Header, PixelElement
from edge.film.encapsulated import frame
from edge.film.pixels import native_cells, stored_values
from edge.film.terms import EXPLICIT_BE, SYNTAXES, Syntax


def stored_pixels(header: Header, shape: PixelShape, element: PixelElement, warnings: list[str]) -> NDArray[Any]:
    """Stored values, shape (rows, columns).

    Raises
    ------
    CorruptInput
        The pixels end early or cannot be decoded.
    UnsupportedPixels, UnsupportedTransferSyntax
        The compressed stream holds something else than the header says.
    """
    syntax = SYNTAXES[header.syntax]
    if not syntax.codec:
        data = element.read(shape.nbytes + shape.nbytes % 2)
        if len(data) < shape.nbytes:
            raise CorruptInput("the pixel data ends early: the file is truncated; copy it again")
        little = header.syntax != EXPLICIT_BE
        cells = native_cells(data, shape, little_endian=little, words=element.vr == "OW")
        return stored_values(cells, shape)
    stream, ended = frame(element.read(limits.MAX_ENCODED_BYTES))
    # A dataset keeps the items without their delimiter: its value is whole by itself.
    ended = ended or element.value is not None
    return _compressed(stream, ended, header.syntax, syntax, shape, warnings)


def _compressed(
    stream: bytes, ended: bool, uid: str, syntax: Syntax, shape: PixelShape, warnings: list[str]
) -> NDArray[Any]:
    pixels = shape.rows * shape.columns
    claim = None
    if syntax.codec in ("jpeg", "jpegls", "j2k"):
        claim = codestream.jpeg2000(stream) if syntax.codec == "j2k" else codestream.jpeg(stream)
        if (claim.rows, claim.columns) != (shape.rows, shape.columns):
            raise CorruptInput(
                f"the compressed picture is {claim.columns}x{claim.rows} pixels, the header says"
                f" {shape.columns}x{shape.rows}"
            )
        codestream.check_grey(claim)
        codestream.check_end(stream)
        if claim.bits > 16:
            raise CorruptInput("the compressed picture has more than 16 bits a pixel")
        # DCT of more than 8 bits exists as extended sequential (1); arithmetic and hierarchical frames are 5 up.
        if syntax.codec == "jpeg" and (claim.frame > 3 or (claim.bits > 8 and claim.frame not in (1, 3))):
            raise UnsupportedTransferSyntax(
                f"{syntax.name} of {claim.bits} bits (frame type {claim.frame}) has no decoder here;"
                " convert the file to JPEG 2000, JPEG-LS or an uncompressed transfer syntax"
            )
        if claim.bits > shape.stored:
            warnings.append("the compressed picture has more bits than the header says")
        shape = replace(shape, low_bit=0)
    elif not ended:
        raise CorruptInput("the compressed pixels end early: the file is truncated; copy it again")
    codestream.check_density(syntax.codec, -1 if claim is None else claim.frame, pixels, len(stream))
    if syntax.codec == "raw":
        if len(stream) < shape.nbytes:
            raise CorruptInput("the pixel data ends early: the file is truncated; copy it again")
        return stored_values(native_cells(stream, shape, little_endian=True, words=False), shape)

    from edge.film.sandbox import shared

    fields = {
        "op": "dicom", "syntax": uid, "codec": syntax.codec, "frame": -1 if claim is None else claim.frame,
        "rows": shape.rows, "columns": shape.columns, "allocated": shape.allocated, "stored": shape.stored,
        "signed": int(shape.signed), "bits": 0 if claim is None else claim.bits,
    }  # fmt: skip
    reply, data = shared().run(fields, stream, pixels=pixels)
    size = reply.get("bytes")
    if size not in (1, 2) or len(data) != pixels * size:
        raise CorruptInput("the compressed pixels cannot be decoded: the file is damaged; copy it again")
    cells = np.frombuffer(data, f"<u{size}").reshape(shape.rows, shape.columns)
    return stored_values(_widened(cells, shape, claim), shape)


def _widened(cells: NDArray[Any], shape: PixelShape, claim: codestream.Claim | None) -> NDArray[Any]:
    """Cells wide enough for the stored bits, the sign of narrower signed samples carried over."""
    if cells.dtype.itemsize * 8 >= shape.stored:
        return cells
    if shape.signed and claim is not None:
        return cells.view(np.int8).astype(np.int16).view(np.uint16)
    return cells.astype(np.uint16)
