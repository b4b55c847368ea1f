# SPDX-License-Identifier: Apache-2.0
"""What to write instead of the name of a folder."""

from __future__ import annotations

import os
import shlex
from collections import deque
from itertools import islice

MOST = 2000
"""Entries looked at: a message need not search an archive."""
_SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")


def films_in(folder: str) -> str:
    """A pattern for the films that lie in a folder, or in the first one beneath it that holds files; for a shell.

    A study on a disc is folders in folders, and its files have no suffix.
    """
    left, places = MOST, deque([folder])
    while places and left > 0:
        place = places.popleft()
        inner, names = [], []
        try:
            with os.scandir(place) as entries:
                for entry in islice(entries, left):
                    left -= 1
                    if entry.name.startswith(".") or entry.name.upper() == "DICOMDIR":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        inner.append(entry.path)
                    else:
                        names.append(entry.name)
        except OSError:
            continue
        if names:
            return _pattern(place, names)
        places.extend(sorted(inner))
    return _pattern(folder, ["film.dcm"])


def _pattern(folder: str, names: list[str]) -> str:
    kinds = {os.path.splitext(name)[1] for name in names}
    known = [kind for suffix in _SUFFIXES for kind in sorted(kinds) if kind.lower() == suffix]
    return os.path.join(shlex.quote(folder.rstrip(os.sep) or os.sep), "*" + (known[0] if known else ""))
