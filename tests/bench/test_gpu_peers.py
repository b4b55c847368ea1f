# SPDX-License-Identifier: Apache-2.0
"""The GPU's peers on the CPU, in float32, with real numbers: one that computes something else is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edge_bench.gpu import peers
from edge_bench.peers import onnx_decoder
from edge_bench.reference import random_weights

from edge.decoder import Decoder

torch = pytest.importorskip("torch")

SPEC: dict[str, Any] = {
    "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp": 128, "vocab": 90,
    "max_positions": 64, "norm": "layernorm", "norm_position": "pre", "norm_eps": 1e-5,
    "activation": "gelu_tanh", "positions": "learned", "position_offset": 2, "tied_head": True,
}  # fmt: skip
WEIGHTS = {name: array * 8 if array.ndim == 2 else array for name, array in random_weights(SPEC).items()}
OPTIONS: dict[str, Any] = {
    "prefix": 20, "tokens": 24, "repeat": 1, "device": "cpu", "spec": SPEC, "weights": WEIGHTS
}  # fmt: skip


def text() -> list[int]:
    """Of our decoder, from the same keys and values."""
    decoder = Decoder(SPEC, WEIGHTS, threads=1)
    decoder.set_prefix(*peers.random_cache(SPEC, OPTIONS["prefix"]))
    ids = [0]
    for _ in range(OPTIONS["tokens"]):
        ids.append(int(decoder.forward(ids[-1:])[-1].argmax()))
    assert len(set(ids)) > 8  # a text that says something
    return ids[1:]


def test_logits_of_pytorch() -> None:
    from edge_bench.gpu.gpt2_torch import Eager, Gpt2, Static

    keys, values = peers.random_cache(SPEC, 20)
    decoder = Decoder(SPEC, WEIGHTS, threads=1)
    decoder.set_prefix(keys, values)
    ids = [3, 17, 80, 5]
    want = decoder.forward(ids)
    model = Gpt2(SPEC, WEIGHTS, "cpu", torch.float32)
    there = [torch.from_numpy(array) for array in (keys, values)]
    with torch.inference_mode():
        for peer in (Eager(model, *there), Static(model, *there, 8)):
            for _ in range(2):  # the second time after a rewind
                got = [peer.next(torch.tensor([i]))[0].numpy().copy() for i in ids]
                np.testing.assert_allclose(np.stack(got), want, atol=2e-4)
                peer.rewind()


def test_texts_of_pytorch() -> None:
    from edge_bench.gpu.gpt2_torch import Eager, Static

    found = peers.measure("pytorch", **OPTIONS)["peers"]
    assert [peer["name"] for peer in found] == [Eager.name, Static.name]
    assert all(peer["ids"] == text() and peer["us_per_token"] > 0 for peer in found)


def test_texts_of_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of PyTorch, to the last one; a graph that computes something else has others."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from edge_bench.gpu import onnx_peer

    [found] = peers.measure("onnxruntime", **OPTIONS)["peers"]
    assert found["name"] == "ONNX Runtime CPU, GroupQueryAttention, operator by operator"
    assert found["ids"] == text() == peers.measure("pytorch", **OPTIONS)["peers"][0]["ids"]
    # Rows of a text before are in the cache, and must not be seen.
    [again] = peers.measure("onnxruntime", **OPTIONS | {"repeat": 3})["peers"]
    assert again["ids"] == found["ids"]
    wrong = WEIGHTS | {"layers.1.qkv.bias": WEIGHTS["layers.1.qkv.bias"] + np.float32(0.5)}
    [other] = peers.measure("onnxruntime", **OPTIONS | {"weights": wrong})["peers"]
    assert other["ids"] != found["ids"]
    assert onnx_peer.RECORDED not in found["name"]


def test_the_cache_is_not_copied() -> None:
    """What a step writes lies in the array that was bound, and nothing else of the cache changes."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from edge_bench.gpu.onnx_peer import Step

    keys, values = peers.random_cache(SPEC, 20)
    graph = onnx_decoder.build(SPEC, WEIGHTS, room=30).SerializeToString()
    step = Step(graph, SPEC, (keys, values), 30, "cpu", record=False)
    step.write(3)
    held = step.cache[0].numpy()[0]
    np.testing.assert_array_equal(held[:, :20], keys[0])
    assert np.abs(held[:, 20:23]).min(axis=(0, 2)).all()
    assert not held[:, 23:].any()
