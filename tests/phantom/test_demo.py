# SPDX-License-Identifier: Apache-2.0
"""The bundle that is shipped: its size, what it says about itself, and that it reads unseen phantoms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from edge_export.phantom.evaluate import evaluate
from edge_export.phantom.labeller import label

import edge
from edge.bundle import Bundle

SAMPLE = Path(__file__).parents[2] / "examples" / "phantom.dcm"
SAMPLE_LABELS = {"cardiomegaly", "effusion_right_small", "opacity_left_upper"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(None)


def test_it_is_small_and_int8(bundle: Bundle) -> None:
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) <= 16_000_000
    assert bundle.manifest.precision == "int8"


def test_it_says_what_it_is(bundle: Bundle) -> None:
    assert bundle.manifest.synthetic
    assert "phantoms" in bundle.manifest.notice
    assert "not for clinical use" in bundle.manifest.notice
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "not for clinical use" in card


def test_the_card_holds_the_scores(bundle: Bundle) -> None:
    card = (bundle.path / "MODEL_CARD.md").read_text()
    fp32 = re.search(r"against fp32: macro-F1 ([\d.]+), labels agree ([\d.]+)", card)
    dice = re.search(r"mask Dice ([\d.]+)", card)
    assert fp32 is not None
    assert float(fp32[1]) >= 0.90
    assert float(fp32[2]) >= 0.99
    assert dice is not None
    assert float(dice[1]) >= 0.95


def test_unseen_phantoms() -> None:
    """A small sample of what `edge-phantom evaluate` runs on 500: well below the figure, so chance cannot fail it."""
    scores = evaluate(24, 77, long_side=640)
    assert scores["micro_f1"] >= 0.80
    assert scores["mask_dice"] >= 0.94
    assert scores["stopped"] >= 0.95


def test_films_are_drawn_where_opencv_has_threads_already(tmp_path: Path) -> None:
    """A forked process would wait for them for ever."""
    program = tmp_path / "program.py"
    program.write_text(
        "import cv2, numpy\n"
        "from edge_export.phantom.evaluate import _films\n"
        "if __name__ == '__main__':\n"
        "    cv2.setNumThreads(4)\n"
        "    cv2.GaussianBlur(numpy.zeros((3000, 3000), numpy.float32), (31, 31), 3)\n"
        "    print(len(list(_films(2, 1, 300, 32, 1))))\n"
    )
    run = subprocess.run([sys.executable, "-P", str(program)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr


def test_the_sample_film_is_read_right() -> None:
    report = edge.load().report(SAMPLE)
    assert label(report.findings) == SAMPLE_LABELS
    assert report.stop_reason == "stop"
    assert report.to_dict()["model"]["name"] == "edge-phantom-demo"


def test_the_command_on_the_sample_film(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "edge.cli.report", str(SAMPLE), "--format", "json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "not for clinical use" in run.stderr
    report = json.loads(run.stdout)
    assert label(report["findings"]) == SAMPLE_LABELS
    assert "not for clinical use" in json.dumps(report)
