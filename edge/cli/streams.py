# SPDX-License-Identifier: Apache-2.0
"""Standard streams that were closed by whoever started a command (``<&-``, some schedulers and supervisors)."""

from __future__ import annotations

import os
import sys


def settle_streams() -> None:
    """Occupy the standard descriptors that are closed, so that nothing which is opened later becomes one of them.

    The next file gets the lowest free number: a film, a pipe to the decoding worker or the file that is being written
    would be the standard output of every library that prints, and the standard input of every child.

    ``sys.stdout`` stays None, because results that go nowhere are a failure; where there is no stderr, lines for it are
    written to nothing, because ``print(file=None)`` would put them on stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Not to be written to: who asks for /dev/stdout, for one, is told that there is none.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", errors="backslashreplace")
