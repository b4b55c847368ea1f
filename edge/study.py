# SPDX-License-Identifier: Apache-2.0
"""Several films that one report is about, for models that look at more than one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge.errors import UsageError

if TYPE_CHECKING:
    from edge.engine import Source
    from edge.manifest import Manifest
    from edge.prepare import Prepared
    from edge.vision import VisionOutput


class Study:
    """Films of one study, in the order in which the model is to see them: ``engine.report(edge.Study([a, b]))``.

    Parameters
    ----------
    films : sequence
        Each as for :meth:`edge.Engine.report`.

    Raises
    ------
    UsageError
        There is none.
    """

    def __init__(self, films: Sequence[Source | Prepared]) -> None:
        check_list(films, "a study is a list of films, not one")
        self.films = tuple(films)
        if not self.films:
            raise UsageError("a study needs at least one film")


def check_list(films: object, words: str) -> None:
    """Refuse a single film where a list is wanted: one can be iterated over, too, by letters, rows or elements.

    Raises
    ------
    UsageError
        With `words`.
    """
    single = isinstance(films, (str, bytes)) or hasattr(films, "ndim") or hasattr(films, "PixelData")
    if single or not isinstance(films, Iterable):
        raise UsageError(words)


def check_films(count: int, manifest: Manifest) -> None:
    """Whether the model takes so many films at once.

    Raises
    ------
    UsageError
    """
    most = manifest.prefix.images
    if count > most:
        takes = "one film" if most == 1 else f"up to {most} films"
        raise UsageError(f"this model looks at {takes} at a time, not at {count}")


def check_same_study(films: Sequence[Prepared]) -> None:
    """Refuse films whose headers name different studies: a report of two patients would be none.

    Raises
    ------
    UsageError
    """
    uids = {one.film.meta.study_instance_uid for one in films} - {""}
    if len(uids) > 1:
        raise UsageError(f"the films are of {len(uids)} different studies")


def joined(seen: Sequence[VisionOutput]) -> VisionOutput:
    """What the decoder gets of several films: the keys of each behind those of the one before.

    The mask is the first film's.
    """
    import numpy as np

    if len(seen) == 1:
        return seen[0]
    first = seen[0]

    def along(name: str, axis: int) -> Any:
        parts = [getattr(one, name) for one in seen]
        return None if parts[0] is None else np.concatenate(parts, axis)

    return replace(first, keys=along("keys", 2), values=along("values", 2), key_bias=along("key_bias", 1))
