# SPDX-License-Identifier: Apache-2.0
"""Writing results: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import select
import stat
import sys
from collections.abc import Iterable
from typing import BinaryIO

from edge.errors import OutputError, UsageError

_TURNS = 100
"""So often another process may come between while we replace a file that it replaces, too."""
_DESCRIPTOR = re.compile(r"/proc/(\d+)/(?:task/\d+/)?fd/(\d+)")


class ClosedPipe(Exception):
    """Whoever read our stdout has stopped reading."""


def named_twice(paths: Iterable[str]) -> str | None:
    """The first of `paths` that is the same file as one before it, by whatever name; pipes and devices take both."""
    seen: set[str] = set()
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path):
            continue
        target = os.path.realpath(path)
        if target in seen:
            return path
        seen.add(target)
    return None


def check_target(path: str, inputs: Iterable[str]) -> None:
    """Find out before the work that a file cannot be written, or that it is one of the `inputs`.

    Raises
    ------
    OutputError
    UsageError
    """
    for name in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samefile(name, path):
                raise UsageError("this is also an input: it would be overwritten")
    # A link is written behind: what is there counts, also where nothing is there yet.
    target = os.path.realpath(path) if os.path.islink(path) else path
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError("the name is too long: give a shorter one") from None
    if os.path.isdir(path) or path.endswith(os.sep):
        raise OutputError("this is a folder: give the name of a file")
    if _written_through(path):
        _check_open(path)
        return
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        led = "this is a link, and " if target != path else ""
        raise OutputError(f"{led}the folder {printable(folder)} does not exist: create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"the folder {printable(folder)} cannot be written to")


def write_whole(path: str, data: bytes) -> None:
    """Write a file as a whole: it has no name until it is synced, so that a process that is ended leaves no part of it.

    A file that is there already is replaced: the new one gets a temporary name beside it, and is renamed at once. That
    name is the same every time, so that what a process leaves that is ended between the two is removed by the next one
    that writes the file. Where the file system has no files without names (network shares, FAT), the file has a
    temporary name of its own from the beginning.

    What is no file to replace is written to as it is: a pipe, a device, what is open already (``/dev/stdout``).

    Raises
    ------
    ClosedPipe
        It is our stdout, and nobody reads that any more.
    OutputError
        The old file, if there was one, is then still as it was.
    """
    if _written_through(path):
        _write_through(path, data)
        return
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    try:
        if not _write_unnamed(folder, target, data):
            _write_named(folder, target, data)
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise OutputError(f"{error.strerror or 'the file could not be written'}: nothing was changed") from None


def _write_unnamed(folder: str, target: str, data: bytes) -> bool:
    """Write a file that gets its name last; False where that cannot be done there."""
    try:
        handle = os.open(folder, getattr(os, "O_TMPFILE", 0) | os.O_WRONLY, 0o600)
    except OSError:  # also where it is the folder's fault: the other way then says so
        return False
    with open(handle, "wb") as stream:
        _fill(stream, data, target)
        # With a descriptor beside it, Python has the link in /proc followed; otherwise that link would be linked.
        link = functools.partial(os.link, f"/proc/self/fd/{handle}", src_dir_fd=handle)
        temporary = os.path.join(folder, f"{_beginning(target)}{_digest(target)}.tmp")
        for _ in range(_TURNS):
            _remove(temporary)
            try:
                link(target)
                return True
            except FileExistsError:
                pass
            except OSError:
                return False
            try:
                link(temporary)
            except FileExistsError:  # of another process, which writes the same file at this moment
                continue
            except OSError:
                return False
            with contextlib.suppress(FileNotFoundError):  # another process has taken it for a left one
                _rename(temporary, target)
                return True
    return False


def _digest(target: str) -> str:
    """Tells files apart whose names begin alike."""
    return hashlib.sha256(os.fsencode(os.path.basename(target))).hexdigest()[:12]


def _write_named(folder: str, target: str, data: bytes) -> None:
    import tempfile

    handle, temporary = tempfile.mkstemp(prefix=_beginning(target), suffix=".tmp", dir=folder)
    try:
        with open(handle, "wb") as stream:
            _fill(stream, data, target)
    except BaseException:
        _remove(temporary)
        raise
    _rename(temporary, target)


def _beginning(target: str) -> str:
    """Of a temporary name: 50 characters of four bytes each leave room for the rest, as a name has 255 bytes."""
    return f".{os.path.basename(target)[:50]}."


def _rename(temporary: str, target: str) -> None:
    try:
        os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _fill(stream: BinaryIO, data: bytes, target: str) -> None:
    """Contents, permissions (of the file that is replaced, or of any new one), and both on the disk."""
    stream.write(data)
    stream.flush()
    os.fchmod(stream.fileno(), os.stat(target).st_mode & 0o777 if os.path.exists(target) else 0o666 & ~_umask())
    os.fsync(stream.fileno())


def _descriptor(path: str) -> tuple[int, int] | None:
    """Process and number of the open descriptor that `path` leads to, as ``/dev/stdout`` and ``/dev/fd/3`` do.

    Links are followed as far as its entry in ``/proc`` and no further: the entry is a link, too, but to the mere name
    of what is open.
    """
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        found = _DESCRIPTOR.fullmatch(os.path.join(folder, name))
        if found is not None:
            return int(found[1]), int(found[2])
        try:
            path = os.path.join(folder, os.readlink(os.path.join(folder, name)))
        except OSError:
            return None
    return None


def _written_through(path: str) -> bool:
    """Whether `path` is written to as it is, and not replaced."""
    if _descriptor(path) is not None:
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _check_open(path: str) -> None:
    import fcntl

    process, number = _descriptor(path) or (-1, -1)
    if process == os.getpid():
        if number == 1 and sys.stdout is None:  # it was closed; what is there now is to keep the number
            raise OutputError("no such descriptor is open")
        try:
            writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        except (OSError, OverflowError):
            raise OutputError("no such descriptor is open") from None
    else:
        writable = os.access(path, os.W_OK)
    if not writable:
        raise OutputError("this cannot be written to")


def _write_through(path: str, data: bytes) -> None:
    found = _descriptor(path)
    try:
        if found is None:
            handle = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        elif found[0] == os.getpid():  # a duplicate writes where the descriptor stands, or appends if that does
            handle = os.dup(found[1])
        else:
            handle = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_APPEND)
        try:
            write_all(handle, data)
        finally:
            os.close(handle)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and found == (os.getpid(), 1):
            raise ClosedPipe from None
        raise OutputError(error.strerror or "this could not be written to") from None


def _umask() -> int:
    """Of this process; read where the system tells it, as other threads would make files while it is set to another."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status", "rb") as stream:
        for line in stream:
            if line.startswith(b"Umask:"):  # since Linux 4.7
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
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
        stream = sys.stdout
        stream.flush()
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:  # a stream in memory, as a caller of ours may put there
            stream.write(text if isinstance(text, str) else text.decode())
            return
        write_all(
            descriptor, text.encode(stream.encoding, stream.errors or "strict") if isinstance(text, str) else text
        )
    except BrokenPipeError:
        _silence_stdout()
        raise ClosedPipe from None
    except (OSError, ValueError, AttributeError) as error:  # without a stdout it is None
        _silence_stdout()
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputError(f"stdout: {reason or 'closed'}") from None


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, waiting where a pipe is full.

    Another process may have set the pipe to non-blocking. Python's own streams then drop what does not fit, and with
    ``PYTHONUNBUFFERED`` they do not even say so.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            room = select.poll()  # select.select takes no descriptor above 1023
            room.register(descriptor, select.POLLOUT)
            room.poll()


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
