# SPDX-License-Identifier: Apache-2.0
"""Running edge-bench, and what a bundle's files say must be read per token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run edge-bench with a small bandwidth buffer; figures mean nothing here and nothing asserts on them."""
    call = [sys.executable, "-P", "-m", "edge_bench.cli", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300)


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
