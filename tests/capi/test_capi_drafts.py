# SPDX-License-Identifier: Apache-2.0
"""How the C library is told to draft, with the Python package's words and counts beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from capi import Engine, Library
from capi_build import build
from handmade import chest_picture, make_bundle, make_weights, seal
from safetensors.numpy import save_file
from test_reports import same

import edge

OFF, ALL, SKETCH, ENGINE = 0, 1, 2, -1
PYTHON: dict[int, Any] = {OFF: False, ALL: True, SKETCH: "sketch", ENGINE: None}


def compare(library: Library, bundle: Path, patch: pytest.MonkeyPatch) -> dict[tuple[int, int], dict[str, int]]:
    """Reports in every way to open an engine and to ask it; how each came about."""
    picture, found = chest_picture(), {}
    for opened in (OFF, ALL, SKETCH):
        with library.engine(bundle, draft=opened) as engine:
            patch.setenv("EDGE_ISA", engine.info["software"]["isa"])
            python = edge.load(bundle, threads=1, draft=PYTHON[opened])
            for asked in (ENGINE, OFF, ALL, SKETCH):
                report = engine.report(library.film_of_array(picture), draft=asked)
                same(report, python.report(picture, draft=PYTHON[asked]))
                found[opened, asked] = report["decoding"]
    return found


def test_without_a_copy(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small decoder has none: by it alone nothing is drafted, where table and text do draft."""
    bundle = make_bundle(tmp_path / "bundle", generation={"max_new_tokens": 100})
    for (opened, asked), decoding in compare(library, bundle, monkeypatch).items():
        wanted = opened if asked == ENGINE else asked
        assert (decoding["drafted"] > 0) == (wanted == ALL), (opened, asked)
        assert "sketch_passes" not in decoding


def test_the_table_is_of_an_engine_that_drafts_by_all(library: Library, engine: Engine, demo: Path) -> None:
    picture = library.film_of_array(chest_picture(300))
    with library.engine(demo, draft=SKETCH) as sketching:
        by_text = sketching.report(picture, draft=ALL)
        by_itself = sketching.report(picture)
    by_table = engine.report(picture)
    assert by_table["token_ids"] == by_text["token_ids"] == by_itself["token_ids"]
    assert by_itself["decoding"]["drafted"] == 0
    assert by_text["decoding"]["accepted"] < by_table["decoding"]["accepted"]


def test_other_numbers_draft_by_all(library: Library, engine: Engine, demo: Path) -> None:
    """As they did before there was a third way."""
    picture = library.film_of_array(chest_picture(300))
    with library.engine(demo, draft=7) as other:
        assert other.report(picture)["decoding"] == engine.report(picture)["decoding"]
        assert other.report(picture, draft=9)["decoding"] == engine.report(picture)["decoding"]


@pytest.mark.slow
def test_with_a_copy(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that is large enough, with the processor's own kernels."""
    library = Library(build(tmp_path_factory.mktemp("whole")) / "csrc" / "capi" / "libedge_report.so")
    monkeypatch.setattr(handmade, "MLP", 1 << 17)
    bundle = make_bundle(tmp_path / "bundle", generation={"max_new_tokens": 100})
    weights = make_weights(json.loads((bundle / "manifest.json").read_text())["decoder"]["vocab"])
    for name in weights:
        if "mlp_out.weight" in name:
            weights[name] *= np.float32(0.01)
    save_file(weights, bundle / "decoder.safetensors")
    seal(bundle, json.loads((bundle / "manifest.json").read_text()))
    with library.engine(bundle) as engine:
        if engine.info["software"]["isa"] == "generic":
            pytest.skip("this processor's kernels make no copy")
    for (opened, asked), decoding in compare(library, bundle, monkeypatch).items():
        wanted = opened if asked == ENGINE else asked
        assert ("sketch_passes" in decoding) == (opened != OFF and wanted != OFF), (opened, asked)
        if wanted == SKETCH and opened != OFF:
            assert 0 < decoding["accepted"] <= decoding["drafted"]
