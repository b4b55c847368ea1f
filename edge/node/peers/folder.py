# SPDX-License-Identifier: Apache-2.0
"""A folder that gets the objects as files, each whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.cli.output import write_whole
from edge.errors import OutputError
from edge.node.peers.kinds import Away


class FolderReceiver:
    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, files: Sequence[Path]) -> None:
        try:
            for file in files:
                write_whole(str(self._path / file.name), file.read_bytes())
        except (OSError, OutputError) as error:
            raise Away(getattr(error, "strerror", None) or str(error)) from None

    def close(self) -> None:
        pass
