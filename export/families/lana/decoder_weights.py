# SPDX-License-Identifier: Apache-2.0
"""The decoder's spec and weights in the kernel's names and layouts (matrices [out, in])."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .model import LanaModel


def head_is_tied(model: LanaModel) -> bool:
    """Whether the output head holds the embedding's numbers."""
    head, embed = model.decoder.lm_head.weight, model.decoder.transformer.wte.weight
    return head is embed or torch.equal(head, embed)


def decoder_spec(model: LanaModel) -> dict[str, Any]:
    """The declarative spec that drives the decoding kernel."""
    config = model.config
    return {
        "layers": config.decoder_layers,
        "hidden": config.decoder_hidden,
        "heads": config.decoder_heads,
        "kv_heads": config.decoder_heads,
        "head_dim": config.decoder_hidden // config.decoder_heads,
        "mlp": int(model.decoder.transformer.h[0].mlp.c_fc.weight.shape[1]),
        "vocab": config.vocab,
        "max_positions": int(model.decoder.transformer.wpe.weight.shape[0]),
        "norm": "layernorm",
        "norm_position": "pre",
        "norm_eps": float(model.decoder.config.layer_norm_epsilon),
        "activation": "gelu_tanh",
        "positions": "learned",
        "position_offset": 0,
        "tied_head": head_is_tied(model),
    }


def decoder_arrays(model: LanaModel) -> dict[str, np.ndarray]:
    """float32 weights, C-contiguous; GPT-2's Conv1D matrices [in, out] are transposed."""
    transformer = model.decoder.transformer
    arrays = {"embed.weight": transformer.wte.weight, "positions.weight": transformer.wpe.weight}
    for index, block in enumerate(transformer.h):
        parts = {
            "attn_norm": block.ln_1,
            "qkv": block.attn.c_attn,
            "attn_out": block.attn.c_proj,
            "mlp_norm": block.ln_2,
            "mlp_in": block.mlp.c_fc,
            "mlp_out": block.mlp.c_proj,
        }
        for name, layer in parts.items():
            weight = layer.weight if name.endswith("norm") else layer.weight.t()
            arrays[f"layers.{index}.{name}.weight"] = weight
            arrays[f"layers.{index}.{name}.bias"] = layer.bias
    arrays["final_norm.weight"] = transformer.ln_f.weight
    arrays["final_norm.bias"] = transformer.ln_f.bias
    if not head_is_tied(model):
        arrays["head.weight"] = model.decoder.lm_head.weight
    return {name: _array(tensor) for name, tensor in arrays.items()}


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
