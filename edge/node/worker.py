# SPDX-License-Identifier: Apache-2.0
"""Takes films from the queue, reports them, and puts the results where they wait for the receivers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge.errors import (
    EdgeError,
    NoPixelData,
    NotFrontalChest,
    ProcessingError,
    UnsupportedModality,
    UnsupportedPixels,
)
from edge.node.log import log
from edge.node.results import make_objects
from edge.node.schedule import Schedule, back_off
from edge.node.spool import FILM, Film, Result, Spool, moment

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.node.config import Config
    from edge.node.metrics import Metrics
    from edge.node.trace import Trace
    from edge.report import Report

NOT_OURS = (UnsupportedModality, NotFrontalChest, UnsupportedPixels, NoPixelData)
"""Refusals of films that are in order but not for this model: laterals, other body parts, colour screenshots. They
come every day, so they end in the trace and not in ``dead/``."""

_NEEDED = (
    "edge.prepare",
    "edge.film.read",
    "edge.film.decode",
    "edge.film.anatomy",
    "edge.preprocess",
    "edge.standard.filmheader",
    "edge.standard.sr",
    "edge.standard.measurements",
    "edge.standard.capture",
    "edge.standard.segmentation",
    "edge.standard.fhir",
    "pydicom.filewriter",
)
_STAGES = ("dicom", "preprocess", "vision", "first_token", "decode")


class Worker:
    """Reports films in threads of its own: while one film is decoded, the next is read and prepared.

    Parameters
    ----------
    config, spool, metrics, trace
    reported : callable
        Told of each result that waits for receivers.
    """

    def __init__(
        self, config: Config, spool: Spool, metrics: Metrics, trace: Trace, reported: Callable[[Result], None]
    ) -> None:
        self._config, self._spool, self._metrics, self._trace = config, spool, metrics, trace
        self._reported = reported
        self._films: Schedule[Film] = Schedule()
        self._tries: dict[str, int] = {}
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._engine: Engine | None = None
        self._stopping = False

    def put(self, film: Film) -> None:
        """Report a film; one that is known to be waiting or in work is left alone."""
        with self._lock:
            if film.key in self._busy:
                return
            self._busy.add(film.key)
        self._films.put(film)

    def start(self, engine: Engine) -> None:
        self._engine = engine
        for number in range(self._config.report.workers):
            thread = threading.Thread(target=self._work, name=f"edge-worker-{number}")
            thread.start()
            self._threads.append(thread)

    def alive(self) -> bool:
        """Whether films are being worked on."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Begin nothing more; films in work are finished, the others stay where they are."""
        self._stopping = True
        self._films.close()

    def join(self, timeout: float) -> bool:
        """Wait for the films in work; whether they are finished."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (film := self._films.take()) is not None:
            if self._spool.backed_up():
                self._films.put(film, 1.0)
                continue
            again = self._attempt(film)
            if again is None:
                with self._lock:
                    self._busy.discard(film.key)
                self._tries.pop(film.key, None)
            else:
                self._films.put(film, again)

    def _attempt(self, film: Film) -> float | None:
        """:meth:`_one`, whatever happens in it."""
        try:
            try:
                return self._one(film)
            except OSError:
                raise
            except Exception as error:  # nothing may end a worker
                return self._failed(film, ProcessingError(f"internal error ({type(error).__name__})"))
        except OSError as error:  # the disk: the film is where it was
            self._metrics.failed("report", "disk")
            log.error("the disk holds up reporting: %s", error.strerror or type(error).__name__)
            self._spool.rest(film)
            return self._later(film)

    def _later(self, film: Film) -> float:
        tries = self._tries[film.key] = self._tries.get(film.key, 0) + 1
        return back_off(tries, self._config.retry.first_s, self._config.retry.longest_s)

    def _one(self, film: Film) -> float | None:
        """Report one film; ``None`` where that is settled, else the seconds after which to try again."""
        if not film.path.exists():
            return None
        crashes = self._spool.begin(film)
        if crashes > self._config.report.max_crashes:
            return self._give_up(film, "crash", f"the node ended {crashes - 1} times while it worked on this film")
        began = time.time()
        try:
            report, objects = self._report(film)
        except NOT_OURS as refusal:
            return self._skip(film, refusal)
        except (EdgeError, MemoryError) as error:
            return self._failed(film, error)
        receivers = [peer.name for peer in self._config.deliver]
        result = self._spool.finish(film, objects, receivers)
        now, received = time.time(), moment(film.job, "received", began)
        for stage in _STAGES:
            self._metrics.observe(stage, report.timings_ms.get(stage, 0.0) / 1e3)
        self._metrics.observe("wait", began - received)
        self._metrics.observe("report", now - began)
        self._metrics.observe("received_to_reported", now - received)
        self._metrics.count("reported")
        run = self._trace.write(
            "reported",
            film=self._trace.name_of(str(report.input["sop_instance_uid"])),
            stop_reason=report.stop_reason,
            tokens=len(report.token_ids),
            timings_ms={**report.timings_ms, "wait": round((began - received) * 1e3, 1)},
            software=report.software,
            model={key: report.model[key] for key in ("name", "precision", "kv_dtype", "bias_rows")},
            warnings=len(report.warnings),
        )
        log.info("a film of %s was reported, %.1f s after it came (run %s)", _sender(film), now - received, run)
        if result is not None:
            self._reported(result)
        return None

    def _report(self, film: Film) -> tuple[Report, dict[str, tuple[str, bytes]]]:
        from edge.prepare import prepare
        from edge.standard.filmheader import film_header

        assert self._engine is not None
        path = film.path / FILM
        header = film_header(path)  # what cannot be referenced costs no report
        ready = prepare(path, self._engine.manifest.image)  # outside the engine's lock
        report = self._engine.report(ready)
        return report, make_objects(report, header, self._config.objects)

    def _skip(self, film: Film, refusal: EdgeError) -> float | None:
        self._spool.finish(film, {}, [])
        self._metrics.count("skipped")
        self._metrics.failed("report", refusal.kind)
        words = str(refusal)  # of a fixed list, as all that refuses a film: nothing of the header is quoted
        run = self._trace.write("skipped", film=self._name(film), reason=refusal.kind, words=words)
        log.info("a film of %s is not for this model: %s: %s (run %s)", _sender(film), refusal.kind, words, run)
        return None

    def _failed(self, film: Film, error: EdgeError | MemoryError) -> float | None:
        """Try again before giving up, also where the film is said to be damaged.

        Foreign pixels are decoded against the clock: on a machine that was suspended or overloaded a good film may
        run out of time.
        """
        kind = error.kind if isinstance(error, EdgeError) else "memory"
        words = str(error) or "not enough memory"
        self._metrics.failed("report", kind)
        if self._stopping:
            self._spool.rest(film)
            return None
        delay = self._later(film)
        if self._tries[film.key] >= self._config.report.tries:
            return self._give_up(film, kind, words)
        self._spool.rest(film)
        log.error(
            "a film of %s could not be reported (%s: %s); it is tried again in %.0f s: see queue/%s",
            _sender(film),
            kind,
            words,
            delay,
            film.key,
        )
        return delay

    def _give_up(self, film: Film, kind: str, words: str) -> float | None:
        self._spool.bury_film(film, {"reason": kind, "words": words, "time": time.time()})
        self._metrics.count("film_given_up")
        self._metrics.failed("report", kind)
        run = self._trace.write("given up", film=self._name(film), reason=kind, words=words)
        log.error("a film of %s was given up (%s: %s): see dead/%s (run %s)", _sender(film), kind, words, film.key, run)
        return None

    def _name(self, film: Film) -> str:
        """The trace's name of a film that has no report."""
        return self._trace.name_of(str(film.job.get("instance", film.key)))


def _sender(film: Film) -> str:
    """AE title of the modality; a person's work on the spool may have lost it."""
    return str(film.job.get("sender", "?"))


def engine_of(config: Config, bundle: Any) -> Engine:
    """Load the model.

    Raises
    ------
    EdgeError
    """
    from edge.engine import load

    for name in _NEEDED:  # here, in one thread, and not while the first film waits
        import_module(name)
    try:
        return load(bundle, config.report.device, config.report.threads)
    except MemoryError:
        raise ProcessingError("not enough memory for the model") from None
