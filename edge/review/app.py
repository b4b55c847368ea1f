# SPDX-License-Identifier: Apache-2.0
"""The server's routes. A film lives in memory under a secret that only its page knows; nothing becomes a path.

::

    GET  /                the page, GET /static/NAME its parts
    GET  /api/about       the model, its notice, the limits
    POST /api/film        a film's file -> its grey values (:mod:`edge.review.picture`); ?force=1
    POST /api/report      events of the draft (:mod:`edge.review.jobs`), one JSON line each
    POST /api/complete    {"before": sentences, "text"} -> events of the completion
    POST /api/save        {"format", "sentences"} -> a file
    POST /api/close       forget the film

The last four name the film in the header ``X-Edge-Session``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edge.errors import CannotReference, EdgeError, UsageError
from edge.review import jobs
from edge.review.body import read_film, read_json
from edge.review.limits import Limits
from edge.review.picture import picture
from edge.review.refusals import Refusal, described, gone, status_of
from edge.review.saving import saved
from edge.review.sessions import Opened, Sessions
from edge.version import __version__

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.film import Film
    from edge.standard.filmheader import FilmHeader

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PICTURE_HEADER = "a PNG or JPEG picture names no patient and no study that an SR could belong to"


class Server:
    """What the routes share.

    Parameters
    ----------
    engine : Engine
    limits : Limits
    """

    def __init__(self, engine: Engine, limits: Limits | None = None) -> None:
        self.engine, self.limits = engine, limits or Limits()
        self.sessions = Sessions(self.limits)
        self._uploads, self._watched = 0, False
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="edge-review")
        self._static = _static_files()

    def app(self) -> Starlette:
        """The routes, without the checks of :class:`edge.review.guard.Guard`."""

        def post(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, handler, methods=["POST"])

        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/static/{name}", self.page),
                Route("/api/about", self.about),
                post("/api/film", self.film),
                post("/api/report", self.report),
                post("/api/complete", self.complete),
                post("/api/save", self.save),
                post("/api/close", self.close),
            ],
            exception_handlers={EdgeError: _failure, MemoryError: _failure, Exception: _failure},
        )

    def warm(self) -> None:
        """Have what the first film needs ready, in the background: modules, the decoding worker, the model."""
        self._pool.submit(self._warm)

    def _warm(self) -> None:
        import numpy as np

        from edge.film.sandbox import shared

        with contextlib.suppress(Exception):  # the first film will tell
            shared().begin()
            for name in ("edge.standard.filmheader", "edge.standard.sr", "edge.film.dicomfile", "edge.film.decode"):
                import_module(name)
            self.engine.open(np.zeros((256, 256), np.uint8)).complete("The", partial_word=True)

    async def page(self, request: Request) -> Response:
        """A part of the page, by a name that is in the package: there are no paths to leave it by."""
        found = self._static.get(request.path_params.get("name", "index.html"))
        return Response("not found\n", 404) if found is None else Response(found[0], media_type=found[1])

    async def about(self, _request: Request) -> Response:
        manifest = self.engine.manifest
        return JSONResponse(
            {
                "name": manifest.name,
                "intended_use": manifest.intended_use,
                "notice": self.engine.notice,
                "version": __version__,
                "upload_bytes": self.limits.upload_bytes,
                "has_mask": manifest.has_mask,
            }
        )

    async def film(self, request: Request) -> Response:
        if self._uploads >= self.limits.uploads:
            raise Refusal(503, "busy", "other films are being read; try again in a moment")
        self._uploads += 1
        try:
            data = await read_film(request, self.limits)
            force = request.query_params.get("force") == "1"
            film, header, no_header, answer = await self._in_thread(partial(self._read, data, force))
            del data
            before = request.headers.get("x-edge-session", "")
            opened = self.sessions.open(film, header, no_header, film.pixels.nbytes, before)
        finally:
            self._uploads -= 1
        if not self._watched:
            self._watch()
        return Response(answer, headers={"X-Edge-Session": opened.id}, media_type="application/octet-stream")

    def _watch(self) -> None:
        """Forget films that nobody asks for any more, also when nobody asks for anything."""
        self.sessions.expire()
        self._watched = len(self.sessions) > 0
        if self._watched:
            asyncio.get_running_loop().call_later(max(self.limits.idle_seconds / 8, 0.05), self._watch)

    def _read(self, data: bytes, force: bool) -> tuple[Film, FilmHeader | None, str, bytes]:
        """What there is to see and to save, before the model has any work with it."""
        from edge.film import read_film
        from edge.standard.filmheader import film_header

        film = read_film(data, force=force)
        header, no_header = None, ""
        try:
            header = film_header(data)
        except CannotReference as error:
            no_header = str(error).split(":")[0].split(";")[0]
        except UsageError:
            no_header = _PICTURE_HEADER
        about = {
            "warnings": film.warnings,
            "source": film.meta.source,
            "modality": film.meta.modality,
            "view": film.meta.view_position,
            "no_sr": no_header,
        }
        return film, header, no_header, picture(film, self.engine.manifest.image, about)

    async def report(self, request: Request) -> Response:
        opened = self._opened(request)
        return self._events(partial(jobs.draft, self.engine, opened), opened)

    async def complete(self, request: Request) -> Response:
        opened = self._opened(request)
        body = await read_json(request, self.limits)
        before, text = self._sentences(body.get("before", [])), body.get("text")
        if not isinstance(text, str) or len(text) > self.limits.text_chars:
            raise UsageError("the text to complete is missing or too long")
        return self._events(partial(jobs.complete, opened, before, text), opened)

    async def save(self, request: Request) -> Response:
        opened = self._opened(request)
        body = await read_json(request, self.limits)
        sentences, form = self._sentences(body.get("sentences")), body.get("format")
        if opened.report is None:
            raise UsageError("there is no draft yet")
        make = partial(saved, opened.report, sentences, str(form), opened.header, opened.no_header)
        data, media_type, name = await self._in_thread(make)
        return Response(data, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    async def close(self, request: Request) -> Response:
        self.sessions.close(request.headers.get("x-edge-session", ""))
        return JSONResponse({})

    def _sentences(self, given: Any) -> list[str]:
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise UsageError("the sentences are missing")
        if sum(map(len, given)) > self.limits.text_chars or len(given) > self.limits.sentences:
            raise UsageError("the text is too long")
        return given

    def _opened(self, request: Request) -> Opened:
        session = request.headers.get("x-edge-session", "")
        if not session:
            raise gone()
        return self.sessions.get(session)

    def _events(self, job: jobs.Job, opened: Opened) -> Response:
        def ended() -> None:
            if opened.film is not None:
                self.sessions.grown(opened, opened.film.nbytes)

        return StreamingResponse(jobs.events(job, opened, self._pool, ended), media_type="application/x-ndjson")

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


async def _failure(_request: Request, error: Exception) -> Response:
    return JSONResponse(described(error), status_of(error))


def _static_files() -> dict[str, tuple[bytes, str]]:
    """The page's parts by name, read once: what is not among them cannot be asked for."""
    found = {}
    for part in files("edge.review").joinpath("static").iterdir():
        media_type = _TYPES.get(part.name.rpartition(".")[2])
        if media_type and part.is_file():
            found[part.name] = (part.read_bytes(), media_type)
    return found
