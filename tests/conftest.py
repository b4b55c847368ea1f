# SPDX-License-Identifier: Apache-2.0
"""Side by side, each worker of the tests keeps to its own processors.

Otherwise each would start as many threads as there are processors, and most of the time would go into waiting for
threads that wait for a processor.
"""

from __future__ import annotations

import os


def pytest_configure() -> None:
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if not worker.startswith("gw") or not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    mine = processors[int(worker[2:]) % len(processors) :: count]  # more workers than processors share them
    os.sched_setaffinity(0, mine)
    os.environ["OMP_NUM_THREADS"] = str(len(mine))
