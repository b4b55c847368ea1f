# SPDX-License-Identifier: Apache-2.0
"""What a film goes through before the model sees it: read, made an 8-bit picture, made the model's input.

None of it needs the model, so it can happen in a thread of its own while the model is being loaded or is busy with
the film before.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge.threads import starting_threads
from edge.timing import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.film import Film


_NEEDED = ("edge.film.dicomfile", "edge.film.decode", "edge.film.anatomy", "edge.film.grey", "PIL.Image")


@dataclass(frozen=True)
class Prepared:
    """A film ready for the model.

    Attributes
    ----------
    film : Film
    gray : ndarray uint8 [rows, columns]
    pixels : ndarray float32 [1, 3, height, width]
    laps : dict of str to float
        Seconds that reading (``dicom``) and preprocessing (``preprocess``) took.
    """

    film: Film
    gray: NDArray[np.uint8]
    pixels: NDArray[np.float32]
    laps: Mapping[str, float]


def prepare(source: Any, image: Mapping[str, Any], *, force: bool = False) -> Prepared:
    """Read a film and make the model's input of it.

    Parameters
    ----------
    source
        As for :meth:`edge.Engine.report`; or a :class:`edge.Film` that has been read.
    image : mapping
        The manifest's ``image`` block.
    force : bool
        As for :meth:`edge.Engine.report`.

    Raises
    ------
    InputError
        One subclass for each way a film can be wrong.
    """
    for name in _NEEDED:  # not the film's time
        import_module(name)
    from edge.film.read import read_film
    from edge.film.types import Film
    from edge.preprocess import to_gray8, to_pixels

    clock = Clock()
    film = source if isinstance(source, Film) else read_film(source, force=force)
    clock.lap("dicom")
    gray = to_gray8(film, image["intensity"])
    pixels = to_pixels(gray, image)
    clock.lap("preprocess")
    return Prepared(film, gray, pixels, clock.laps)


class Ahead:
    """Prepares films in a thread of its own, one ahead of whoever takes them.

    Use it as a context manager: leaving it ends the thread, and with it a picture that is just being decoded.

    Parameters
    ----------
    films : sequence of str
        Paths.
    image : mapping
        The manifest's ``image`` block.
    force : bool
    """

    def __init__(self, films: Sequence[str], image: Mapping[str, Any], *, force: bool = False) -> None:
        self._films, self._image, self._force = films, image, force
        # What is taken, what waits here and what is in the making: no more than two films beside the one reported.
        self._ready: queue.Queue[Prepared | BaseException] = queue.Queue()
        self._wanted = threading.Semaphore(1)
        self._over = False
        self._thread = threading.Thread(target=self._work, name="edge-ahead")

    def __enter__(self) -> Ahead:
        with starting_threads():
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over = True
        self._wanted.release()
        if self._thread.is_alive():
            from edge.film.sandbox import abort

            abort()
            self._thread.join()

    def take(self) -> Prepared:
        """The next film; the one after it is begun.

        Raises
        ------
        EdgeError
            That film cannot be reported. The next call goes on with the one after it.
        """
        result = self._ready.get()
        self._wanted.release()
        if isinstance(result, BaseException):
            raise result
        return result

    def _work(self) -> None:
        for film in self._films:
            self._wanted.acquire()
            if self._over:
                return
            result: Prepared | BaseException
            try:
                result = prepare(film, self._image, force=self._force)
            except BaseException as error:
                result = error
            self._ready.put(result)
