# SPDX-License-Identifier: Apache-2.0
"""Bundles to time: hand-made ones, and what the files say must be read per token."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for folder in ("runtime", "helpers"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

from bench_harness import bench  # noqa: E402


@pytest.fixture(scope="session")
def small_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from handmade import chest_picture
    from PIL import Image

    path = tmp_path_factory.mktemp("films") / "small.png"
    Image.fromarray(chest_picture()).save(path)
    return path


@pytest.fixture
def timed(tmp_path: Path) -> Any:
    """A function that times a bundle: the JSON's content and the text."""

    def run(*arguments: str | Path) -> tuple[dict[str, Any], str]:
        path = tmp_path / "figures.json"
        done = bench("--threads", "1", "--repeat", "3", "--buffer-mb", "16", "--json", path, *arguments)
        assert done.returncode == 0, done.stderr
        assert sorted(p.name for p in tmp_path.glob("*figures*")) == ["figures.json"]
        return json.loads(path.read_text()), done.stdout

    return run


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    """A peer on PyTorch switches gradients off, as its process is its own; here it shares one with other tests."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)
