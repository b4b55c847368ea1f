# SPDX-License-Identifier: Apache-2.0
"""The encoders of encoder-decoders in OpenVINO: a graph with fixed ranges beside the one for ONNX Runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small  # noqa: E402  (needs torch)
from edge_export.cli import main  # noqa: E402
from edge_export.families.cross.encoders import EncoderTokens  # noqa: E402
from test_cross_families import image_keys, kinds  # noqa: E402

import edge  # noqa: E402
from edge.bundle import Bundle  # noqa: E402
from edge.vision import VisionSession  # noqa: E402

WIDE: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 384,
            "patch_size": 16},
    "dinov2_with_registers": {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2,
                              "patch_size": 8, "image_size": 80},
    "swinv2": {"embed_dim": 96, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 4},
}  # fmt: skip
"""So wide that products of bytes are worth it."""


@pytest.mark.parametrize("encoder", WIDE)
def test_keys_and_reports(tmp_path: Path, encoder: str) -> None:
    """Keys and values are the model's, give or take the rounding; the report says who computed them."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model = small.random_model(encoder, "gpt2", full={"encoder": WIDE[encoder]})
    with torch.no_grad():
        for name, weight in model.named_parameters():  # texts that survive rounding
            inner = weight.ndim == 2 and ("decoder.transformer.h." in name or "encoder" in name)
            weight.mul_(0.3 if inner else 1.0)
    source = small.save(model, tmp_path / "folder")
    out = tmp_path / "bundle"
    assert main([str(source), "--out", str(out), "--quantize", "int8", "--openvino-graph", "-q"]) == 0
    assert json.loads((out / "manifest.json").read_text())["graphs"]["vision_static"] == "vision.static.onnx"
    card = (out / "MODEL_CARD.md").read_text()
    assert re.search(r"fixed int8 ranges too, for OpenVINO: [1-9]", card)
    assert "Dice" not in card
    bundle = Bundle.open(out)
    size = bundle.manifest.image["height"]
    session = VisionSession(bundle, runtime="openvino", threads=2)
    with torch.no_grad():
        decoder = kinds.DECODERS["gpt2"](model.decoder)
        tokens = EncoderTokens(model)
        for pixels in small.pictures(3, size):
            seen = session.run(pixels[None].numpy(), bias=False)
            for got, want in zip((seen.keys, seen.values), image_keys(decoder, tokens(pixels[None])), strict=True):
                assert 0 < np.mean((got - want) ** 2) < 0.02 * np.mean(want**2)
    picture = np.random.default_rng(0).integers(0, 255, (90, 70)).astype(np.uint8)
    reports = [edge.load(out, vision=name, threads=2).report(picture, force=True) for name in ("ort", "openvino")]
    assert [report.software["vision"] for report in reports] == ["ort", "openvino"]
    assert all(report.token_ids for report in reports)


def test_too_small_for_bytes(tmp_path: Path) -> None:
    source = small.save(small.random_model("vit", "bert"), tmp_path / "folder")
    out = ["--out", str(tmp_path / "bundle"), "--quantize", "int8", "--openvino-graph", "-q"]
    assert main([str(source), *out]) == 0
    assert Bundle.open(tmp_path / "bundle").manifest.vision_static_file


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--openvino-graph"], "needs quantize int8 or int4"),
        (["--gpu-graph"], "leave out --gpu-graph"),
        (["--prefill", "kernel"], "no prefix to prefill"),
    ],
)
def test_refused(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that means nothing here is not passed over in silence."""
    source = small.save(small.random_model("vit", "gpt2"), tmp_path / "folder")
    assert main([str(source), "--out", str(tmp_path / "bundle"), "-q", *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
