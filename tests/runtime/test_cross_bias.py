# SPDX-License-Identifier: Apache-2.0
"""A model whose decoder reads the image by cross-attention, with segmenters: the anatomical bias, the mask, and what
the rows that get the bias change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from handmade import (
    GRID,
    HIDDEN,
    LAYERS,
    chest_picture,
    make_bundle,
    make_graph,
    make_weights,
    seal,
)  # fmt: skip
from safetensors.numpy import save_file

import edge
from edge.decoder import Decoder, GenerationOptions

BEGIN = 7


def cross_graph(vocab: int) -> onnx.ModelProto:
    """The hand-made graph, whose keys and values are now those of a cross-attention: no row of it attends."""
    model = make_graph(vocab)
    graph = model.graph
    gone = {"plain_logits", "bias_logits", "switched", "first_logits"}
    nodes = [node for node in graph.node if node.output[0] not in gone]
    for node in nodes:
        for index, name in enumerate(node.output):
            node.output[index] = name.replace("prefix_", "cross_")
    outputs = [output for output in graph.output if output.name != "first_logits"]
    for output in outputs:
        output.name = output.name.replace("prefix_", "cross_")
    inputs = [value for value in graph.input if value.name == "pixels"]
    parts = [part for part in graph.initializer if part.name not in ("w", "wb", "one")]
    whole = onnx.helper.make_graph(nodes, "cross", inputs, outputs, parts)
    return onnx.helper.make_model(whole, opset_imports=model.opset_import, ir_version=8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_bundle(
        tmp_path_factory.mktemp("cross") / "bundle",
        decoder={"cross_keys": GRID * GRID},
        generation={"begin_ids": [BEGIN], "repetition_penalty": 1.0},
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    vocab = manifest["decoder"]["vocab"]
    (folder / "vision.onnx").write_bytes(cross_graph(vocab).SerializeToString())
    rng = np.random.default_rng(5)
    weights = make_weights(vocab)
    for i in range(LAYERS):
        for name in ("cross_q", "cross_out"):
            weights[f"layers.{i}.{name}.weight"] = rng.standard_normal((HIDDEN, HIDDEN)).astype(np.float32) * 0.5
            weights[f"layers.{i}.{name}.bias"] = np.zeros(HIDDEN, np.float32)
        weights[f"layers.{i}.cross_norm.weight"] = np.ones(HIDDEN, np.float32)
        weights[f"layers.{i}.cross_norm.bias"] = np.zeros(HIDDEN, np.float32)
    save_file(weights, folder / "decoder.safetensors")
    manifest.pop("files")
    seal(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def engine(bundle: Path) -> edge.Engine:
    return edge.load(bundle, threads=2)


def test_rows(engine: edge.Engine) -> None:
    """Text, log-probabilities and evidence are the kernel's with the bias of the graph in these rows."""
    film = chest_picture()
    reports = {rows: engine.report(film, bias_rows=rows) for rows in ("all", "prefill", "none")}
    assert len({report.logprobs for report in reports.values()}) == 3
    assert reports["prefill"].logprobs[0] == reports["all"].logprobs[0] != reports["none"].logprobs[0]
    seen = engine._vision.run(_pixels(engine, film), bias=True)
    manifest = engine.manifest
    decoder = Decoder(manifest.decoder, engine.bundle.weights(), threads=1, evidence_layers=[1])
    options = GenerationOptions(begin_ids=(BEGIN,), suppressed_ids=(0,), max_new_tokens=24, draft=False)
    for rows, report in reports.items():
        decoder.set_prefix(seen.keys, seen.values, seen.key_bias)  # type: ignore[arg-type]
        text = decoder.generate(None, options.but(bias_rows=rows))
        assert list(report.token_ids) == text.token_ids
        assert report.logprobs == tuple(float(p) for p in text.logprobs)
        assert report.model["bias_rows"] == rows
        assert report.mask is not None
        assert report.mask.shape == (2 * GRID, 2 * GRID)
        assert report.cache["image_keys"] == report.cache["image_keys_kept"] == LAYERS * GRID * GRID
    plain = Decoder(manifest.decoder, engine.bundle.weights(), threads=1)
    plain.set_prefix(seen.keys, seen.values)  # type: ignore[arg-type]
    assert plain.generate(None, options).token_ids == list(reports["none"].token_ids)


def _pixels(engine: edge.Engine, film: np.ndarray) -> Any:
    from edge.prepare import prepare

    return prepare(film, engine.manifest.image).pixels


def test_beams_and_several_films(engine: edge.Engine) -> None:
    films = [chest_picture(), chest_picture()[:, ::-1].copy(), np.roll(chest_picture(), 9, 0)]
    for beams in (1, 4):
        alone = [engine.report(film, beams=beams) for film in films]
        assert len({report.token_ids for report in alone}) > 1
        made = list(engine.reports(films, at_once=3, beams=beams))
        assert [(r.token_ids, r.logprobs) for r in made] == [(r.token_ids, r.logprobs) for r in alone]
        assert made[0].model["bias_rows"] == "all"


def test_a_bias_behind_the_image_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["bias"] |= {"kind": "layerwise", "span": "sequence", "sequence_length": 40}
    manifest.pop("files")
    seal(folder, manifest)
    with pytest.raises(edge.EdgeError, match="no text keys"):
        edge.load(folder)
