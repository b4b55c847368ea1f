# SPDX-License-Identifier: Apache-2.0
"""Which products of the kernel's prefill may have activations of 8 bits, by what that does to their outputs.

The kernel rounds each row of a product's input to 256 levels of its own range, where the bundle says so, and to about
14 bits elsewhere (see ``csrc/cpu/kernels_gemm.h``). On processors with byte products the former takes half the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...int4 import widen_groups
from .model import LanaModel
from .reference import ReferenceDecoder

MOST_NMSE = 1e-3
"""Of a product's outputs, on any picture, against activations in full precision and the same weights."""
SAMPLED_ROWS = 128
LEVELS = 127


@dataclass
class PrefillPlan:
    """The worst error of each product of the prefill, by the name of its matrix."""

    errors: dict[str, float] = field(default_factory=dict)

    @property
    def narrow(self) -> list[str]:
        """Matrices whose activations may have 8 bits."""
        return [name for name, error in self.errors.items() if error <= MOST_NMSE]

    def describe(self) -> str:
        """One line for the model card."""
        worst = max((self.errors[name] for name in self.narrow), default=0.0)
        return (
            f"Products of the kernel's prefill: {len(self.narrow)} with int8 activations (the worst one's outputs off "
            f"by NMSE {worst:.1e}), {len(self.errors) - len(self.narrow)} with about 14 bits; limit {MOST_NMSE:g}."
        )


def plan_prefill(
    model: LanaModel,
    arrays: Mapping[str, np.ndarray],
    pictures: Iterable[np.ndarray],
    *,
    bias: bool,
    sequence_length: int,
) -> PrefillPlan:
    """Take pictures through the model and measure every product of the prefill.

    Parameters
    ----------
    model : LanaModel
    arrays : dict
        The decoder's quantized arrays, in the kernel's names.
    pictures : iterable of ndarray float32 [1, 3, H, W]
        Normalised pixels.
    bias : bool
        Whether the prefill rows get the anatomical bias.
    """
    plan = PrefillPlan()
    layers = list(model.decoder.transformer.h)
    handles = []
    for index, block in enumerate(layers):
        modules = {"qkv": block.attn.c_attn}
        if index + 1 < len(layers):  # of the last layer only the last row goes on, in full precision
            modules |= {"attn_out": block.attn.c_proj, "mlp_in": block.mlp.c_fc, "mlp_out": block.mlp.c_proj}
        for part, module in modules.items():
            name = f"layers.{index}.{part}"
            matrix = _stored(arrays, name)
            if matrix is not None:
                plan.errors[name] = 0.0
                handles.append(module.register_forward_pre_hook(_measure(plan, name, matrix)))
    try:
        for pixels in pictures:
            with torch.no_grad():
                embeddings = model.prefix(torch.from_numpy(pixels))[0]
                key_bias = model.anatomy(model.mask(torch.from_numpy(pixels)))[0] if bias else None
            ReferenceDecoder(model, embeddings, key_bias, sequence_length=sequence_length, prefill_bias=bias)
    finally:
        for handle in handles:
            handle.remove()
    return plan


def narrow_error(rows: np.ndarray, exact: np.ndarray, narrow: np.ndarray) -> float:
    """NMSE of a product's outputs with activations of 8 bits.

    Parameters
    ----------
    rows : ndarray float32 [N, in]
    exact, narrow : ndarray float32 [out, in]
        The weights as a product in full precision has them, and as the narrow one has them.
    """
    if not np.isfinite(rows).all():
        return float("inf")
    low, high = np.minimum(rows.min(1, keepdims=True), 0.0), np.maximum(rows.max(1, keepdims=True), 0.0)
    scale = np.maximum((high - low) / np.float32(255), np.float32(1e-30))
    zero = np.rint(-low / scale) - 128
    small = (np.clip(np.rint(rows / scale) + zero, -128, 127) - zero) * scale
    want = rows @ exact.T
    error = small.astype(np.float32) @ narrow.T - want
    power = float(np.mean(np.square(want, dtype=np.float64)))
    return float(np.mean(np.square(error, dtype=np.float64))) / (power or 1.0)


def _measure(plan: PrefillPlan, name: str, matrix: tuple[np.ndarray, np.ndarray]) -> Any:
    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].detach().numpy()
        plan.errors[name] = max(plan.errors[name], narrow_error(rows[:: max(1, len(rows) // SAMPLED_ROWS)], *matrix))

    return hook


def _stored(arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A matrix as the decoder has it, and with 127 levels per row; None where it is float32."""
    values = arrays[f"{name}.weight"]
    if values.dtype == np.float32:
        return None
    name = f"prefill.{name}" if f"prefill.{name}.weight" in arrays else name
    values, scale = arrays[f"{name}.weight"], arrays[f"{name}.weight.scale"]
    if values.dtype == np.int8:
        exact = values.astype(np.float32) * scale[:, None]
        return exact, exact
    exact = widen_groups(values, scale)
    step = np.abs(exact).max(1, keepdims=True) / np.float32(LEVELS)
    return exact, (np.rint(exact / np.where(step > 0, step, 1)) * step).astype(np.float32)
