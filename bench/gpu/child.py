# SPDX-License-Identifier: Apache-2.0
"""Commands in process groups of their own, each with a limit, none of which outlives us. Standard library only.

A kernel that never ends hangs the process that waits for it, out of reach of anything in that process: so everything
that touches a device is somebody else's process, and is ended as a group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

GRACE_SECONDS = 2.0
"""Between asking a group to end and ending it."""
_running: set[Child] = set()


class Child:
    """A command under way; what it prints goes to files, which no grandchild can hold open for us.

    Parameters
    ----------
    call : sequence
        Program and arguments.
    output : Path
        For what it prints.
    errors : Path, optional
        For what it prints to stderr; default: the same.
    environment : mapping of str to str, optional
    cwd : Path, optional

    Raises
    ------
    OSError
        The program cannot be started.

    Attributes
    ----------
    code : int or None
        Exit code; None while it runs, and for ever where even the system could not end it.
    """

    def __init__(
        self,
        call: Sequence[str | Path],
        output: Path,
        errors: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.output, self.begin, self.code = output, monotonic(), None
        self.end = self.begin
        with open(output, "wb") as out, open(errors or os.devnull, "wb") as err:
            self._process = subprocess.Popen(
                [str(part) for part in call],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err if errors else subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
        _running.add(self)

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within so many seconds; it is ended otherwise."""
        try:
            self._process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._ended()
        return True

    def kill(self) -> None:
        """End the group, politely first: it may have children of its own."""
        for number, patience in ((signal.SIGCONT, 0.0), (signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 10.0)):
            self.signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._ended()

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, where there still is one."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def is_over(self) -> bool:
        return self.code is not None or self._process.poll() is not None

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace").strip() if self.output.is_file() else ""

    def _ended(self) -> None:
        self.code, self.end = self._process.poll(), monotonic()
        _running.discard(self)


@contextlib.contextmanager
def none_outlives_us() -> Iterator[None]:
    """Whatever ends the block, a SIGTERM included, ends the children that were begun in it."""
    before = set(_running)

    def stop(number: int, frame: Any) -> NoReturn:
        sys.exit(128 + number)

    try:
        earlier: Any = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        earlier = None
    try:
        yield
    finally:
        for child in _running - before:
            child.kill()
        if earlier is not None:
            signal.signal(signal.SIGTERM, earlier)
