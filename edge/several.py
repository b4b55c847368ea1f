# SPDX-License-Identifier: Apache-2.0
"""Reports of several films at once: the vision graph sees one after the other, then their texts share the passes over
the decoder's weights. Each report is the one that the film gets alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from edge.errors import Cancelled, InputError
from edge.timing import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.engine import Engine
    from edge.report import Report
    from edge.session import Asked, FilmSession

ROWS = 16
"""Rows of a pass, beams included."""


@dataclass
class _Seen:
    """A film whose image lies in a lane of the decoder, waiting for its text."""

    lane: int
    session: FilmSession
    first_logits: NDArray[np.float32] | None


def reports(
    engine: Engine, sources: Iterable[Any], asked: Asked, *, at_once: int, force: bool, bias_rows: str | None
) -> Iterator[Report | Exception]:
    """See :meth:`edge.Engine.reports`."""
    films = iter(sources)
    width = max(1, min(at_once, engine._decoder.lanes, ROWS // asked.options.beams))
    while group := list(islice(films, width)):
        with engine._lock:
            made = _group(engine, group, asked, force, bias_rows)
        yield from made


def _group(
    engine: Engine, sources: list[Any], asked: Asked, force: bool, bias_rows: str | None
) -> list[Report | Exception]:
    outcomes: list[_Seen | Exception] = []
    waiting: list[_Seen] = []
    for source in sources:
        if isinstance(source, Exception):
            outcomes.append(source)
            continue
        try:
            session = engine._see(source, force=force, bias_rows=bias_rows)
        except InputError as error:
            outcomes.append(error)
            continue
        if len(sources) == 1:  # as ever, also where the decoder has one lane
            session._place()
            return [session._report(asked)]
        waiting.append(_fill(session, lane=len(waiting)))
        outcomes.append(waiting[-1])
    written = iter(_write(engine, waiting, asked))
    return [next(written) if isinstance(outcome, _Seen) else outcome for outcome in outcomes]


def _fill(session: FilmSession, lane: int) -> _Seen:
    clock = session._clock
    with clock.part("prefill", of="vision"):
        first = session._fill(lane)
    clock.lap("vision")
    session._forget()
    return _Seen(lane, session, first)


def _first_token(clock: Clock) -> Callable[[int, float], None]:
    def on_token(_token: int, _logprob: float) -> None:
        clock.lap("first_token", once=True)

    return on_token


def _write(engine: Engine, seen: list[_Seen], asked: Asked) -> list[Report]:
    from edge.decoder import TextRequest

    requests, clocks = [], []
    for one in seen:
        clock = Clock(one.session._clock.laps, one.session._clock.parts)  # not while the other films were looked at
        clocks.append(clock)
        requests.append(
            TextRequest(
                lane=one.lane,
                first_logits=one.first_logits,
                options=one.session._behind_states(asked.options),
                on_token=_first_token(clock),
            )
        )
    texts = engine._decoder.generate_several(requests, cancel=asked.cancel) if requests else []
    if any(text.stop_reason == "cancelled" for text in texts):
        raise Cancelled("stopped before the reports were complete")
    made = []
    for one, text, clock in zip(seen, texts, clocks, strict=True):
        # A text that is shorter than others does not count what came after it.
        clock.lap("first_token", once=True)
        clock.laps["decode"] = max(0.0, text.decode_seconds - clock.laps["first_token"])
        cache = one.session._cache(one.lane)
        made.append(one.session._compose(asked, text, clock, cache, texts=len(seen)))
    return made
