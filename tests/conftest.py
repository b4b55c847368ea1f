# SPDX-License-Identifier: Apache-2.0
"""Side by side, each worker of the tests keeps to its own processors.

Otherwise each would start as many threads as there are processors, and most of the time would go into waiting for
threads that wait for a processor.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator

import pytest


def pytest_configure() -> None:
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if not worker.startswith("gw") or not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    mine = processors[int(worker[2:]) % len(processors) :: count]  # more workers than processors share them
    os.sched_setaffinity(0, mine)
    os.environ["OMP_NUM_THREADS"] = str(len(mine))


@pytest.fixture(scope="session", autouse=True)
def _traces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the processes of a run keep their traces of tiny models, see ``helpers/traces.py``."""
    base = tmp_path_factory.getbasetemp()
    is_worker = hasattr(request.config, "workerinput")  # whose folder lies in that of the run
    os.environ["EDGE_TEST_TRACES"] = str((base.parent if is_worker else base) / "traces")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A command that a test ran within this process has set up the log for itself: the next test finds it as it was."""
    logger = logging.getLogger("edge")
    before = logger.level, logger.propagate, list(logger.handlers)
    try:
        return (yield)
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers[:] = before[1:]
