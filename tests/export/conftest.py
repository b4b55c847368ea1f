# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the exporter's tests; one export of each kind serves all tests of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """``exported(**options)``: the tiny model and its bundle; the same options give the same folder."""
    pytest.importorskip("torch")
    from tiny import tiny_bundle, tiny_model

    made: dict[str, tuple[Any, Path]] = {}

    def make(
        *,
        kind: str = "gaussian",
        connector: str = "linear",
        skip_tokens: int = 5,
        segmenter: bool = True,
        tied_head: bool = True,
        shared_trunk: bool = True,
        strength: float | None = None,
        seed: int = 0,
        **options: Any,
    ) -> tuple[Any, Path]:
        shape = {
            "kind": kind,
            "connector": connector,
            "skip_tokens": skip_tokens,
            "segmenter": segmenter,
            "tied_head": tied_head,
            "shared_trunk": shared_trunk,
            "strength": strength,
        }
        key = repr(sorted({**shape, **options, "seed": seed}.items()))
        if key not in made:
            model = tiny_model(seed, **shape)
            folder = tmp_path_factory.mktemp("export") / "bundle"
            made[key] = (model, tiny_bundle(folder, model=model, **options))
        return made[key]

    return make
