# SPDX-License-Identifier: Apache-2.0
"""Everything that is refused on the header alone, before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from edge.errors import (
    CorruptInput,
    NoPixelData,
    UnsupportedModality,
    UnsupportedPixels,
    UnsupportedTransferSyntax,
)
from edge.film import limits, terms
from edge.film.dicomfile import PIXEL_DATA, UNDEFINED, Header, PixelElement
from edge.film.header import Values, valid_uid


@dataclass(frozen=True, slots=True)
class PixelShape:
    """How pixels are stored (PS3.3 C.7.6.3, PS3.5 section 8)."""

    rows: int
    columns: int
    allocated: int  # bits of a cell: 8 or 16
    stored: int
    low_bit: int  # position of the value's lowest bit in its cell
    signed: bool
    photometric: str  # MONOCHROME1 or MONOCHROME2

    @property
    def nbytes(self) -> int:
        """Bytes of the picture in native form."""
        return self.rows * self.columns * (self.allocated // 8)

    @property
    def lowest(self) -> int:
        return -(1 << (self.stored - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        return (1 << (self.stored - (1 if self.signed else 0))) - 1


def check_modality(header: Header, warnings: list[str]) -> str:
    """The modality (CR, DX, DR, RG or RF).

    Raises
    ------
    UnsupportedModality
        Another modality or kind of object, or none that can be told.
    NoPixelData
        Neither modality nor pixels: an empty shell.
    CorruptInput
        The header is cut off.
    """
    values = header.values
    if header.pixels is None and header.truncated:
        raise CorruptInput("the file ends inside its header: it is truncated; copy it again")
    sop_class = values.uid("SOPClassUID") or header.media_class
    if not sop_class and "DirectoryRecordSequence" in values:
        sop_class = terms.DICOMDIR_CLASS
    words = terms.class_name(sop_class)
    if words:
        if sop_class == terms.DICOMDIR_CLASS:
            raise UnsupportedModality("this is a DICOMDIR, an index of other files; name the films it lists")
        raise UnsupportedModality(f"this is {words}; give a radiograph (CR, DX, DR, RG or RF)")
    modality = values.term("Modality")
    if modality in terms.TAKEN_MODALITIES:
        return modality
    if modality in ("", "OT", "SC"):
        meant = "" if modality else terms.MODALITY_OF_CLASS.get(sop_class, "")
        if meant:
            warnings.append(f"the header names no modality; {meant} is assumed from the class of the object")
            return meant
        if header.pixels is None:
            raise NoPixelData("the object holds no pixel data and names no modality")
        capture = "a secondary capture that" if sop_class in terms.SECONDARY_CAPTURE else "a picture that"
        named = f"gives {modality} ({terms.MODALITIES.get(modality)}) as its modality"
        what = named if modality else "does not name its modality"
        raise UnsupportedModality(
            f"{capture} {what}; if it is a chest radiograph, set Modality (0008,0060) to CR or DX"
        )
    known = terms.MODALITIES.get(modality)
    named = f"{modality} ({known})" if known else "one that is no radiography"
    raise UnsupportedModality(f"the modality is {named}; give a radiograph (CR, DX, DR, RG or RF)")


def check_pixels(header: Header, warnings: list[str]) -> tuple[PixelShape, PixelElement]:
    """Everything hard about the pixels that the header tells, sizes and decoders included.

    Raises
    ------
    NoPixelData, UnsupportedPixels, UnsupportedTransferSyntax, CorruptInput
    """
    values, pixels = header.values, header.pixels
    if pixels is None:
        if "PixelDataProviderURL" in values:
            raise NoPixelData("the pixels are kept elsewhere (a provider URL); fetch the whole object first")
        if "EncapsulatedDocument" in values:
            raise NoPixelData("this object holds a document and no picture")
        raise NoPixelData("the object holds no pixel data, or was cut off before it")
    if pixels.tag != PIXEL_DATA:
        raise UnsupportedPixels("floating-point pixels; a radiograph has integer pixels")
    shape = _shape(values, warnings)
    if pixels.length == 0:
        raise NoPixelData("the pixel data element is empty")
    syntax = check_syntax(header.syntax)
    if syntax.codec == "":
        _check_native(shape, pixels, warnings)
    else:
        if pixels.length != UNDEFINED and pixels.value is None:
            raise CorruptInput(f"the pixels are not encapsulated, though the file says {syntax.name}")
        if pixels.available > limits.MAX_ENCODED_BYTES:
            raise UnsupportedPixels(
                f"more than {limits.MAX_ENCODED_BYTES >> 20} MB of compressed pixels is implausible"
            )
    return shape, pixels


def check_syntax(uid: str) -> terms.Syntax:
    """The transfer syntax, with a decoder at hand.

    Raises
    ------
    UnsupportedTransferSyntax
        Unknown, never taken, or its decoder is not installed; the message names the package.
    """
    syntax = terms.SYNTAXES.get(uid)
    convert = "convert the file to JPEG 2000, JPEG-LS or an uncompressed transfer syntax"
    if syntax is None:
        name = uid if valid_uid(uid) else "an ill-formed UID"
        raise UnsupportedTransferSyntax(f"unknown transfer syntax {name}; {convert}")
    if syntax.codec == "none":
        raise UnsupportedTransferSyntax(f"{syntax.name} ({uid}) has no decoder here; {convert}")
    if syntax.packages and not any(_installed(module) for module, _ in syntax.packages):
        names = " or ".join(package for _, package in syntax.packages)
        raise UnsupportedTransferSyntax(f"no decoder for {syntax.name} ({uid}) is installed; pip install {names}")
    return syntax


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _shape(values: Values, warnings: list[str]) -> PixelShape:
    photometric = values.term("PhotometricInterpretation")
    samples = values.word("SamplesPerPixel")
    if photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedPixels("a colour picture; give the grey-scale original")
    if samples not in (None, 1):
        raise UnsupportedPixels("more than one sample per pixel (colour); give the grey-scale original")
    frames = values.number("NumberOfFrames")
    if frames is not None and frames > 1:
        raise UnsupportedPixels("several frames; give a single film")
    rows, columns = values.word("Rows"), values.word("Columns")
    if not rows or not columns:
        raise CorruptInput("the header does not say how many rows and columns the picture has")
    limits.check_size(rows, columns)
    if not photometric:
        raise CorruptInput("the header does not say whether low values are black or white (0028,0004)")
    allocated = values.word("BitsAllocated")
    if allocated is None:
        raise CorruptInput("the header does not say how many bits a pixel has")
    limits.check_depth(allocated)
    if allocated not in (8, 16):
        raise UnsupportedPixels("pixels are not kept in 8 or 16 bits")
    stored = values.word("BitsStored") or allocated
    if stored > allocated:
        raise CorruptInput("more bits stored than allocated")
    limits.check_depth(stored)
    high = values.word("HighBit")
    if high is None or not stored - 1 <= high < allocated:
        if high is not None:
            warnings.append("the header's high bit is impossible; the lowest bits are used")
        high = stored - 1
    signed = values.word("PixelRepresentation") == 1
    return PixelShape(rows, columns, allocated, stored, high - stored + 1, signed, photometric)


def _check_native(shape: PixelShape, pixels: PixelElement, warnings: list[str]) -> None:
    if pixels.length == UNDEFINED:
        raise CorruptInput("compressed pixels in a file that says they are not")
    have = min(pixels.length, pixels.available)
    if have < shape.nbytes:
        raise CorruptInput(
            f"the pixel data is truncated: {have} bytes, where {shape.columns}x{shape.rows} pixels of"
            f" {shape.allocated} bits need {shape.nbytes}; copy the file again"
        )
    excess = pixels.length - shape.nbytes
    if excess >= shape.nbytes:
        raise CorruptInput("the pixel data is at least twice as long as the header says")
    if excess > 1:
        warnings.append("the pixel data is longer than the header says; the excess is ignored")
