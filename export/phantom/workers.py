# SPDX-License-Identifier: Apache-2.0
"""Processes that draw phantoms side by side."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def drawing_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of fresh processes.

    Not forked ones: those would inherit locks of OpenCV's and OpenMP's threads without the threads that hold them, and
    wait for ever.
    """
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
