# SPDX-License-Identifier: Apache-2.0
"""Writing results: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable

from edge.errors import OutputError, UsageError


class ClosedPipe(Exception):
    """Whoever read our stdout has stopped reading."""


def check_target(path: str, inputs: Iterable[str]) -> None:
    """Find out before the work that a file cannot be written, or that it is one of the `inputs`.

    Raises
    ------
    OutputError
    UsageError
    """
    folder = os.path.dirname(path) or "."
    for name in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samefile(name, path):
                raise UsageError("this is also an input: it would be overwritten")
    if not os.path.isdir(folder):
        raise OutputError(f"the folder {printable(folder)} does not exist: create it first")
    if os.path.isdir(path):
        raise OutputError("this is a folder: give the name of a file")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {printable(folder)} cannot be written to")


def write_whole(path: str, data: bytes) -> None:
    """Write a file as a whole: a temporary file beside it, synced, then renamed over it.

    Raises
    ------
    OutputError
        The old file, if there was one, is then still as it was.
    """
    import tempfile

    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if os.path.exists(target) and not os.path.isfile(target):  # a device or a pipe cannot be replaced
        _write_through(target, data)
        return
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name[:100]}.", suffix=".tmp", dir=folder)
        with open(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, os.stat(target).st_mode & 0o777 if os.path.exists(target) else 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise OutputError(f"{error.strerror or 'the file could not be written'}: nothing was changed") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _write_through(target: str, data: bytes) -> None:
    try:
        with open(target, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise OutputError(f"{error.strerror or 'the device could not be written'}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_stdout(text: str | bytes) -> None:
    """Write to stdout and flush; bytes as they are.

    Raises
    ------
    ClosedPipe
    OutputError
    """
    try:
        if isinstance(text, bytes):
            sys.stdout.buffer.write(text)
        else:
            sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        raise ClosedPipe from None
    except (OSError, ValueError, AttributeError) as error:  # without a stdout it is None
        _silence_stdout()
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputError(f"stdout: {reason or 'closed'}") from None


def _silence_stdout() -> None:
    """Keep the interpreter from complaining again when it flushes stdout at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def say(line: str) -> None:
    """One line on stderr; losing it is no failure."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    """`text` on one line and without anything a terminal could act on."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def numbered(path: str, index: int) -> str:
    """``out.png`` as ``out-3.png``."""
    stem, suffix = os.path.splitext(path)
    return f"{stem}-{index}{suffix}"
