# SPDX-License-Identifier: Apache-2.0
"""How far an export has come, for whoever waits."""

from __future__ import annotations

import shutil
import sys
from typing import Any

PROG = "edge-export"


class Progress:
    """A bar on a terminal, one line per step elsewhere, nothing when quiet; all on stderr."""

    STEPS = 9

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            width = min(shutil.get_terminal_size().columns, 100)
            shape = "{percentage:3.0f}%|{bar:24}| {elapsed} {desc}"
            self.bar = tqdm(total=self.STEPS, bar_format=shape, leave=False, ncols=width)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, step: str) -> None:
        if self.bar is not None:
            self.bar.set_description_str(step, refresh=False)
            self.bar.total = max(self.bar.total, self.bar.n + 1)
            self.bar.update()
        elif not self.quiet:
            print(f"{PROG}: {step}", file=sys.stderr)

    def say(self, note: str) -> None:
        """A line that stays, even when quiet."""
        if self.bar is not None:
            self.bar.write(f"{PROG}: {note}", file=sys.stderr)
        else:
            print(f"{PROG}: {note}", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
