# SPDX-License-Identifier: Apache-2.0
"""The peers decode the same model: what they are timed at is the right work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_bench import reference
from edge_bench.peers import gpt2
from edge_bench.peers.job import Job

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SMALL = {"layers": 2, "hidden": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64, "vocab": 300}
PREFIX, STEPS = 24, 6


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reference shape made small (one dictionary that all share), and larger weights, so that ids differ."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, size in {**SMALL, "max_positions": 128}.items():
        monkeypatch.setitem(reference.SPEC, name, size)
    drawn = reference.random_weights(reference.SPEC)
    louder = {name: array * 8 if array.ndim == 2 else array for name, array in drawn.items()}
    monkeypatch.setattr(gpt2, "weights", lambda: louder)
    for module in ("onnx_decoder", "openvino_decoder", "ctranslate2_peer", "llama_peer"):
        monkeypatch.setattr(f"edge_bench.peers.{module}.weights", lambda: louder)
    return tmp_path


def job(folder: Path, peer: str, weights: str = "fp32") -> Job:
    return Job(peer, weights, "fp32", threads=1, prefix=PREFIX, tokens=STEPS, seconds=1.0, cache=str(folder))


@pytest.fixture
def expected(small: Path) -> list[int]:
    """Greedy ids after the prompt, by transformers without a cache."""
    from edge_bench.peers.transformers_peer import gpt2 as model

    network, ids = model(job(small, "transformers")), gpt2.prompt(PREFIX).tolist()
    with torch.no_grad():
        for _ in range(STEPS):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
    assert len(set(ids[PREFIX:])) > 1
    return ids[PREFIX:]


def greedy(runner: Any) -> list[int]:
    ids = [runner._prefill()]
    while len(ids) < STEPS:
        ids.append(runner._rows([ids[-1]], PREFIX + len(ids) - 1))
    return ids


def test_onnx_runtime(small: Path, expected: list[int]) -> None:
    pytest.importorskip("onnxruntime")
    from edge_bench.peers.onnxruntime_peer import load

    runner = load(job(small, "onnxruntime"))
    assert greedy(runner) == expected
    assert runner.run("decode") > 0
    assert runner.run("prefill") > 0
    quantized = load(job(small, "onnxruntime", "int8"))
    assert quantized.run("decode") > 0


def test_openvino(small: Path, expected: list[int]) -> None:
    pytest.importorskip("openvino")
    from edge_bench.peers.openvino_peer import load

    assert greedy(load(job(small, "openvino"))) == expected
    assert load(job(small, "openvino", "int4")).run("decode") > 0


def test_ctranslate2(small: Path, expected: list[int]) -> None:
    pytest.importorskip("ctranslate2")
    from edge_bench.peers.ctranslate2_peer import load

    runner = load(job(small, "ctranslate2"))
    (written,) = runner._generator.generate_batch(
        [runner._tokens], include_prompt_in_result=False, max_length=STEPS, min_length=STEPS, end_token=[]
    )
    assert written.sequences_ids[0] == expected
    assert runner.run("decode") > 0


def test_transformers(small: Path, expected: list[int]) -> None:
    from edge_bench.peers.transformers_peer import load

    runner = load(job(small, "transformers"))
    assert runner.run("prefill") > 0
    assert runner.run("decode") > 0
    assert runner._cache.get_seq_length() == PREFIX + STEPS
    assert runner.run("decode") > 0
    assert runner._cache.get_seq_length() == PREFIX + STEPS


def test_bfloat16_is_not_emulated(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_bench.peers import transformers_peer
    from edge_bench.peers.job import Missing

    monkeypatch.setattr(transformers_peer, "processor_flags", lambda: ["avx2", "fma"])
    with pytest.raises(Missing, match="no bfloat16 instructions"):
        transformers_peer.load(job(small, "transformers", "bf16"))
    monkeypatch.setattr(transformers_peer, "processor_flags", lambda: ["avx2", "avx512_bf16"])
    assert transformers_peer.load(job(small, "transformers", "bf16")).run("decode") > 0


def test_gguf(small: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from edge_bench.peers.llama_peer import write_gguf

    write_gguf(small / "model.gguf", "q8_0")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(small / "model.gguf").tensors}
    assert len(tensors) == 4 + 12 * SMALL["layers"]
    wide = gguf.quants.dequantize(tensors["blk.1.ffn_up.weight"].data, gguf.GGMLQuantizationType.Q8_0)
    given = gpt2.weights()["layers.1.mlp_in.weight"]
    assert np.abs(wide - given).max() < 0.02 * np.abs(given).max()


@pytest.mark.parametrize("kv", ["fp16", "fp32"])
def test_ours(small: Path, kv: str) -> None:
    from edge_bench.peers.ours_peer import load

    runner = load(Job("ours", "int8", kv, 1, prefix=PREFIX, tokens=STEPS, cache=str(small)))
    assert runner.run("decode") > 0
    assert runner.info["bytes_per_token"] > 0


def test_a_precision_this_build_lacks_is_skipped_with_a_word(small: Path) -> None:
    from edge_bench.peers.job import Missing
    from edge_bench.peers.ours_peer import load

    with pytest.raises(Missing, match="this build does not run int3 weights"):
        load(Job("ours", "int3", "fp16", 1, prefix=PREFIX, tokens=STEPS, cache=str(small)))
