# SPDX-License-Identifier: Apache-2.0
"""Bundles to time: hand-made ones, and what the files say must be read per token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for folder in ("runtime", "helpers"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run edge-bench with a small bandwidth buffer; figures mean nothing here and nothing asserts on them."""
    call = [sys.executable, "-m", "edge_bench.cli", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300)


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


def bytes_from_files(bundle: Path, tokens: int) -> int:
    """Bytes per decode step from the bundle's files alone: the safetensors header and the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    spec = manifest["decoder"]
    data = (bundle / manifest["weights"]).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    weights = 0
    for name, entry in header.items():
        is_unread_embedding = name.startswith("embed.") and not spec["tied_head"]
        if name != "positions.weight" and not is_unread_embedding:
            weights += entry["data_offsets"][1] - entry["data_offsets"][0]
    fed = range(1, tokens)  # the first token comes from the vision graph, the last one is fed to no step
    keys = [manifest["prefix"]["length"] + len(manifest["generation"]["begin_ids"]) + j for j in fed]
    item = 4 if manifest["precision"] == "fp32" else 2
    row = 2 * spec["layers"] * spec["heads"] * spec["head_dim"] * item
    return weights + round(row * sum(keys) / len(keys))
