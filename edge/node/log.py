# SPDX-License-Identifier: Apache-2.0
"""The node's own lines on stderr. pynetdicom and pydicom are silenced: their records hold what peers sent."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings

from edge.cli.output import printable

log = logging.getLogger("edge.node")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created))
        try:
            sys.stderr.write(f"{when} {record.levelname} {printable(record.getMessage())}\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # losing a line is no failure


def set_up(level: int = logging.INFO) -> None:
    """Show our lines, and nobody else's."""
    logger = logging.getLogger("edge")
    logger.handlers[:] = [_Lines()]
    logger.setLevel(level)
    logger.propagate = False
    silence()
    warnings.simplefilter("ignore")  # pydicom's quote what peers sent, in whatever thread it reads that
    threading.excepthook = _thread_failed


def silence() -> None:
    """Keep what peers send out of every log."""
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
        logger.handlers[:] = [logging.NullHandler()]


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """A thread of a library ended with an error: its text might quote what a peer sent."""
    log.error("a thread ended with %s", args.exc_type.__name__)
