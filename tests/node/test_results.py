# SPDX-License-Identifier: Apache-2.0
"""What goes to the receivers as text."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pydicom")
sys.path.insert(0, str(Path(__file__).parents[1] / "standard"))
from standard_parts import FILM, make_film, make_report

from edge.node.results import make_objects
from edge.standard.filmheader import film_header


def test_a_text_says_what_the_report_warns_of() -> None:
    report = replace(make_report(), warnings=("anatomy was not found", "the film was taken by force"))
    header = film_header(make_film(), report)
    name, data = make_objects(report, header, ("text",))["text"]
    assert name == f"report.{FILM}.txt"
    lines = data.decode().splitlines()
    assert lines[0] == f"[{report.notice}]"
    assert report.findings in lines
    assert lines[-2:] == ["Warning: anatomy was not found.", "Warning: the film was taken by force."]
    _, plain = make_objects(replace(report, warnings=()), header, ("text",))["text"]
    assert plain.decode().splitlines() == lines[: lines.index(report.findings) + 1]
