# SPDX-License-Identifier: Apache-2.0
"""Decoders of others on the same GPU: PyTorch eager, PyTorch with a CUDA graph, ONNX Runtime CUDA.

Run as a child, so that a peer that fails, or takes the memory with it, costs one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..stats import median


def greedy(peer: Any, tokens: int) -> float:
    """Microseconds per token of a greedy text from a fixed first id; every id comes to the host, as a text needs it."""
    import torch

    with torch.inference_mode():
        peer.rewind()
        ids = torch.zeros(1, dtype=torch.int64, device=peer.model.device)
        begin = perf_counter()
        for _ in range(tokens):
            ids = peer.next(ids).argmax(-1)
            int(ids)
        return (perf_counter() - begin) / tokens * 1e6


def torch_peers(spec: dict[str, Any], weights: Any, *, prefix: int, tokens: int, repeat: int, device: str) -> list[Any]:
    """Both PyTorch peers, by turns."""
    import torch

    from .gpt2_torch import Eager, Gpt2, Static

    dtype = torch.float16 if device == "cuda" else torch.float32
    model = Gpt2(spec, weights, device, dtype)
    shape = (spec["layers"], spec["heads"], prefix, spec["head_dim"])
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(shape, generator=generator).to(device=device, dtype=dtype) for _ in range(2))
    with torch.inference_mode():
        peers = [Eager(model, keys, values), Static(model, keys, values, tokens + 4)]
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for turn in range(repeat + 1):
        for peer in peers:
            taken = greedy(peer, tokens)
            if turn:
                times[peer.name].append(taken)
    return [
        {"name": name, "weights": "fp16", "us_per_token": round(median(runs), 2), "runs": [round(t, 2) for t in runs],
         "version": torch.__version__}
        for name, runs in times.items()
    ]  # fmt: skip


def onnxruntime_peer(spec: dict[str, Any], weights: Any, *, prefix: int, tokens: int, repeat: int, device: str) -> Any:
    """A step of the decoder as an ONNX graph in float16, cache and ids bound to the device."""
    import io

    import numpy as np
    import onnxruntime as ort
    import torch

    from .gpt2_torch import Gpt2

    dtype = torch.float16 if device == "cuda" else torch.float32
    model = Gpt2(spec, weights, "cpu", torch.float32)
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise RuntimeError(f"this ONNX Runtime has no {provider}")
    size = prefix + tokens

    class Step(torch.nn.Module):
        def forward(self, ids: Any, position: Any, keys: Any, values: Any) -> Any:
            from torch.nn import functional

            kept: list[Any] = []
            columns = torch.arange(size)
            here = (columns == position)[None, :, None]
            seen = (columns <= position)[None, None]

            def attend(i: int, q: Any, k: Any, v: Any) -> Any:
                key, value = torch.where(here, k, keys[i]), torch.where(here, v, values[i])
                kept.append((key, value))
                return functional.scaled_dot_product_attention(q[None], key[None], value[None], attn_mask=seen)[0]

            logits = model.step(ids, position, attend)
            return logits.argmax(-1), torch.stack([k for k, _ in kept]), torch.stack([v for _, v in kept])

    step = Step()
    for name in model.w:
        model.w[name] = model.w[name].to(dtype)
    shape = (spec["layers"], spec["heads"], size, spec["head_dim"])
    empty = torch.zeros(shape, dtype=dtype)
    stream = io.BytesIO()
    names = ["ids", "position", "keys", "values"]
    torch.onnx.export(
        step, (torch.zeros(1, dtype=torch.int64), torch.full((1,), prefix), empty, empty), stream,
        input_names=names, output_names=["next", "new_keys", "new_values"], opset_version=20, dynamo=False,
    )  # fmt: skip
    session = ort.InferenceSession(stream.getvalue(), providers=[provider])
    if provider not in session.get_providers():
        raise RuntimeError(f"ONNX Runtime fell back to {', '.join(session.get_providers())}")
    zeros = np.zeros(shape, np.float16 if device == "cuda" else np.float32)
    runs = []
    for _ in range(repeat + 1):
        caches = [ort.OrtValue.ortvalue_from_numpy(zeros, device, 0) for _ in range(4)]
        ids = np.zeros(1, np.int64)
        begin = perf_counter()
        for at in range(tokens):
            binding = session.io_binding()
            binding.bind_cpu_input("ids", ids)
            binding.bind_cpu_input("position", np.array([prefix + at]))
            old, new = (caches[:2], caches[2:]) if at % 2 == 0 else (caches[2:], caches[:2])
            for name, value in zip(("keys", "values"), old, strict=True):
                binding.bind_ortvalue_input(name, value)
            binding.bind_output("next", "cpu", 0)
            for name, value in zip(("new_keys", "new_values"), new, strict=True):
                binding.bind_ortvalue_output(name, value)
            session.run_with_iobinding(binding)
            ids = binding.get_outputs()[0].numpy()
        runs.append((perf_counter() - begin) / tokens * 1e6)
    taken = runs[1:]
    return {"name": "ONNX Runtime CUDA", "weights": "fp16", "us_per_token": round(median(taken), 2),
            "runs": [round(t, 2) for t in taken], "version": ort.__version__}  # fmt: skip


def measure(spec: dict[str, Any], weights: Any, **options: Any) -> dict[str, Any]:
    """Every peer that runs here, and for the others why not."""
    peers: list[Any] = []
    missing: dict[str, str] = {}

    def one(name: str, run: Callable[[], Any]) -> None:
        try:
            found = run()
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        else:
            peers.extend(found if isinstance(found, list) else [found])

    one("PyTorch", lambda: torch_peers(spec, weights, **options))
    one("ONNX Runtime", lambda: onnxruntime_peer(spec, weights, **options))
    return {"peers": peers, "missing": missing}


def main() -> int:
    """The child: options as JSON in, figures as JSON out."""
    from .. import reference

    options = json.loads(sys.argv[1])
    found = measure(reference.SPEC, reference.decoder_weights("none", lambda line: None), **options)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
