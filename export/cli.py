# SPDX-License-Identifier: Apache-2.0
"""``edge-export``: a trained checkpoint becomes a bundle that ``edge-report`` runs."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from edge.cli.output import ClosedPipe, printable
from edge.cli.streams import settle_streams
from edge.errors import CannotRead, EdgeError, OutputError

from .arguments import make_parser
from .progress import PROG
from .run import run as _run

INTERRUPTED, CLOSED_PIPE, INTERNAL = 130, 141, 80


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    settle_streams()
    subject = ""
    try:
        arguments = make_parser().parse_args(argv)
        subject = f"{arguments.checkpoint.name or arguments.checkpoint}: "  # "." has no name
        _run(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except EdgeError as error:
        hint = f"; {error.hint}" if error.hint else ""
        _tell(f"{PROG}: {subject}{error.kind}: {error}{hint}")
        return error.exit_code
    except KeyboardInterrupt:
        _tell(f"{PROG}: interrupted; nothing was written")
        return INTERRUPTED
    except ClosedPipe:
        return CLOSED_PIPE
    except ImportError as error:
        _tell(f"{PROG}: {error.name} is not installed: pip install '.[cpu,export]'")
        return INTERNAL
    except MemoryError:
        _tell(f"{PROG}: {subject}out of memory")
        return INTERNAL
    except OSError as error:
        failed = _of_the_system(error, arguments.out)
        _tell(f"{PROG}: {subject}{failed.kind}: {failed}")
        return failed.exit_code
    except Exception as error:
        what = str(error).splitlines()[0][:300] if str(error) else ""
        _tell(f"{PROG}: {subject}internal error: {type(error).__name__}: {what}")
        return INTERNAL
    return 0


def _tell(text: str) -> None:
    """Lines on stderr, without anything from a file or a name that a terminal could act on."""
    print("\n".join(printable(line) for line in text.split("\n")), file=sys.stderr)


def _of_the_system(error: OSError, out: Path | None) -> EdgeError:
    """A name that is too long, a folder that may not be looked into, a full disk."""
    name = str(error.filename or "")
    writing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or (
        out is not None and name.startswith(str(out))
    )
    place = f"{name[:100]}: " if name else ""
    return (OutputError if writing else CannotRead)(f"{place}{error.strerror or type(error).__name__}")
