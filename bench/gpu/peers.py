# SPDX-License-Identifier: Apache-2.0
"""Decoders of others on the same GPU: PyTorch eager, PyTorch with a CUDA graph, ONNX Runtime CUDA.

All begin with the same random keys and values and write greedy texts: their ids say whether they compute the same.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..stats import median


def random_cache(spec: dict[str, Any], prefix: int) -> tuple[Any, Any]:
    """Keys and values [layers, heads, prefix, head_dim] of every peer, float32."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (spec["layers"], spec["heads"], prefix, spec["head_dim"])
    keys, values = (rng.standard_normal(shape, np.float32) for _ in range(2))
    return keys, values


def greedy(peer: Any, tokens: int) -> tuple[float, list[int]]:
    """Microseconds per token of a greedy text from a fixed first id, and its ids; every one comes to the host, as a
    text needs it."""
    import torch

    with torch.inference_mode():
        peer.rewind()
        ids = torch.zeros(1, dtype=torch.int64, device=peer.model.device)
        text = []
        begin = perf_counter()
        for _ in range(tokens):
            ids = peer.next(ids).argmax(-1)
            text.append(int(ids))
        return (perf_counter() - begin) / tokens * 1e6, text


def torch_peers(spec: dict[str, Any], weights: Any, *, prefix: int, tokens: int, repeat: int, device: str) -> list[Any]:
    """Both PyTorch peers, by turns."""
    import torch

    from .gpt2_torch import Eager, Gpt2, Static

    dtype = torch.float16 if device == "cuda" else torch.float32
    model = Gpt2(spec, weights, device, dtype)
    cache = random_cache(spec, prefix)
    keys, values = (torch.from_numpy(array).to(device=device, dtype=dtype) for array in cache)
    with torch.inference_mode():
        peers = [Eager(model, keys, values), Static(model, keys, values, tokens + 4)]
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    texts: dict[str, list[int]] = {}
    for turn in range(repeat + 1):
        for peer in peers:
            taken, texts[peer.name] = greedy(peer, tokens)
            if turn:
                times[peer.name].append(taken)
    return [row(name, runs, texts[name], device, torch.__version__) for name, runs in times.items()]


def row(name: str, runs: list[float], ids: list[int], device: str, version: str) -> dict[str, Any]:
    """A peer as it goes into the result."""
    return {
        "name": name, "weights": "fp16" if device == "cuda" else "fp32", "us_per_token": round(median(runs), 2),
        "runs": [round(t, 2) for t in runs], "ids": ids, "version": version,
    }  # fmt: skip


def measure(
    name: str, *, prefix: int, tokens: int, repeat: int, device: str, spec: Any = None, weights: Any = None
) -> dict[str, Any]:
    """The peers of one framework.

    Parameters
    ----------
    name : {"pytorch", "onnxruntime"}
    prefix, tokens, repeat : int
    device : {"cuda", "cpu"}
    spec, weights : optional
        Default: the reference shape.
    """
    from .. import reference
    from .onnx_peer import onnxruntime_peer

    spec = reference.SPEC if spec is None else spec
    weights = reference.decoder_weights("none", lambda line: None) if weights is None else weights
    options = {"prefix": prefix, "tokens": tokens, "repeat": repeat, "device": device}
    if name == "pytorch":
        return {"peers": torch_peers(spec, weights, **options)}
    return {"peers": [onnxruntime_peer(spec, weights, **options)]}
