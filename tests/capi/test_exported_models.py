# SPDX-License-Identifier: Apache-2.0
"""Bundles of the real exporter: every kind of bias, weight and decoder; with torch, so only with -m slow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capi import Engine, Library
from handmade import chest_picture
from test_reports import same

import edge

sys.path.append(str(Path(__file__).parents[1] / "helpers"))


def compare(library: Library, engine: Engine, bundle: Path, rows: tuple[str | None, ...] = (None,)) -> None:
    with library.engine(bundle) as ours, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_ISA", engine.info["software"]["isa"])
        theirs = edge.load(bundle, threads=1, vision="ort")
        noise = np.random.default_rng(4).integers(0, 255, (90, 70)).astype(np.uint8)
        for picture in (chest_picture(120), noise):
            for choice in rows:
                same(
                    ours.report(library.film_of_array(picture), bias_rows=choice),
                    theirs.report(picture, bias_rows=choice),
                )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "hidden", "layerwise", "gaussian_legacy"])
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_bias_and_weights(library: Library, engine: Engine, tmp_path: Path, kind: str, quantize: str) -> None:
    pytest.importorskip("torch")
    from tiny import tiny_bundle

    options: dict[str, Any] = {"kind": kind, "quantize": quantize, "begin": kind == "hidden", "seed": 1}
    compare(library, engine, tiny_bundle(tmp_path / "bundle", **options), ("all", "prefill", "none"))


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["gpt2", "bert", "roberta", "bart", "mbart"])
def test_cross_attention(library: Library, engine: Engine, tmp_path: Path, decoder: str) -> None:
    pytest.importorskip("torch")
    import encoder_decoder as small
    from edge_export.cli import main

    folder = small.save(small.random_model("vit", decoder), tmp_path / "folder", max_length=32)
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q"]) == 0
    compare(library, engine, tmp_path / "bundle")
