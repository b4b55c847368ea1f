# SPDX-License-Identifier: Apache-2.0
"""Things to do, some of them later."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")


class Schedule(Generic[T]):
    """A queue in which a thing can be put off. Safe to use from several threads."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T, delay: float = 0.0) -> None:
        """Add `item`, to be taken after `delay` seconds."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + delay if delay else 0.0, next(self._count), item))
            self._changed.notify()

    def take(self, timeout: float | None = None) -> T | None:
        """The next thing that is due; ``None``: nothing within `timeout` seconds, or closed."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    return heapq.heappop(self._heap)[2]
                if end is not None and now >= end:
                    return None
                moments = [moment for moment in (end, self._heap[0][0] if self._heap else None) if moment is not None]
                self._changed.wait(min(moments) - now if moments else None)
        return None

    def close(self) -> None:
        """Whoever waits gets ``None``, now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._heap)


def back_off(tries: int, first: float, longest: float) -> float:
    """Seconds to wait after the `tries`-th failure in a row: doubling, with jitter so that nodes do not march in step.

    The jitter takes up to half off ("equal jitter"): waits stay long, and still differ.
    """
    whole = min(longest, first * 2.0 ** min(tries - 1, 60))
    return whole * random.uniform(0.5, 1.0)
