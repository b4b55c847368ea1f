# SPDX-License-Identifier: Apache-2.0
"""The decoding worker: ``python -m edge.film.worker``, started and spoken to by :mod:`edge.film.sandbox`.

It decodes one compressed picture after the other under limits of memory and processor time, and ends when its
parent does. Its replies hold pixels and one-word codes, never text from a file or from a library.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from typing import Any

from edge.film.wire import WireError, pack, receive

_IDLE_SECONDS = 600.0
_HARD_MEMORY = 6 << 30


def main() -> int:
    """Serve requests on standard input until it closes."""
    requests, replies = _take_pipes()
    parent = os.getppid()
    _end_with_parent(parent)
    _restrict()
    _send(replies, {"hello": os.getpid()}, b"")
    _get_ready(sys.argv[1] if len(sys.argv) > 1 else "")
    reader = os.fdopen(requests, "rb", buffering=0)
    while True:
        if not _wait(requests, parent):
            return 0
        try:
            fields, payload = receive(reader.readinto, 1 << 40)
        except WireError:
            return 0
        reply, pixels = _answer(fields, payload)
        del payload
        _send(replies, reply, pixels)
        del pixels


def _take_pipes() -> tuple[int, int]:
    """Move the pipes away from the standard descriptors, where a library might print into them."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    return requests, replies


def _end_with_parent(parent: int) -> None:
    """Die with the parent, even in the middle of a decoder that holds the interpreter.

    On Linux the kernel kills this process when the parent's end of a pipe closes (argument 2 is the other end);
    everywhere a thread looks whether the parent is still the same.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError, IndexError):
        import fcntl
        import signal

        lifeline = int(sys.argv[2])
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # it closed before we were listening
            os._exit(0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()


def _restrict() -> None:
    """Limits for the whole life of the process: no core dumps (they hold pixels), no files written."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, value in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_AS", _HARD_MEMORY)):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            limit = getattr(resource, name)
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))


def _get_ready(codec: str) -> None:
    """Import what the first picture will need while the parent is still reading its header."""
    with contextlib.suppress(Exception):  # told when the picture comes
        from edge.film import codecs

        codecs.get_ready(codec)


def _wait(requests: int, parent: int) -> bool:
    """Wait for a request; False after a long time without one, or without a parent."""
    if os.name != "posix":
        return True
    ready = select.select([requests], [], [], _IDLE_SECONDS)[0]
    return bool(ready) and os.getppid() == parent


def _send(descriptor: int, fields: dict[str, Any], payload: Any) -> None:
    view = memoryview(payload).cast("B")
    for part in (memoryview(pack(fields, len(view))), view):
        while part:
            part = part[os.write(descriptor, part) :]


def _answer(fields: dict[str, Any], payload: bytearray) -> tuple[dict[str, Any], Any]:
    from edge.film import codecs

    try:
        decode = codecs.prepare(fields)  # imports before the limits: their memory is not the picture's
        with _limits(int(fields["memory"]), float(fields["seconds"])):
            reply, parts = decode(payload)
        return {"ok": True, **reply}, parts
    except codecs.Refused as refusal:
        return {"ok": False, "code": refusal.code}, b""
    except MemoryError:
        return {"ok": False, "code": "memory"}, b""
    except Exception as error:  # a decoder's complaint; its text stays here
        # Libraries wrap a failed allocation in errors of their own.
        code = "memory" if "alloc" in str(error).lower() or "memory" in str(error).lower() else "corrupt"
        return {"ok": False, "code": code}, b""


@contextlib.contextmanager
def _limits(memory: int, seconds: float) -> Any:
    """Allow so much more address space and processor time than now, for one picture."""
    try:
        import resource
    except ImportError:
        yield
        return
    before: list[tuple[int, tuple[int, int]]] = []
    wanted = {"RLIMIT_CPU": int(time.process_time() + seconds) + 2}
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", "rb") as file:
        wanted["RLIMIT_AS"] = int(file.read().split()[0]) * resource.getpagesize() + memory
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, OSError, ValueError):
            limit = getattr(resource, name)
            soft, hard = resource.getrlimit(limit)
            before.append((limit, (soft, hard)))
            resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    try:
        yield
    finally:
        for limit, pair in before:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, pair)


if __name__ == "__main__":
    sys.exit(main())
