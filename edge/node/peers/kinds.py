# SPDX-License-Identifier: Apache-2.0
"""What every receiver can do, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Away(Exception):
    """The receiver cannot be reached, or is busy: nothing is wrong with the object. Its text is fit for a log."""


class Refused(Exception):
    """The receiver does not want this object. Its text is fit for a log."""


class Receiver(Protocol):
    """One receiver of results; used by one thread."""

    def send(self, files: Sequence[Path]) -> None:
        """Deliver the objects of one film; again is without harm.

        Raises
        ------
        Away, Refused
        """

    def close(self) -> None:
        """End what is open; the next :meth:`send` opens it again."""
