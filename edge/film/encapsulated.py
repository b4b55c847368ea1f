# SPDX-License-Identifier: Apache-2.0
"""Unwraps the one frame of encapsulated pixel data (PS3.5 annex A.4)."""

from __future__ import annotations

import struct

from edge.errors import CorruptInput

_ITEM = 0xE000FFFE
_END = 0xE0DDFFFE


def frame(data: bytes) -> tuple[bytes, bool]:
    """The fragments of a single frame, joined.

    Parameters
    ----------
    data : bytes
        From the start of the pixel data element's value, perhaps with what follows it in the file.

    Returns
    -------
    stream : bytes
    ended : bool
        False where the sequence delimiter is missing: the file was cut there, or written so.

    Raises
    ------
    CorruptInput
        Not items, or a fragment that is longer than the data.
    """
    view = memoryview(data)
    position, fragments, first, ended = 0, [], True, False
    while position + 8 <= len(data):
        tag, length = struct.unpack_from("<LL", data, position)
        position += 8
        if tag == _END:
            ended = True
            break
        if tag != _ITEM:
            raise CorruptInput(
                "the compressed pixels are not wrapped as they should be: the file is damaged; copy it again"
            )
        if length > len(data) - position:
            raise CorruptInput("the compressed pixels end early: the file is truncated; copy it again")
        if not first:  # the first item is the basic offset table
            fragments.append(view[position : position + length])
        first = False
        position += length
    stream = b"".join(fragments)
    if not stream:
        raise CorruptInput("there are no compressed pixels in the file: it is truncated; copy it again")
    return stream, ended
