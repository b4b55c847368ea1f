# SPDX-License-Identifier: Apache-2.0
"""How a benchmark's command ends: its exit code, and one line about what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable


def exit_code(prog: str, work: Callable[[], int | None]) -> int:
    """Do the work of a command; the exit codes are those of ``edge-report``.

    Parameters
    ----------
    prog : str
        The command's name, which begins the line on stderr.
    work
        May return an exit code of its own; None is 0.
    """
    from edge.cli.output import ClosedPipe, printable
    from edge.errors import EdgeError

    try:
        return work() or 0
    except EdgeError as error:
        hint = f"; {error.hint}" if error.hint else ""
        print(printable(f"{prog}: {error.kind}: {error}{hint}"), file=sys.stderr)
        return error.exit_code
    except ClosedPipe:
        return 141
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
