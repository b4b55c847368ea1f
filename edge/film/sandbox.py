# SPDX-License-Identifier: Apache-2.0
"""Decodes untrusted pixels in a warm subprocess with limits of memory and time.

One worker per process, started at the first compressed picture and kept. It is a fresh interpreter and no fork,
so it is safe under hosts with threads. A worker that crashed or took too long is replaced.

Environment
-----------
EDGE_WORKER_PYTHON
    Interpreter to run the worker with, for programs that embed Python (there ``sys.executable`` is the program).
EDGE_DECODE_SECONDS, EDGE_DECODE_MB
    Time and memory every picture may take on top of what its size asks for; default 15 and 256.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from edge.errors import Cancelled, CorruptInput, ProcessingError, UnsupportedPixels, UnsupportedTransferSyntax
from edge.film.wire import WireError, pack, receive
from edge.threads import starting_threads

_START_SECONDS = 60.0
_WAITS = 40
"""In so many steps a time limit is waited for."""
_PASSED_ON = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV", "SYSTEMROOT", "LANG", "LC_ALL",
)  # fmt: skip


class _Crashed(Exception):
    """The worker went away."""


class Sandbox:
    """A worker process and the lock around it.

    Parameters
    ----------
    seconds, megabytes : float, optional
        Base limits per picture; default from the environment.
    """

    def __init__(self, seconds: float | None = None, megabytes: float | None = None) -> None:
        self._seconds = _setting("EDGE_DECODE_SECONDS", 15.0) if seconds is None else seconds
        self._megabytes = _setting("EDGE_DECODE_MB", 256.0) if megabytes is None else megabytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._owner = os.getpid()
        self._timed_out = False
        self._greeted = False
        self._ended = False

    @property
    def pid(self) -> int | None:
        """Process id of the running worker, None where there is none."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def begin(self, codec: str = "") -> None:
        """Start the worker if it is not running, without waiting for it; a failure is told by the first picture.

        Parameters
        ----------
        codec : str, optional
            What the first picture will probably need (a codec of :mod:`edge.film.codecs`): imported ahead.
        """
        with self._lock, contextlib.suppress(ProcessingError):
            self._spawn(codec)

    def warm(self) -> None:
        """Start the worker if it is not running, and wait until it is there."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """End the worker. The next picture starts another."""
        with self._lock:
            self._stop()

    def abort(self) -> None:
        """End the worker for good, also in the middle of a picture: who waits for one gets :class:`Cancelled`."""
        self._ended = True
        process = self._process
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                process.kill()
        self.close()

    def run(self, fields: dict[str, Any], payload: bytes, *, pixels: int) -> tuple[dict[str, Any], bytearray]:
        """Send one request and wait for its reply.

        Parameters
        ----------
        fields : dict
            The request for :func:`edge.film.codecs.prepare`.
        payload : bytes
            The compressed picture.
        pixels : int
            Rows times columns as claimed; the limits grow with it.

        Returns
        -------
        reply : dict
        data : bytearray
            At most three bytes a pixel.

        Raises
        ------
        Cancelled
            The sandbox was aborted.
        CorruptInput
            The picture cannot be decoded, or not within the limits, or brings the worker down.
        UnsupportedPixels, UnsupportedTransferSyntax
            A picture of a kind that is not taken; a decoder that is missing.
        ProcessingError
            No worker can be started.
        """
        seconds = self._seconds + pixels / 4e6
        memory = int(self._megabytes * (1 << 20)) + 24 * pixels + 2 * len(payload)
        request = pack({**fields, "seconds": seconds, "memory": memory}, len(payload))
        with self._lock:
            # A worker may die for reasons that are not the picture's (an administrator, the out-of-memory
            # killer): only a second death is the picture's fault.
            for _ in range(2):
                self._start()
                try:
                    reply, data = self._exchange(request, payload, seconds, 3 * pixels + 4096)
                    break
                except _Crashed:
                    if self._timed_out:
                        raise CorruptInput(
                            f"decoding took longer than {seconds:.0f} s, more than such a picture needs"
                        ) from None
            else:
                raise CorruptInput("the compressed pixels bring the decoder down: the file is damaged; copy it again")
        if reply.get("ok") is not True:
            raise _refusal(reply.get("code"))
        return reply, data

    def _exchange(self, request: bytes, payload: bytes, seconds: float, most: int) -> tuple[dict[str, Any], bytearray]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        self._timed_out = False
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(process, seconds, done), daemon=True)
        fine = False
        try:
            with starting_threads():
                watch.start()
            _write(process.stdin, request)
            _write(process.stdin, payload)
            answer = receive(process.stdout.readinto, most)  # type: ignore[attr-defined]
            fine = not self._timed_out
            return answer
        except (WireError, OSError):
            raise _Crashed from None
        finally:
            done.set()
            if not fine:  # also on KeyboardInterrupt: a half-read pipe is of no more use
                self._stop()

    def _watch(self, process: subprocess.Popen[bytes], seconds: float, done: threading.Event) -> None:
        """End a worker whose time is over.

        A clock would also count the time in which we were stopped (Ctrl-Z, a paused container) or got no processor, and
        the picture would be called damaged for it. A step that took longer counts as one step.
        """
        for _ in range(_WAITS):
            if done.wait(seconds / _WAITS):
                return
        self._timed_out = True
        with contextlib.suppress(OSError):
            process.kill()

    def _start(self) -> None:
        """A worker that has said hello."""
        self._spawn()
        if self._greeted:
            return
        try:
            hello, _ = self._exchange(b"", b"", _START_SECONDS, 0)
            self._greeted = "hello" in hello
        except _Crashed:
            pass
        if not self._greeted:
            self._stop()
            raise _no_worker()

    def _spawn(self, codec: str = "") -> None:
        if self._ended:
            raise Cancelled("stopped while a picture was being decoded")
        if self._owner != os.getpid():  # we are a fork: the worker is our parent's
            self._process, self._owner = None, os.getpid()
            if self._lifeline is not None:
                os.close(self._lifeline)
                self._lifeline = None
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._stop()
        command = [_interpreter(), "-P", "-m", "edge.film.worker", codec]
        options: dict[str, Any] = {}
        theirs = -1
        if os.name == "posix":
            theirs, self._lifeline = map(_beyond_standard, os.pipe())
            command.append(str(theirs))
            options["pass_fds"] = (theirs,)
        else:
            options["creationflags"] = getattr(subprocess, "CREATE_NO_WINDOW", 0)
        self._greeted = False
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
                **options,
            )
        except OSError:
            self._stop()
            raise _no_worker() from None
        finally:
            if theirs >= 0:
                os.close(theirs)
        _widen(self._process)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if process is None or self._owner != os.getpid():
            return
        with contextlib.suppress(OSError):
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)


def _no_worker() -> ProcessingError:
    return ProcessingError(
        "the decoding worker cannot be started; set EDGE_WORKER_PYTHON to a Python that can import edge"
    )


def _refusal(code: object) -> Exception:
    if code == "memory":
        return CorruptInput("decoding takes more memory than such a picture needs: the file is damaged; copy it again")
    if code == "colour":
        return UnsupportedPixels("a colour picture; give the grey-scale original")
    if code == "decoder":
        return UnsupportedTransferSyntax("no decoder for this transfer syntax is installed")
    return CorruptInput("the compressed pixels cannot be decoded: the file is damaged; copy it again")


def _write(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def _beyond_standard(descriptor: int) -> int:
    """The same file under a number from 3 on: where a host has closed its standard streams a pipe may get theirs."""
    if descriptor > 2:
        return descriptor
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Larger pipes, where the system has them: fewer switches for a film of 20 MB."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


def _interpreter() -> str:
    chosen = os.environ.get("EDGE_WORKER_PYTHON")
    if chosen:
        return chosen
    name = Path(sys.executable or "").stem.lower()
    if name.startswith(("python", "pypy")):
        return sys.executable
    # An embedded interpreter: the Python it was built from, where that is installed.
    for folder, file in ((sys.prefix, "bin/python3"), (sys.base_prefix, "bin/python3"), (sys.prefix, "python.exe")):
        path = Path(folder, file)
        if path.is_file():
            return str(path)
    return sys.executable or "python3"


def _environment() -> dict[str, str]:
    """Nothing of the host's environment but what an interpreter needs: no secrets for a subverted decoder.

    The worker finds modules where this process finds them, the current folder excepted.
    """
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    root = str(Path(__file__).absolute().parents[2])
    paths = [p for p in sys.path if isinstance(p, str) and p and os.path.isabs(p)]
    if root not in paths:
        paths.insert(0, root)
    env["PYTHONPATH"] = os.pathsep.join(paths)
    env.update(
        PYTHONDONTWRITEBYTECODE="1",
        OMP_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        MALLOC_ARENA_MAX="1",
        MALLOC_MMAP_THRESHOLD_="1048576",  # pictures go back to the system once they are sent
        PYTHONIOENCODING="utf-8",
    )
    return env


def _setting(name: str, default: float) -> float:
    try:
        value = float(os.environ.get(name, default))
    except ValueError:
        return default
    return value if value > 0 else default


_SHARED: Sandbox | None = None
_SHARED_LOCK = threading.Lock()


def shared() -> Sandbox:
    """The worker of this process."""
    global _SHARED
    with _SHARED_LOCK:
        if _SHARED is None:
            _SHARED = Sandbox()
            atexit.register(_SHARED.close)
        return _SHARED


def abort() -> None:
    """End the worker of this process, whatever it is doing; the next picture starts another."""
    global _SHARED
    with _SHARED_LOCK:
        sandbox, _SHARED = _SHARED, None
    if sandbox is not None:
        sandbox.abort()


def _after_fork() -> None:
    global _SHARED, _SHARED_LOCK
    if _SHARED is not None:
        atexit.unregister(_SHARED.close)  # the worker is our parent's, and the number may be another file's by then
        if _SHARED._lifeline is not None:
            with contextlib.suppress(OSError):
                os.close(_SHARED._lifeline)  # or the worker would outlive its own parent for us
            _SHARED._lifeline = None
    _SHARED, _SHARED_LOCK = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
