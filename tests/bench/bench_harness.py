# SPDX-License-Identifier: Apache-2.0
"""Running edge-bench, and what a bundle's files say must be read per token."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest

STAGES = ["dicom", "preprocess", "vision", "prefill", "first_token", "decode", "total"]
ROUNDED = 0.0005
"""What a figure of three decimals may be off."""


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run edge-bench with a small bandwidth buffer; figures mean nothing here and nothing asserts on them."""
    call = [sys.executable, "-P", "-m", "edge_bench.cli", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300)


def check_times(run: Mapping[str, float]) -> None:
    """Milliseconds of a report: its stages come one after the other.

    The prefill is a part of the vision stage. It takes microseconds, but as long as one likes where another program
    gets the processor meanwhile.
    """
    assert list(run) == STAGES
    in_turn = [stage for stage in STAGES if stage not in ("prefill", "total")]
    assert run["total"] >= sum(run[stage] for stage in in_turn) - len(STAGES) * ROUNDED
    assert run["prefill"] <= run["vision"] + 2 * ROUNDED


def check_bandwidth(gbps: float, measured: Mapping[str, Any], beside: Sequence[float]) -> None:
    """The bandwidth is the median of all measurements, and beside a run the mean of those before and after it.

    Measurements are written down in thousandths of GB/s, and on a loaded machine they can be few.
    """
    values = [value for when in ("before", "between", "after") for value in measured[when]]
    assert gbps > 0
    assert gbps == pytest.approx(median(values), abs=2 * ROUNDED)
    for i, one in enumerate(beside):  # the reports come first
        assert one == pytest.approx(mean(measured["between"][2 * i : 2 * i + 2]), abs=2 * ROUNDED)


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
