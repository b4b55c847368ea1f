# SPDX-License-Identifier: Apache-2.0
"""Folders whose configuration no model can have: one line names the field, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small
from edge_export.cli import main
from edge_export.families.cross.load import load as load_cross
from edge_export.families.lana.load import load
from edge_export.random_checkpoint import make

VISION, TEXT, SEGMENTER = (f"bundled_backbones/{name}/config.json" for name in ("vision", "text", "segmentation"))
PROCESSOR, GENERATION = "preprocessor_config.json", "generation_config.json"
LANA: list[tuple[str, str, Any]] = [
    *[("config.json", "mask_size", value) for value in (0, -1, "32", 1.5, True, [32], 1e30)],
    *[("config.json", "num_attention_layers", value) for value in (-1, 0, 257)],
    *[("config.json", "image_size", value) for value in (0, -512, 1 << 20, "512")],
    ("config.json", "max_position_embeddings", 0),
    ("config.json", "visual_feature_dim", -384),
    ("config.json", "text_hidden_size", 0),
    ("config.json", "vocab_size", 0),
    ("config.json", "visual_projection_type", 4),
    ("config.json", "vision_feature_prefix_tokens_to_skip", -1),
    ("config.json", "anatomical_attention_bias", float("nan")),
    ("config.json", "layer_mask_base_kernel_size", 0),
    ("config.json", "layer_mask_kernel_growth", -2),
    ("config.json", "generation_repetition_penalty", "high"),
    ("config.json", "generation_repetition_penalty", 0),
    ("config.json", "generation_use_bos_token", "yes"),
    ("config.json", "generation_stop_on_eos", 2),
    ("config.json", "use_segmentation_mask", "false"),
    ("config.json", "segmenter_weights_in_model_state", []),
    ("config.json", "bundled_text_model_name", 7),
    (VISION, "num_attention_heads", 0),
    (VISION, "hidden_size", -48),
    (VISION, "num_register_tokens", -4),
    (TEXT, "n_head", -4),
    (TEXT, "n_layer", 0),
    (TEXT, "n_positions", 0),
    (SEGMENTER, "depths", [3, 3, -27, 3]),
    (SEGMENTER, "hidden_sizes", [0, 1, 2, 3]),
    (PROCESSOR, "size", {"height": 0, "width": 0}),
    (PROCESSOR, "size", {"height": 64, "width": 96}),
    (PROCESSOR, "image_mean", [0.5, 0.5]),
    (PROCESSOR, "image_std", [0.5, 0.0, 0.5]),
]
CROSS: list[tuple[str, str, Any]] = [
    *[("encoder", "hidden_size", value) for value in (0, -48, "48", 48.0)],
    ("encoder", "num_hidden_layers", -1),
    ("encoder", "num_attention_heads", 0),
    ("encoder", "image_size", [64, -64]),
    ("encoder", "patch_size", 0),
    ("encoder", "hidden_dropout_prob", 2),
    ("encoder", "layer_norm_eps", -1e-5),
    ("decoder", "n_layer", 0),
    ("decoder", "n_head", -4),
    ("decoder", "vocab_size", 0),
    ("decoder", "n_positions", "96"),
    ("decoder", "layer_norm_epsilon", 0),
    ("decoder", "num_beams", 0),
    (PROCESSOR, "size", {"shortest_edge": -5}),
    (PROCESSOR, "crop_size", 0),
    (PROCESSOR, "crop_pct", "most"),
    (PROCESSOR, "rescale_factor", 0),
    (PROCESSOR, "image_std", [0.5, 0.0, 0.5]),
    (PROCESSOR, "do_normalize", "no"),
    (GENERATION, "num_beams", -1),
    (GENERATION, "repetition_penalty", 0.0),
    (GENERATION, "max_new_tokens", 0),
    (GENERATION, "min_length", -3),
    (GENERATION, "no_repeat_ngram_size", -1),
    (GENERATION, "early_stopping", "soon"),
]


@pytest.fixture(scope="module")
def lana(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("tiny", 4, "hf", tmp_path_factory.mktemp("lana") / "folder")


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.save(small.random_model("vit", "gpt2"), tmp_path_factory.mktemp("cross") / "folder")


def changed(folder: Path, target: Path, file: str, key: str, value: Any) -> Path:
    """A copy of a folder with one other value, in a file or in a part of ``config.json``."""
    shutil.copytree(folder, target)
    path = target / (file if file.endswith(".json") else "config.json")
    values = json.loads(path.read_text()) if path.is_file() else {}
    (values if file.endswith(".json") else values[file])[key] = value
    path.write_text(json.dumps(values))
    return target


def refused(folder: Path, tmp_path: Path, key: str, said: str, code: int) -> None:
    (line,) = said.splitlines()
    assert code == 31
    assert line.startswith(f"edge-export: {folder.name}: checkpoint: {folder.name}")
    assert f": {key} must be " in line
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("file", "key", "value"), LANA)
def test_lana(lana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, key: str, value: Any) -> None:
    folder = changed(lana, tmp_path / "bad", file, key, value)
    code = main([str(folder), "--out", str(tmp_path / "bundle"), "-q"])
    refused(folder, tmp_path, key, capsys.readouterr().err, code)


@pytest.mark.parametrize(("file", "key", "value"), CROSS)
def test_encoder_decoder(
    cross: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, key: str, value: Any
) -> None:
    folder = changed(cross, tmp_path / "bad", file, key, value)
    code = main([str(folder), "--out", str(tmp_path / "bundle"), "-q"])
    refused(folder, tmp_path, key, capsys.readouterr().err, code)


def test_null_says_nothing(lana: Path, cross: Path, tmp_path: Path) -> None:
    for number, key in enumerate(("mask_size", "attention_bias_mode", "max_position_embeddings", "image_size")):
        load(changed(lana, tmp_path / f"lana{number}", "config.json", key, None))
    load(changed(lana, tmp_path / "heads", VISION, "num_register_tokens", None))
    for number, key in enumerate(("rescale_factor", "image_mean", "size")):
        load_cross(changed(cross, tmp_path / f"cross{number}", PROCESSOR, key, None))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": 8}, "image_size 8 is less than one patch of 16"),
        ({"image_size": "large"}, "image_size must be a whole number"),
        ({"skip_tokens": 6}, "skip_tokens (vision_feature_prefix_tokens_to_skip) 6 is more than the 5 tokens before"),
        ({"skip_tokens": -1}, "skip_tokens must be a whole number from 0"),
        ({"encoder_heads": 5}, "encoder_heads (num_attention_heads) 5 does not divide the width of 48"),
        ({"decoder_heads": 0}, "decoder_heads must be a whole number from 1"),
        ({"bias": {"kernel_base": -1}}, "kernel_base must be a whole number from 1"),
        ({"bias": {"strength": "strong"}}, "strength must be a number"),
    ],
)
def test_a_geometry_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], words: str
) -> None:
    checkpoint = make("tiny", 4, "flat", tmp_path / "net.pth")
    (tmp_path / "own.json").write_text(json.dumps(values))
    command = [str(checkpoint), "--config", str(tmp_path / "own.json"), "--out", str(tmp_path / "bundle"), "-q"]
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
