# SPDX-License-Identifier: Apache-2.0
"""A pydicom dataset the caller holds, seen as a header of :mod:`edge.film.dicomfile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.errors import CannotRead
from edge.film.dicomfile import _META_KEYWORDS, PIXEL_DATA, UNDEFINED, Header, PixelElement
from edge.film.header import Values, valid_uid
from edge.film.quiet import quiet
from edge.film.terms import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, SYNTAXES

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def header_of_dataset(dataset: Dataset) -> Header:
    """Header and pixels of a dataset.

    Where the dataset has no file meta information its original encoding counts; one made in memory is taken to
    be little endian.
    """
    implicit, little = dataset.original_encoding
    meta = getattr(dataset, "file_meta", None)
    named, media_class, media_instance, syntax = False, "", "", ""
    if meta is not None:
        meta_values = Values(meta, little_endian=True, implicit=False, tags=_META_KEYWORDS)
        syntax = meta_values.text("TransferSyntaxUID")
        named = bool(syntax)
        media_class = meta_values.uid("MediaStorageSOPClassUID")
        media_instance = meta_values.uid("MediaStorageSOPInstanceUID")
    if not named:
        syntax = EXPLICIT_BE if little is False else IMPLICIT_LE if implicit else EXPLICIT_LE
    elif not valid_uid(syntax):
        syntax = ""
    little = syntax != EXPLICIT_BE
    pixels = None
    for tag in (PIXEL_DATA, 0x7FE00008, 0x7FE00009):
        if tag in dataset._dict:
            pixels = _pixels(dataset, tag, syntax)
            break
    values = Values(dataset, little_endian=little, implicit=bool(implicit))
    return Header(values, syntax, True, pixels, False, media_class, media_instance)


def _pixels(dataset: Any, tag: int, syntax: str) -> PixelElement:
    element = None
    try:
        with quiet():
            element = dataset[tag]  # reads a deferred value
    except Exception:  # the file it was deferred to is gone or changed; the text holds its name
        pass
    if element is None:
        raise CannotRead("the pixel data of the dataset cannot be read; was its file moved?")
    value = element.value
    value = bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else b""
    known = SYNTAXES.get(syntax)
    encapsulated = bool(value) and known is not None and known.codec not in ("", "none")
    length = UNDEFINED if encapsulated else len(value)
    return PixelElement(tag, str(element.VR), length, len(value), value=value)
