# SPDX-License-Identifier: Apache-2.0
"""Model families: one folder each, with a ``load`` module that knows the family's checkpoints."""

from __future__ import annotations

from pathlib import Path

LANA, CROSS = "lana", "vision-encoder-decoder"
FAMILIES = (LANA, CROSS)


def family_of(path: Path, asked: str = "auto") -> str:
    """The family to read a checkpoint as: the one asked for, else what a folder's ``config.json`` says."""
    if asked != "auto":
        return asked
    if (path / "config.json").is_file():
        from ..checkpoint import read_json

        if read_json(path / "config.json").get("model_type") == CROSS:
            return CROSS
    return LANA
