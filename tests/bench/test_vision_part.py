# SPDX-License-Identifier: Apache-2.0
"""``edge-bench vision``: one row per bundle and runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from edge_bench.cli import main


def test_demo_by_one_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vision.json"
    assert main(["vision", "--vision-runtime", "ort", "--rounds", "2", "--threads", "1", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["runtime"], row["precision"]) == ("ort", "int8")
    assert 0 < row["ms"]["min"] <= row["ms"]["p50"]
    assert row["rss_peak_mb"] >= row["rss_mb"] > 30
    assert row["load_ms"] > 0
    assert row["products"] > 10_000_000
    assert 0 < row["share_of_products"] < 1
    assert f"{row['ms']['p50']:.1f}" in capsys.readouterr().out


def test_wrong_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vision", "--vision-runtime", "tflite"]) == 1
    assert capsys.readouterr().err.startswith("edge-bench vision: usage: the vision runtime must be one of")
