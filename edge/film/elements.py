# SPDX-License-Identifier: Apache-2.0
"""Reads the data elements of a well-formed DICOM header (PS3.5 section 7).

pydicom reads any header, but importing it takes longer than the rest of a small report. So what is regular is read
here, in a few lines, and everything else is left to pydicom: at the first sign of something unusual :class:`Irregular`
is raised and the caller begins anew with pydicom. Where this module reads a header, it reads what pydicom would.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHORT = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())  # noqa: SIM905
_LONG = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # noqa: SIM905
"""Value representations with a 32-bit length behind two reserved bytes (PS3.5 table 7.1-1)."""
_EMPTY = frozenset("AE AS CS DA DT LO LT PN SH SQ ST TM UC UI UR UT".split())  # noqa: SIM905
"""Value representations of which an empty value is empty, and not missing."""
_DEEPEST = 8
_CHARACTER_SET = 0x00080005
_CHARACTER_SETS = re.compile(rb"(ISO[_ ](2022 )?IR[_ ]\d{1,3}|GB18030|GBK|\\| )*", re.ASCII)
"""What (0008,0005) usually holds (PS3.3 section C.12.1.1.2). pydicom looks each name up, and some it refuses."""


class Irregular(Exception):
    """Something that only pydicom reads."""


class Stream(Protocol):
    def read(self, count: int, /) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> int: ...


@dataclass(slots=True)
class Element:
    """A value as stored (bytes), a sequence's items, or None where it is empty or too long to be kept."""

    VR: str | None
    value: Any


@dataclass(slots=True)
class Elements:
    """The elements of a data set or an item by tag, as :class:`pydicom.Dataset` keeps them."""

    _dict: dict[int, Element]
    original_encoding: tuple[bool, bool]  # implicit, little endian


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to keep.

    Attributes
    ----------
    tags, item_tags : collection of int
        Elements of the data set, and of items at any depth; others are passed over.
    sequences : collection of int
        Tags known to be sequences, for encodings that do not say so.
    longest : int
        A longer value is passed over: its element is kept without it. (Not in items.)
    """

    tags: Collection[int]
    item_tags: Collection[int] = ()
    sequences: Collection[int] = ()
    longest: int = 1 << 20


def read_elements(
    stream: Stream, implicit: bool, little: bool, wanted: Wanted, stop: Callable[[int], bool]
) -> Elements:
    """Read up to the element at which `stop` is true, or to the end; the stream is left there.

    Parameters
    ----------
    stream : Stream
    implicit, little : bool
        Encoding.
    wanted : Wanted
    stop : callable
        Called with each tag.

    Raises
    ------
    Irregular
    """
    return _Reader(stream, implicit, little, wanted).data_set(stop, None, 0)


def read_items(data: bytes, implicit: bool, little: bool, tags: Collection[int]) -> list[Elements]:
    """Read the items of a sequence's value.

    Raises
    ------
    Irregular
    """
    return _Reader(BytesIO(data), implicit, little, Wanted((), tags)).items(len(data), 1)


def _never(_tag: int) -> bool:
    return False


class _Reader:
    def __init__(self, stream: Stream, implicit: bool, little: bool, wanted: Wanted) -> None:
        self._stream, self._implicit, self._little, self._wanted = stream, implicit, little, wanted
        order = "<" if little else ">"
        self._tag_and_length = struct.Struct(order + "HHL")
        self._vr_and_length = struct.Struct(order + "2sH")
        self._word = struct.Struct(order + "L")

    def data_set(self, stop: Callable[[int], bool], size: int | None, depth: int) -> Elements:
        """Elements to the end of the stream, to a stop, to the end of an item or of `size` bytes (UNDEFINED: to an
        item's end mark)."""
        stream, begin = self._stream, self._stream.tell()
        found: dict[int, Element] = {}
        while size in (None, UNDEFINED) or stream.tell() - begin < size:  # type: ignore[operator]
            at = stream.tell()
            head = stream.read(8)
            if not head and size is None and at > begin:
                break
            tag = self._tag(head)
            if tag >> 16 == 0xFFFE:
                if tag != _ITEM_END or size != UNDEFINED:
                    raise Irregular
                break
            if stop(tag):  # what stands there may be encoded in another way
                stream.seek(at)
                break
            vr, length = self._type(head)
            keep = tag in (self._wanted.item_tags if depth else self._wanted.tags)
            element = self._element(tag, vr, length, keep, depth)
            if keep:
                found[tag] = element
        if size not in (None, UNDEFINED) and stream.tell() - begin != size:
            raise Irregular
        return Elements(found, (self._implicit, self._little))

    def _tag(self, head: bytes) -> int:
        if len(head) < 8:
            raise Irregular
        group, element, _ = self._tag_and_length.unpack(head)
        return int(group << 16 | element)

    def _type(self, head: bytes) -> tuple[str | None, int]:
        """Value representation and length of the element that begins with these 8 bytes."""
        if self._implicit:
            if head[4:6].isalpha() and head[4:6].isupper():  # or is it explicit after all?
                raise Irregular
            return None, self._tag_and_length.unpack(head)[2]
        code, short = self._vr_and_length.unpack(head[4:])
        vr = code.decode("latin-1")
        if vr in _SHORT:
            return vr, short
        if vr not in _LONG:
            raise Irregular
        return vr, self._word.unpack(self._exactly(4))[0]

    def _element(self, tag: int, vr: str | None, length: int, keep: bool, depth: int) -> Element:
        if length == UNDEFINED:
            if vr != "SQ" and not (vr is None and tag in self._wanted.sequences):
                raise Irregular
            return Element("SQ", self.items(UNDEFINED, depth + 1))
        if tag == _CHARACTER_SET:
            value = self._exactly(min(length, 256))
            if len(value) < length or not _CHARACTER_SETS.fullmatch(value):
                raise Irregular
            return Element(vr, value or b"")
        if not keep or (length > self._wanted.longest and not depth):
            self._stream.seek(self._stream.tell() + length)
            return Element(vr, None)
        if length == 0:
            return Element(vr, b"" if vr in _EMPTY else None)
        return Element(vr, self._exactly(length))

    def items(self, size: int, depth: int) -> list[Elements]:
        """Items to the sequence's end mark (`size` UNDEFINED), or so many bytes of them."""
        if depth > _DEEPEST:
            raise Irregular
        stream, begin = self._stream, self._stream.tell()
        found: list[Elements] = []
        while size == UNDEFINED or stream.tell() - begin < size:
            group, element, length = self._tag_and_length.unpack(self._exactly(8))
            tag = group << 16 | element
            if tag == _SEQUENCE_END and size == UNDEFINED:
                return found
            if tag != _ITEM:
                raise Irregular
            found.append(self.data_set(_never, length, depth))
        if stream.tell() - begin != size:
            raise Irregular
        return found

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise Irregular
        return data
