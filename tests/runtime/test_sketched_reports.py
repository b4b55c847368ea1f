# SPDX-License-Identifier: Apache-2.0
"""Reports of a float32 bundle that drafts for itself: the same, and the JSON says how they came about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import chest_picture, make_bundle

import edge
import edge.decoder


class Sketching(edge.decoder.Decoder):
    """A sketch however small the decoder is, where one is not ruled out."""

    def __init__(self, *args: Any, sketch: bool | None = None, **options: Any) -> None:
        super().__init__(*args, sketch=True if sketch is None else sketch, **options)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(edge.decoder, "Decoder", Sketching)
    return make_bundle(tmp_path / "bundle", generation={"max_new_tokens": 40, "stop_ids": []})


def told(report: edge.Report) -> dict[str, Any]:
    """The JSON without what may differ."""
    found: dict[str, Any] = json.loads(report.to_json())
    return {key: value for key, value in found.items() if key not in ("timings_ms", "tokens_per_s", "decoding")}


def test_the_same_reports(bundle: Path) -> None:
    engine, picture = edge.load(bundle, threads=1), chest_picture()
    plain, drafted, sketched = (engine.report(picture, draft=draft) for draft in (False, True, "sketch"))
    assert told(plain) == told(drafted) == told(sketched)
    assert "sketch_passes" not in plain.decoding
    for report in (drafted, sketched):
        assert 0 < report.decoding["accepted"] <= report.decoding["drafted"]
        assert report.decoding["sketch_passes"] > 0
        assert report.decoding["passes"] < plain.decoding["passes"]
        assert json.loads(report.to_json())["decoding"] == report.decoding


def test_an_engine_without(bundle: Path) -> None:
    engine = edge.load(bundle, threads=1, draft=False)
    assert "sketch_passes" not in engine.report(chest_picture(), draft=True).decoding


@pytest.mark.parametrize("draft", [1, np.True_, "sketch"])
def test_what_drafts(bundle: Path, draft: Any) -> None:
    assert edge.load(bundle, threads=1, draft=draft).report(chest_picture()).decoding["sketch_passes"] > 0


def test_what_is_no_way_to_draft(bundle: Path) -> None:
    with pytest.raises(edge.UsageError, match="draft must be true, false or 'sketch'"):
        edge.load(bundle, draft="often")  # type: ignore[arg-type]
    with pytest.raises(edge.UsageError, match="draft"):
        edge.load(bundle, threads=1).report(chest_picture(), draft="sometimes")  # type: ignore[arg-type]
