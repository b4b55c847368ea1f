# SPDX-License-Identifier: Apache-2.0
"""CvT2DistilGPT2's checkpoint: ids equal to ``transformers`` with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import cvt2distilgpt2  # noqa: E402  (needs torch)
import encoder_decoder as small  # noqa: E402
from edge_export.cli import main  # noqa: E402
from gpu_rules import check_vision_graph  # noqa: E402

import edge  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(folder: Path, model: Any, count: int, tokens: int) -> edge.Engine:
    from edge.prepare import prepare

    source = cvt2distilgpt2.save(model, folder / "checkpoint")
    assert main([str(source), "--out", str(folder / "bundle"), "-q"]) == 0
    check_vision_graph(folder / "bundle")
    engine = edge.load(folder / "bundle", threads=2)
    pictures = (255 * (small.pictures(count, 96)[:, 0] * 0.5 + 0.5)).numpy().astype(np.uint8)
    seen = torch.from_numpy(np.concatenate([prepare(p, engine.manifest.image, force=True).pixels for p in pictures]))
    texts = set()
    for beams in (1, 4):
        want = cvt2distilgpt2.write(model, seen, num_beams=beams, max_length=tokens + 1)
        for picture, ids in zip(pictures, want, strict=True):
            report = engine.report(picture, force=True, max_new_tokens=tokens, beams=beams)
            assert list(report.token_ids) == ids
            texts.add(report.token_ids)
    assert len(texts) > count // 2
    return engine


def test_ids(tmp_path: Path) -> None:
    """Few films: the picture has its published size."""
    engine = check(tmp_path, cvt2distilgpt2.random_model(), 5, 24)
    manifest = engine.manifest
    assert (manifest.family, manifest.prefix.grid) == ("cvt2distilgpt2", (24, 24))
    assert (manifest.image["height"], manifest.image["crop_from"]) == (384, (448,))
    assert manifest.generation.begin_ids == (cvt2distilgpt2.BEGIN,)
    assert manifest.generation.stop_ids == (cvt2distilgpt2.END,)
    assert (manifest.generation.max_new_tokens, manifest.generation.rules["beams"]) == (127, 4)
    assert engine._text.decode([cvt2distilgpt2.BEGIN]) == ""


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = cvt2distilgpt2.save(cvt2distilgpt2.random_model(), tmp_path / "checkpoint")
    whole = torch.load(source, weights_only=True)
    for name, message in (
        ("encoder.cvt.stage1.blocks.1.attn.proj_k.bias", "encoder.cvt.encoder.stages.1.layers.1"),
        ("encoder.cvt.stage1.patch_embed.proj.weight", "missing: encoder.cvt.encoder.stages.1.embedding"),
        ("decoder.encoder_decoder.decoder.transformer.wpe.weight", "missing: decoder.transformer.wpe.weight"),
    ):
        left = {key: tensor for key, tensor in whole["state_dict"].items() if key != name}
        torch.save({"state_dict": left}, source)
        assert main([str(source), "--out", str(tmp_path / "bundle"), "-q"]) == 31
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_published_shapes(tmp_path: Path) -> None:
    check(tmp_path, cvt2distilgpt2.random_model((1, 4, 16), 6), 20, 24)
