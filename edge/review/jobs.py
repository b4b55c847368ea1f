# SPDX-License-Identifier: Apache-2.0
"""Work on an open film, told as events: in a thread of its own, line by line to whoever listens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeAlias

from edge.errors import Cancelled
from edge.prepare import prepare
from edge.review.refusals import described

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.review.sessions import Opened

    Emit: TypeAlias = Callable[[dict[str, Any]], None]
    Job: TypeAlias = Callable[[Emit, Any], None]


_ROOM = 40
"""Tokens that a sentence may need."""


def draft(engine: Engine, opened: Opened, emit: Emit, cancel: Any) -> None:
    """Look at the film if nobody has, then write: ``seen``, ``text`` pieces, ``report``."""
    with opened.lock:
        if opened.film is None:
            assert opened.read is not None
            opened.film = engine.open(prepare(opened.read, engine.manifest.image))
            opened.read = None  # its grey values are with the page now
        mask = opened.film.mask
        emit({"event": "seen", "mask": None if mask is None else _packed(mask), "warnings": opened.film.warnings})
        report = opened.film.report(on_text=lambda text: emit({"event": "text", "text": text}), cancel=cancel)
        opened.report = report
    emit({"event": "report", **report.to_dict()})


def complete(opened: Opened, before: list[str], begun: str, emit: Emit, cancel: Any) -> None:
    """Finish the sentence `begun` behind the sentences `before` it: ``text`` pieces, ``done``."""

    def on_text(piece: str) -> None:
        emit({"event": "text", "text": piece})

    with opened.lock:
        if opened.film is None:
            raise Cancelled("the draft is not written yet")
        text = " ".join([*before, begun])
        while before and opened.film.room(text) < _ROOM:  # a long report: the model goes on from its last sentences
            before = before[1:]
            text = " ".join([*before, begun])
        done = opened.film.complete(text, partial_word=True, on_text=on_text, cancel=cancel)
    emit(
        {
            "event": "done",
            "text": done.text,
            "sentences": [sentence.to_dict() for sentence in done.sentences],
            "stop_reason": done.stop_reason,
            "timings_ms": done.timings_ms,
        }
    )


async def events(job: Job, opened: Opened, pool: Executor, ended: Callable[[], None]) -> AsyncIterator[bytes]:
    """The events of a job, one line of JSON each; the job is cancelled when nobody listens any more.

    Parameters
    ----------
    job : callable
        Gets a function for events and a cancel token.
    ended : callable
        Called on the loop's thread when the job has ended, however it did.
    """
    from edge._kernel import CancelToken

    loop, token = asyncio.get_running_loop(), CancelToken()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(line: bytes | None) -> None:
        try:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        except RuntimeError:  # the loop is closed: the server is going down
            token.cancel()

    def run() -> None:
        try:
            job(lambda event: put(_line(event)), token)
        except BaseException as error:  # a thread has nobody else to tell
            put(_line({"event": "error", **described(error)}))
        finally:
            put(None)

    def over(_future: object) -> None:
        opened.running.discard(token)
        ended()

    opened.running.add(token)
    loop.run_in_executor(pool, run).add_done_callback(over)
    try:
        while (line := await lines.get()) is not None:
            yield line
    finally:
        token.cancel()


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _packed(mask: Any) -> dict[str, Any]:
    """A mask as bits, row by row without gaps, most significant first."""
    import numpy as np

    return {"size": list(mask.shape), "bits": base64.b64encode(np.packbits(mask).tobytes()).decode()}
