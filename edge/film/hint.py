# SPDX-License-Identifier: Apache-2.0
"""A first glance at a film: will its pixels need the decoding worker, so that it can be started right away?

Only a guess to save time. Nothing is refused here, and what is read later does not rely on it.
"""

from __future__ import annotations

import re
from contextlib import suppress

from edge.errors import EdgeError
from edge.film.source import open_film, sniff
from edge.film.terms import SYNTAXES

_START_BYTES = 1024
_NEEDS_WORKER = ("jpeg", "jpegls", "j2k", "rle", "zlib")
_TRANSFER_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI[\x00-\x40]\x00([0-9.]{1,64})")
"""(0002,0010) as the file meta information has it: always explicit little endian (PS3.10 section 7.1)."""


def begin_decoder(path: str) -> None:
    """Start the decoding worker where the film will probably need it."""
    if codec := likely_codec(path):
        from edge.film.sandbox import shared

        shared().begin(codec)


def likely_codec(path: str) -> str:
    """The codec that the pixels of a file will probably need; "" where they need none or nothing can be told."""
    start, kind = b"", ""
    with suppress(EdgeError, OSError), open_film(path) as handle:
        start = handle.read(_START_BYTES)
        kind, _ = sniff(start[:512])
    if kind in ("png", "jpeg"):
        return "picture"
    found = _TRANSFER_SYNTAX.search(start) if kind == "dicom" else None
    syntax = SYNTAXES.get(found[1].decode("ascii")) if found else None
    return syntax.codec if syntax is not None and syntax.codec in _NEEDS_WORKER else ""
