# SPDX-License-Identifier: Apache-2.0
"""Opens what the caller named and tells DICOM, PNG and JPEG apart by content, never by file name."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Literal

from edge.errors import CannotRead, CorruptInput, NotAnImage, UsageError

Kind = Literal["dicom", "png", "jpeg"]

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"\0\0\0\x0cjP  ", "a bare JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a bare JPEG 2000 picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x5c\x01\0\0", "a NIfTI volume"),
    (b"\x93NUMPY", "a NumPy file"),
)
_TAKE = "take DICOM, PNG or JPEG"
_FROM = "a film is read from a file, not from a pipe or a device"


def open_film(path: str | Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    UsageError
        It is a folder.
    CannotRead
        It is missing, not readable or not a regular file. Messages do not hold the name: a file name may be a
        patient's, and who prints the message knows it.
    """
    try:
        # Non-blocking, so that a named pipe cannot hold us up before it is seen not to be a file.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except IsADirectoryError:
        problem: CannotRead | UsageError = _folder()
    except FileNotFoundError:
        problem = CannotRead("no such file")
    except PermissionError:
        problem = _folder() if os.path.isdir(path) else CannotRead("no permission to read this file")
    except ValueError:
        problem = CannotRead("not a possible file name")
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
        problem = CannotRead(f"the file cannot be opened ({code})")
    else:
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
        problem = _folder() if stat.S_ISDIR(mode) else CannotRead(f"not a regular file; {_FROM}")
    raise problem


def _folder() -> UsageError:
    return UsageError(
        "this is a folder; name the film files in it, for example FOLDER/*.dcm",
        hint="name the files, for example FOLDER/*.dcm",
    )


def sniff(start: bytes) -> tuple[Kind, int]:
    """What a file is, from its first 512 bytes, and where its DICOM elements begin.

    Returns
    -------
    kind : {"dicom", "png", "jpeg"}
    offset : int
        Position of the first DICOM element (behind preamble and prefix, where there are any).

    Raises
    ------
    CorruptInput
        The file is empty.
    NotAnImage
        It is neither DICOM nor PNG nor JPEG.
    """
    if not start:
        raise CorruptInput("the file is empty; copy it again")
    if start[128:132] == b"DICM":
        return "dicom", 132
    if start.startswith(b"DICM") and _looks_like_elements(start[4:]):  # the preamble alone is missing
        return "dicom", 4
    if start.startswith(_PNG):
        return "png", 0
    if start.startswith(b"\xff\xd8\xff"):
        return "jpeg", 0
    if _looks_like_elements(start):
        return "dicom", 0
    if len(start) < 8 and (_PNG.startswith(start) or b"\xff\xd8\xff".startswith(start)):
        raise CorruptInput("the file ends after a few bytes; copy it again")
    for magic, words in _OTHERS:
        if start.startswith(magic):
            raise NotAnImage(f"this is {words}; {_TAKE}")
    if not any(start):
        raise NotAnImage(f"the file begins with zeros only; {_TAKE}")
    raise NotAnImage(f"this is neither DICOM nor a PNG or JPEG picture; {_TAKE}")


def _looks_like_elements(start: bytes) -> bool:
    """True where a DICOM element of group 2 or 8 stands at the very start (no preamble)."""
    if len(start) < 8:
        return False
    for order in "<>":
        group, element = struct.unpack_from(order + "HH", start)
        if group not in (0x0002, 0x0004, 0x0008) or element > 0x2000:
            continue
        vr = start[4:6]
        if vr.isalpha() and vr.isupper():
            return True
        (length,) = struct.unpack_from(order + "L", start, 4)
        if length <= 1024 and length % 2 == 0:
            return True
    return False
