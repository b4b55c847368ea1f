# SPDX-License-Identifier: Apache-2.0
"""Checkpoints whose weights, or whose configuration beside them, no model can have: exit code 31, one line that says
what, and nothing is written. A geometry given by hand is wrong usage (test_config_limits.py)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import cvt2distilgpt2
import cxrmate
import encoder_decoder as small
import numpy as np
import promptmrg
import torch
from edge_export.cli import main
from edge_export.families.cross.load import load as load_cross
from edge_export.random_checkpoint import make
from safetensors.torch import load_file, save_file

State = dict[str, Any]
LONGITUDINAL = "LongitudinalPromptMultiCXREncoderDecoderModel"
LOW_RANK = "decoder.base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line behind the notes, of an export that is refused."""

    def run(path: Path, *options: str) -> str:
        code = main([str(path), "--out", str(tmp_path / "bundle"), "-q", *options])
        lines = capsys.readouterr().err.splitlines()
        refusals = [line for line in lines if line.startswith(f"edge-export: {path.name}: ")]
        assert (code, len(refusals)) == (31, 1), lines
        assert lines[-1] == refusals[0] or lines[-1].startswith("  ")
        assert not (tmp_path / "bundle").exists()
        return refusals[0]

    return run


def edit(path: Path, change: Callable[[State], object]) -> None:
    """Change a file of weights."""
    pickled = path.suffix != ".safetensors"
    whole = torch.load(path, weights_only=True) if pickled else load_file(path)
    state = whole.get("state_dict", whole)
    change(state)
    if pickled:
        torch.save(whole, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def instead(old: int, new: int) -> Callable[[State], object]:
    """Wherever a dimension is `old`."""

    def change(state: State) -> None:
        state.update(
            {name: torch.zeros([new if d == old else d for d in tensor.shape]) for name, tensor in state.items()}
        )

    return change


def far_away(layer: str, number: int) -> Callable[[State], object]:
    """The weights of a first layer as those of another."""

    def change(state: State) -> None:
        for name in [name for name in state if name.startswith(f"{layer}.0.")]:
            state[name.replace(f"{layer}.0.", f"{layer}.{number}.")] = state.pop(name)

    return change


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A whole checkpoint of a kind, to be copied."""
    kinds: dict[str, Callable[[Path], Path]] = {
        "lana": lambda folder: make("tiny", 4, "hf", folder),
        "vit-gpt2": lambda folder: small.save(small.random_model("vit", "gpt2"), folder),
        "cxrmate": lambda folder: cxrmate.save(cxrmate.random_model(LONGITUDINAL), LONGITUDINAL, folder, low_rank=1.0),
        "promptmrg": lambda folder: promptmrg.save(promptmrg.random_model(retrieved=True), folder),
        "cvt2distilgpt2": lambda folder: cvt2distilgpt2.save(cvt2distilgpt2.random_model(), folder),
    }
    found: dict[str, Path] = {}

    def find(kind: str) -> Path:
        if kind not in found:
            found[kind] = kinds[kind](tmp_path_factory.mktemp(kind) / "checkpoint")
        return found[kind]

    return find


@pytest.fixture
def copy(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    def of(kind: str) -> Path:
        path = made(kind)
        folder = path if path.is_dir() else path.parent
        shutil.copytree(folder, tmp_path / folder.name)
        return tmp_path / folder.name / ("" if path.is_dir() else path.name)

    return of


def weights(path: Path) -> Path:
    return next(file for file in (path / "model.safetensors", path / "pytorch_model.bin", path) if file.is_file())


TEXT, QUERY = "text_decoder.transformer", f"{LOW_RANK}.lora"
WEIGHTS: list[tuple[str, Callable[[State], object], str]] = [
    ("lana", instead(48, 49), "does not divide the width of 49"),
    ("lana", instead(64, 65), "does not divide the width of 65"),
    ("lana", instead(16, 0), "patch_size must be a whole number from 1"),
    ("lana", far_away(f"{TEXT}.h", 300), "decoder_layers must be a whole number from 0 to 256, not 301"),
    ("lana", far_away("vision_encoder.layer", 10**12), "not 1000000000001"),
    ("cxrmate", lambda s: s.update({f"{QUERY}_B.default.weight": torch.zeros(32, 2)}), "[32, 2] x [2, 64] of"),
    ("cxrmate", lambda s: s.update({f"{QUERY}_A.default.weight": torch.zeros(())}), "do not fit"),
    ("cxrmate", lambda s: s.update({f"{QUERY}_A.default.weight": torch.zeros(2, 64).bool()}), "no floating-point"),
    ("cxrmate", lambda s: s.update({f"{LOW_RANK}.weight": torch.zeros(64, 32)}), "of decoder.bert.encoder.layer.0."),
    ("cxrmate", instead(2, 0), "do not fit"),
    ("promptmrg", instead(promptmrg.STATE_IDS[-1] + 1, 0), "word_embeddings.weight [0, 64] tells no geometry"),
    ("promptmrg", lambda s: s.pop("visual_encoder.model.0.weight"), "is not a checkpoint of the family lana"),
    (
        "cvt2distilgpt2",
        lambda s: s.update({"decoder.encoder_decoder.decoder.transformer.wpe.weight": torch.zeros(())}),
        "wpe.weight [] tells no geometry",
    ),
]


@pytest.mark.parametrize(("kind", "change", "words"), WEIGHTS)
def test_weights(
    said: Callable[..., str], copy: Callable[[str], Path], kind: str, change: Callable[[State], object], words: str
) -> None:
    path = copy(kind)
    edit(weights(path), change)
    assert words in said(path, *(["--retrieved", str(path.parent / "reports.npy")] if kind == "promptmrg" else []))


VALUES: list[tuple[str, str, str, Any, str]] = [
    ("lana", "config.json", "image_size", None, "150 new tokens after a prefix of 1028 do not fit the 192 positions"),
    ("vit-gpt2", "config.json", "encoder.hidden_act", 0.5, "hidden_act must be a text"),
    ("vit-gpt2", "config.json", "decoder.activation_function", [1], "activation_function must be a text"),
    ("vit-gpt2", "preprocessor_config.json", "resample", {}, "resample must be a whole number"),
    ("vit-gpt2", "preprocessor_config.json", "image_mean", [0.5, 96, 0.5], "would refuse this bundle: image: 'mean'"),
    ("vit-gpt2", "generation_config.json", "eos_token_id", -1, "would refuse this bundle: generation: 'stop_ids'"),
    ("cxrmate", "config.json", "architectures", 1, "low-rank weights (LoRA)"),
]


@pytest.mark.parametrize(("kind", "file", "key", "value", "words"), VALUES)
def test_values(
    said: Callable[..., str], copy: Callable[[str], Path], kind: str, file: str, key: str, value: Any, words: str
) -> None:
    path = copy(kind)
    change(path / file, key, value)
    assert words in said(path)


def test_a_tokenizer_that_the_runtime_would_refuse(said: Callable[..., str], copy: Callable[[str], Path]) -> None:
    path = copy("vit-gpt2")
    twice = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    change(path / "tokenizer.json", "normalizer", {"type": "Sequence", "normalizers": [twice] * 30})
    assert "its normalizer could make more than" in said(path)


def change(file: Path, key: str, value: Any) -> None:
    values = json.loads(file.read_text())
    *parts, last = key.split(".")
    inner = values
    for part in parts:
        inner = inner[part]
    inner[last] = value
    file.write_text(json.dumps(values))


def test_null_says_nothing_to_the_library_either(copy: Callable[[str], Path]) -> None:
    path = copy("vit-gpt2")
    change(path / "config.json", "encoder.layer_norm_eps", None)
    assert load_cross(path).model.config.encoder.layer_norm_eps == 1e-12


def test_features_that_are_no_numbers(copy: Callable[[str], Path], tmp_path: Path, capsys: Any) -> None:
    path = copy("promptmrg")
    features = path.parent / "reports.npy"
    for array in (np.array(["a", "b"]), np.zeros((2, 16), np.complex64)):
        np.save(features, array)
        assert main([str(path), "--retrieved", str(features), "--out", str(tmp_path / "bundle"), "-q"]) == 22
        assert "reports.npy is not an array of numbers" in capsys.readouterr().err
