# SPDX-License-Identifier: Apache-2.0
"""The decoder in PyTorch, as a peer: eager with a growing cache, or a static cache in a CUDA graph.

Plain PyTorch, so that it runs where PyTorch is and nothing else; fused attention and float16 as a good user has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Gpt2:
    """Weights on a device, and one step.

    Parameters
    ----------
    spec : mapping
        Decoder spec; layer norm before the blocks, tied head.
    weights : mapping of str to ndarray
        float32, under the bundle's names.
    device : str
    dtype : torch.dtype
    """

    def __init__(self, spec: Mapping[str, Any], weights: Mapping[str, Any], device: str, dtype: Any) -> None:
        import torch

        self.spec, self.device, self.dtype = spec, device, dtype
        self.w = {
            name: torch.from_numpy(array.copy()).to(device=device, dtype=dtype) for name, array in weights.items()
        }
        self.gelu = "tanh" if spec["activation"] == "gelu_tanh" else "none"

    def _norm(self, x: Any, name: str) -> Any:
        from torch.nn import functional

        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, self.spec["norm_eps"])

    def _project(self, x: Any, name: str) -> Any:
        from torch.nn import functional

        return functional.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def step(self, ids: Any, position: Any, attend: Any) -> Any:
        """Logits [n, vocab] of rows that follow each other.

        Parameters
        ----------
        ids, position : Tensor [n]
        attend : callable
            (layer, q, k, v), each [heads, n, head_dim], to the mixed values [heads, n, head_dim]; keeps k and v.
        """
        from torch.nn import functional

        heads = self.spec["heads"]
        x = self.w["embed.weight"][ids] + self.w["positions.weight"][position + self.spec["position_offset"]]
        for i in range(self.spec["layers"]):
            qkv = self._project(self._norm(x, f"layers.{i}.attn_norm"), f"layers.{i}.qkv")
            q, k, v = (part.view(ids.shape[0], heads, -1).transpose(0, 1) for part in qkv.chunk(3, dim=-1))
            mixed = attend(i, q, k, v).transpose(0, 1).reshape(ids.shape[0], -1)
            x = x + self._project(mixed, f"layers.{i}.attn_out")
            inner = self._project(self._norm(x, f"layers.{i}.mlp_norm"), f"layers.{i}.mlp_in")
            x = x + self._project(functional.gelu(inner, approximate=self.gelu), f"layers.{i}.mlp_out")
        return functional.linear(self._norm(x, "final_norm"), self.w["embed.weight"])


class Eager:
    """One token after the other, the cache grown by concatenation, as a loop in Python is written first."""

    name = "PyTorch eager"

    def __init__(self, model: Gpt2, keys: Any, values: Any) -> None:
        self.model = model
        self.keys, self.values = list(keys), list(values)  # [layers] of [heads, keys, head_dim]
        self.first = self.keys[0].shape[1]

    def next(self, ids: Any) -> Any:
        """Logits of the row after the cached ones."""
        import torch
        from torch.nn import functional

        def attend(i: int, q: Any, k: Any, v: Any) -> Any:
            self.keys[i] = torch.cat([self.keys[i], k], dim=1)
            self.values[i] = torch.cat([self.values[i], v], dim=1)
            return functional.scaled_dot_product_attention(q[None], self.keys[i][None], self.values[i][None])[0]

        position = torch.full((1,), self.keys[0].shape[1], device=self.model.device)
        return self.model.step(ids, position, attend)

    def rewind(self) -> None:
        self.keys = [keys[:, : self.first] for keys in self.keys]
        self.values = [values[:, : self.first] for values in self.values]


class Static:
    """A cache of fixed size and a mask; on a GPU the step is recorded once as a CUDA graph and replayed."""

    name = "PyTorch, static cache and CUDA graph"

    def __init__(self, model: Gpt2, keys: Any, values: Any, room: int) -> None:
        import torch

        self.model, self.first = model, keys.shape[2]
        layers, heads, _, head_dim = keys.shape
        size = (layers, heads, self.first + room, head_dim)
        self.keys, self.values = (torch.zeros(size, device=model.device, dtype=model.dtype) for _ in range(2))
        self.keys[:, :, : self.first], self.values[:, :, : self.first] = keys, values
        self.ids = torch.zeros(1, dtype=torch.int64, device=model.device)
        self.position = torch.full((1,), self.first, device=model.device)
        self.columns = torch.arange(size[2], device=model.device)
        self.logits = torch.zeros(1, model.spec["vocab"], device=model.device, dtype=model.dtype)
        self.graph: Any = None
        if model.device == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._step()
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
            self.rewind()

    def _step(self) -> None:
        from torch.nn import functional

        seen = (self.columns <= self.position)[None, None]

        def attend(i: int, q: Any, k: Any, v: Any) -> Any:
            self.keys[i].index_copy_(1, self.position, k)
            self.values[i].index_copy_(1, self.position, v)
            return functional.scaled_dot_product_attention(
                q[None], self.keys[i][None], self.values[i][None], attn_mask=seen
            )[0]

        self.logits.copy_(self.model.step(self.ids, self.position, attend))
        self.position += 1

    def next(self, ids: Any) -> Any:
        """Logits of the row after the cached ones; valid until the next call."""
        self.ids.copy_(ids)
        if self.graph is not None:
            self.graph.replay()
        else:
            self._step()
        return self.logits

    def rewind(self) -> None:
        self.position.fill_(self.first)
