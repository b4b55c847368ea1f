# SPDX-License-Identifier: Apache-2.0
"""Keeps pydicom silent while it reads: its warnings and log records quote values, which may be a patient's."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow warnings of this block and pydicom's log records of this thread.

    The lock is there because :class:`warnings.catch_warnings` changes the process' filters; blocks last for
    milliseconds.
    """
    me = threading.get_ident()

    def drop(record: logging.LogRecord) -> bool:
        return record.thread != me

    logger = logging.getLogger("pydicom")
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.addFilter(drop)
        try:
            yield
        finally:
            logger.removeFilter(drop)
