# SPDX-License-Identifier: Apache-2.0
"""Numbers on command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable

UNTOLD = 1 << 20
"""A limit from here on is not worth telling."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """A type for :mod:`argparse`: whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            limit = f" to {most}" if most < UNTOLD or value > most else ""
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least}{limit}")
        return value

    return parse
