# SPDX-License-Identifier: Apache-2.0
"""Families that are known and not supported: the missing piece is named, before any weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from edge_export.cli import main  # noqa: E402  (needs torch)

LLAMA = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5}
SCALED = {"rope_type": "llama3", "factor": 8.0}
QWEN2 = {"model_type": "qwen2", "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6}
VED = {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit"}}

CONFIGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "maira-2": ({"model_type": "maira2", "text_config": LLAMA}, ["'maira2'", "RMSNorm", "SwiGLU", "rotary positions"]),
    "llama 3": (
        {"model_type": "llava", "text_config": {**LLAMA, "num_key_value_heads": 8, "rope_scaling": SCALED}},
        ["rotary positions with llama3 scaling", "grouped queries (32 heads on 8)"],
    ),
    "radvlm": ({"model_type": "llava_onevision", "text_config": QWEN2}, ["RMSNorm", "grouped queries (28 heads on 4)"]),
    "libra": ({**LLAMA, "model_type": "libra_llama"}, ["'libra_llama'", "SwiGLU"]),
    "qwen2-vl": ({**QWEN2, "model_type": "qwen2_vl"}, ["M-RoPE", "2x2 merge", "RMSNorm"]),
    "chexone": ({**QWEN2, "model_type": "qwen2_5_vl"}, ["attention in windows", "grouped queries"]),
    "cxrmate-ed": ({"model_type": "cxrmate-ed", "text_config": LLAMA}, ["'cxrmate-ed'", "RMSNorm"]),
    "blip-2": ({"model_type": "blip-2", "text_config": {"model_type": "opt"}}, ["query transformer"]),
    "llama behind an encoder": ({**VED, "decoder": {"model_type": "llama"}}, ["RMSNorm, SwiGLU and rotary positions"]),
    "resnet in a folder": (
        {**VED, "encoder": {"model_type": "resnet"}, "decoder": {"model_type": "bert"}},
        ["'resnet'", "feature map"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config, words = CONFIGS[name]
    (folder / "config.json").write_text(json.dumps(config))
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q"]) == 31
    said = capsys.readouterr().err
    assert said.startswith("edge-export: model: checkpoint: model: not supported: ")
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_relational_memory(tmp_path: Path, wrapped: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """R2Gen's state dict, by the names of its weights."""
    one = torch.zeros(2)
    state = {
        "visual_extractor.model.0.weight": one,
        "encoder_decoder.model.rm.attn.linears.0.weight": one,
        "encoder_decoder.model.decoder.layers.0.sublayer.0.norm.mlp_gamma.0.weight": one,
    }
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "model.pth")
    assert main([str(tmp_path / "model.pth"), "--out", str(tmp_path / "bundle"), "-q"]) == 31
    said = capsys.readouterr().err
    assert "not supported: R2Gen's decoder; missing: the relational memory" in said
    assert said.count("\n") == 1


def test_what_is_unknown_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is called missing of a model that nothing is known of."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "something"}')
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q"]) == 31
    assert "is a model of type 'something'" in capsys.readouterr().err
