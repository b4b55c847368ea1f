# SPDX-License-Identifier: Apache-2.0
"""A second opinion: optimum's own export of the same folder, run by its ONNX Runtime model, writes the same ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("optimum.onnxruntime")

import encoder_decoder as small  # noqa: E402  (needs torch)
from edge_export.cli import main  # noqa: E402

import edge  # noqa: E402

TOKENS = 24


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("decoder", "cache"), [("gpt2", True), pytest.param("bert", False, marks=pytest.mark.slow)])
def test_same_ids(tmp_path: Path, decoder: str, cache: bool) -> None:
    """Greedy, eight films; optimum exports BERT decoders without a cache only."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForVision2Seq

    from edge.prepare import prepare

    folder = small.save(small.random_model("vit", decoder), tmp_path / "folder", max_length=TOKENS + 1)
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q"]) == 0
    engine = edge.load(tmp_path / "bundle", threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    other = ORTModelForVision2Seq.from_pretrained(folder, export=True, use_cache=cache, session_options=options)
    pictures = (255 * (small.pictures(8)[:, 0] * 0.5 + 0.5)).numpy().astype(np.uint8)
    pixels = np.concatenate([prepare(p, engine.manifest.image, force=True).pixels for p in pictures])
    want = other.generate(torch.from_numpy(pixels), num_beams=1, do_sample=False, max_length=TOKENS + 1)
    texts = set()
    for picture, row in zip(pictures, want, strict=True):
        ids = [int(i) for i in row[1:]]
        ids = ids[: ids.index(small.END)] if small.END in ids else ids
        assert list(engine.report(picture, force=True).token_ids) == ids
        texts.add(tuple(ids))
    assert len(texts) > 1
