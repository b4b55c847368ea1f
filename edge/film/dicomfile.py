# SPDX-License-Identifier: Apache-2.0
"""Walks the header of a DICOM file up to its pixels, with a budget, and locates the pixels.

PS3.10 section 7 (preamble, file meta) and PS3.5 section 7 (elements). Files without preamble or without file
meta information are taken: the encoding is then told from the first elements.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from edge.errors import CorruptInput
from edge.film import limits
from edge.film.elements import Elements, Irregular, Wanted, read_elements
from edge.film.header import ITEM_TAGS, TAGS, Values, valid_uid
from edge.film.quiet import quiet
from edge.film.terms import DEFLATED, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PIXEL_DATA = 0x7FE00010
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
UNDEFINED = 0xFFFFFFFF
_META_TAGS = [0x00020002, 0x00020003, 0x00020010]
_MAX_INFLATED = 256 << 20


@dataclass(slots=True)
class PixelElement:
    """Where the pixels are: in a file (`handle`, `start`) or in memory (`value`)."""

    tag: int
    vr: str
    length: int  # as claimed; UNDEFINED for encapsulated pixels
    available: int  # bytes that are there from the start of the value
    handle: BinaryIO | None = None
    start: int = 0
    value: bytes | None = None

    def read(self, count: int) -> bytes:
        """The first `count` bytes of the value (fewer where there are fewer)."""
        if self.value is not None:
            return self.value[:count]
        assert self.handle is not None
        self.handle.seek(self.start)
        return self.handle.read(min(count, self.available))


@dataclass(slots=True)
class Header:
    """Header values and the place of the pixels of one DICOM object."""

    values: Values
    syntax: str  # transfer syntax UID, "" where the file has an ill-formed one
    syntax_named: bool  # False where there was no file meta information
    pixels: PixelElement | None
    truncated: bool  # the file ended inside an element
    media_class: str = ""
    media_instance: str = ""
    dataset: Dataset | Elements | None = None  # what was read; with `tags`, a Dataset


class _Budget:
    """A file to walk that counts what is read and notices the end of the file."""

    def __init__(self, handle: BinaryIO, size: int) -> None:
        self._handle, self._size = handle, size
        self._bytes = limits.MAX_HEADER_BYTES
        self._reads = limits.MAX_HEADER_READS
        self.truncated = False

    def read(self, count: int = -1) -> bytes:
        if count < 0:
            count = self._size
        self._bytes -= min(count, self._size)
        self._reads -= 1
        if self._bytes < 0 or self._reads < 0:
            raise CorruptInput("the header is larger than any radiograph needs")
        data = self._handle.read(count)
        # A clean end is met only where the next element (8 bytes) would begin.
        if len(data) < count and (data or count != 8):
            self.truncated = True
        return data

    def mark(self) -> tuple[int, int, int, bool]:
        """Where this is, and what is left of the budget; for :meth:`rewind`."""
        return self._handle.tell(), self._bytes, self._reads, self.truncated

    def rewind(self, mark: tuple[int, int, int, bool]) -> None:
        position, self._bytes, self._reads, self.truncated = mark
        self._handle.seek(position)

    def tell(self) -> int:
        return self._handle.tell()

    def seek(self, position: int, whence: int = 0) -> int:
        position = self._handle.seek(position, whence)
        if position > self._size:
            self.truncated = True
        return position


def read_header(handle: BinaryIO, offset: int, tags: list[int] | None = None) -> Header:
    """Read the header of a DICOM file; the pixels are only located.

    Parameters
    ----------
    handle : binary file
    offset : int
        Where the first element begins, from :func:`edge.film.source.sniff`.
    tags : list of int, optional
        Keep these elements, sequences with all they hold, instead of those of :data:`edge.film.header.TAGS`.

    Raises
    ------
    CorruptInput
        The header cannot be walked, or asks for more work than a header may.
    """
    size = handle.seek(0, io.SEEK_END)
    budget = _Budget(handle, size)
    handle.seek(offset)
    meta = _walk(budget, False, True, lambda tag: tag >> 16 != 2, _META_TAGS)
    meta_values = Values(meta, little_endian=True, implicit=False, tags=_META_KEYWORDS)
    syntax = meta_values.text("TransferSyntaxUID")
    named = "TransferSyntaxUID" in meta_values and bool(syntax)
    if not named:
        syntax = _guess(handle)
    elif not valid_uid(syntax):
        syntax = ""
    if syntax == DEFLATED:
        data = _inflate(handle.read())
        handle = io.BytesIO(data)
        size = len(data)
        inner = _Budget(handle, size)
        inner.truncated = budget.truncated
        budget = inner
    implicit, little = syntax == IMPLICIT_LE, syntax != EXPLICIT_BE
    if tags is None:
        dataset: Dataset | Elements = _walk(budget, implicit, little, _at_pixels)
    else:
        dataset = _walk_anything(budget, implicit, little, _at_pixels, tags)
    is_implicit = dataset.original_encoding[0]
    implicit = implicit if is_implicit is None else is_implicit
    pixels = None if budget.truncated else _locate(handle, size, implicit, little)
    return Header(
        Values(dataset, little_endian=little, implicit=implicit),
        syntax,
        named,
        pixels,
        budget.truncated,
        meta_values.uid("MediaStorageSOPClassUID"),
        meta_values.uid("MediaStorageSOPInstanceUID"),
        dataset,
    )


_META_KEYWORDS = {
    "MediaStorageSOPClassUID": 0x00020002,
    "MediaStorageSOPInstanceUID": 0x00020003,
    "TransferSyntaxUID": 0x00020010,
}


def _at_pixels(tag: int) -> bool:
    """True at the pixels and behind; the offset tables (7FE0,0001-0003) in front of them are passed over."""
    return tag >> 16 >= 0x7FE0 and tag & 0xFFFF > 3


_SEQUENCES = tuple(tag for keyword, tag in TAGS.items() if keyword.endswith("Sequence"))


def _walk(
    budget: _Budget, implicit: bool, little: bool, stop: Callable[[int], bool], tags: list[int] | None = None
) -> Dataset | Elements:
    begin = budget.mark()
    wanted = Wanted(
        frozenset(TAGS.values() if tags is None else tags),
        frozenset(ITEM_TAGS.values()),
        _SEQUENCES,
        limits.MAX_VALUE_BYTES,
    )
    try:
        return read_elements(budget, implicit, little, wanted, stop)
    except Irregular:
        budget.rewind(begin)
    return _walk_anything(budget, implicit, little, stop, tags)


def _walk_anything(
    budget: _Budget, implicit: bool, little: bool, stop: Callable[[int], bool], tags: list[int] | None
) -> Dataset:
    from pydicom.filereader import read_dataset

    words = "the header cannot be read: the file is damaged; copy it again"
    try:
        with quiet():
            return read_dataset(
                budget,  # type: ignore[arg-type]
                implicit,
                little,
                stop_when=lambda tag, vr, length: stop(tag),
                defer_size=limits.MAX_VALUE_BYTES,
                specific_tags=list(TAGS.values()) if tags is None else tags,  # type: ignore[arg-type]
            )
    except CorruptInput as error:
        words = str(error)
    except (Exception, RecursionError):  # whatever pydicom makes of damaged bytes; its text may quote them
        pass
    raise CorruptInput(words)


def _guess(handle: BinaryIO) -> str:
    """Encoding of a file that does not name one, from its first element."""
    here = handle.tell()
    start = handle.read(6)
    handle.seek(here)
    if len(start) < 6:
        return IMPLICIT_LE
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    (group,) = struct.unpack_from("<H", start)
    if explicit:
        # Group numbers at the start of a file are small: read the wrong way round they are above 0x0400.
        return EXPLICIT_BE if group >= 0x0400 else EXPLICIT_LE
    return IMPLICIT_LE


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = inflater.decompress(data, _MAX_INFLATED)
    except zlib.error:
        out = b""
    if not out:
        raise CorruptInput("the deflated data set cannot be inflated: the file is damaged; copy it again")
    if inflater.unconsumed_tail:
        raise CorruptInput("the deflated data set is larger than any radiograph")
    if not inflater.eof:
        raise CorruptInput("the deflated data set ends early: the file is truncated; copy it again")
    return out


def _locate(handle: BinaryIO, size: int, implicit: bool, little: bool) -> PixelElement | None:
    """The pixel element the walk stopped at; None where it stopped at the end or at something else."""
    order = "<" if little else ">"
    head = handle.read(8)
    if len(head) < 8:
        return None
    group, element = struct.unpack_from(order + "HH", head)
    tag = group << 16 | element
    if tag != PIXEL_DATA and tag not in _FLOAT_PIXELS:
        return None
    vr = ""
    if not implicit and head[4:6].isalpha() and head[4:6].isupper():
        vr = head[4:6].decode("ascii")
        # Pixel VRs have a 32-bit length behind two reserved bytes (PS3.5 table 7.1-1).
        head += handle.read(4)
        if len(head) < 12:
            raise CorruptInput("the file ends where its pixels begin; copy it again")
        (length,) = struct.unpack_from(order + "L", head, 8)
    else:
        (length,) = struct.unpack_from(order + "L", head, 4)
    start = handle.tell()
    return PixelElement(tag, vr, length, max(0, size - start), handle, start)
