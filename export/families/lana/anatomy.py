# SPDX-License-Identifier: Apache-2.0
"""The anatomical key bias: a lung-and-heart mask becomes one additive attention bias per decoder layer.

The mask is resized to the patch grid, blurred with a Gaussian that narrows from layer to layer, and each
layer is scaled to [0, 1]. Resize and reflect-padded blur are linear maps along one axis, so each is a
constant matrix and a layer is ``A M A^T``: a few small products that export to ONNX without loops, and
zeros stay exact zeros, which the strict kind relies on. Source: "Radiology Report Generation with
Layer-Wise Anatomical Attention", arXiv 2512.16841.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("gaussian", "hidden", "layerwise", "gaussian_legacy", "none")
ROWS = ("all", "prefill", "none")
LOWEST = float(torch.finfo(torch.float32).min)
EPSILON = 1e-8
TIE = 2.0**-18
"""Blurred values that lie this little (relatively) above a layer's lowest one are its equals: which of them is
exactly the lowest is a matter of rounding, and would differ between machines."""


@dataclass
class BiasConfig:
    """What the mask does to the attention scores.

    Attributes
    ----------
    kind : str
        ``gaussian`` (soft), ``hidden`` (strict: keys whose value is exactly 0 get the lowest finite float),
        ``layerwise`` (the grid's values stretched over the whole sequence), ``gaussian_legacy`` (soft,
        stretched over the prefix where that holds more than the patches), ``none``.
    strength : float
        Factor on the [0, 1] values.
    rows : str
        Which rows get the bias: ``all``, ``prefill``, ``none``.
    kernel_base, kernel_growth : int
        Layer ``l`` of ``L`` is blurred with a kernel of ``kernel_base + (L - l) * kernel_growth``: 27, 25,
        .. 5 for twelve layers. A kernel never exceeds ``2 * grid - 1``, the widest that reflect padding
        allows.
    """

    kind: str = "gaussian"
    strength: float = 1.0
    rows: str = "all"
    kernel_base: int = 3
    kernel_growth: int = 2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"bias kind {self.kind!r} is not one of: {', '.join(KINDS)}")
        if self.rows not in ROWS:
            raise ValueError(f"bias rows {self.rows!r} is not one of: {', '.join(ROWS)}")

    @property
    def span(self) -> str:
        """``sequence`` where the values are stretched over the whole sequence, else ``prefix``."""
        return "sequence" if self.kind == "layerwise" else "prefix"

    def kernel_sizes(self, layers: int, grid: int) -> list[int]:
        """Odd kernel size of each layer, widest first."""
        sizes = [self.kernel_base + (layers - index) * self.kernel_growth for index in range(layers)]
        return [min(size | 1, 2 * grid - 1) for size in sizes]


def resize_matrix(source: int, target: int) -> np.ndarray:
    """Bilinear resize along one axis (half-pixel centres, no antialiasing) as float64 [target, source]."""
    matrix = np.zeros((target, source))
    for row in range(target):
        at = max((row + 0.5) * source / target - 0.5, 0.0)
        low = min(int(at), source - 1)
        high = min(low + 1, source - 1)
        matrix[row, low] += 1.0 - (at - low)
        matrix[row, high] += at - low
    return matrix


def blur_matrix(grid: int, size: int) -> np.ndarray:
    """Gaussian blur along one axis, sigma ``(size - 1) / 6``, reflect padding: float64 [grid, grid]."""
    radius = size // 2
    offsets = np.arange(-radius, radius + 1)
    sigma = max((size - 1) / 6.0, 1e-3)
    kernel = np.exp(-(offsets**2) / (2.0 * sigma * sigma))
    kernel /= kernel.sum()
    matrix = np.zeros((grid, grid))
    for row in range(grid):
        for offset, weight in zip(offsets, kernel, strict=True):
            column = abs(row + offset)
            if column >= grid:
                column = 2 * (grid - 1) - column
            matrix[row, column] += weight
    return matrix


def stretch(values: Tensor, length: int) -> Tensor:
    """Linear interpolation (half-pixel centres) of the last axis: [B, L, G] to [B, L, length]."""
    if values.shape[-1] == length:
        return values
    return F.interpolate(values, size=length, mode="linear", align_corners=False)


class AnatomicalBias(nn.Module):
    """Mask to key bias. No parameters; the constant matrices are not part of a state dict.

    Parameters
    ----------
    config : BiasConfig
    layers : int
        Decoder layers.
    mask_size, grid : int
        Sides of the mask and of the patch grid.
    prefix_length : int
        Image keys. Where it exceeds ``grid ** 2``, the first keys are CLS or registers: they get no bias,
        except in the kind ``gaussian_legacy``, which stretches the grid's values over all of them.
    """

    def __init__(self, config: BiasConfig, layers: int, mask_size: int, grid: int, prefix_length: int) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.prefix_length = prefix_length
        blur = np.stack([blur_matrix(grid, size) for size in config.kernel_sizes(layers, grid)])
        self.register_buffer(
            "resize", torch.tensor(resize_matrix(mask_size, grid), dtype=torch.float32), persistent=False
        )
        self.register_buffer("blur", torch.tensor(blur, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(self, mask: Tensor) -> Tensor:
        """Mask [B,1,M,M] of 0 and 1 to the key bias, strength included.

        Returns
        -------
        Tensor
            [B, L, prefix]; for the kind ``layerwise`` the grid's values [B, L, grid ** 2], not yet stretched.
        """
        blurred = self.blurred(mask)
        bias = _unit_range(blurred).flatten(2) * self.config.strength
        if self.config.kind == "hidden":
            flat = blurred.flatten(2)
            low = flat.amin(dim=2, keepdim=True)
            # Not "flat > low * (1 + TIE)": the exporter drops a factor that is nearly one.
            visible = (flat - low) / TIE > low
            bias = torch.where(visible, bias, torch.full_like(bias, LOWEST))
        if self.config.span == "sequence":
            return bias
        if self.config.kind == "gaussian_legacy":
            return stretch(bias, self.prefix_length)
        return F.pad(bias, (self.prefix_length - self.grid**2, 0))

    def blurred(self, mask: Tensor) -> Tensor:
        """Mask [B,1,M,M] to the blurred grids [B,L,g,g], before each is scaled to [0, 1]."""
        mask = mask.float()
        if self.config.kind != "layerwise":
            mask = _unit_range(mask)
        small = self.resize @ mask @ self.resize.transpose(0, 1)
        # Rounding must not turn a constant mask into a pattern: what is the same everywhere guides nowhere.
        low = small.amin(dim=(2, 3), keepdim=True)
        small = torch.where(small.amax(dim=(2, 3), keepdim=True) > low, small, torch.zeros_like(small))
        return self.blur @ small @ self.blur.transpose(1, 2)


def _unit_range(values: Tensor) -> Tensor:
    low = values.amin(dim=(2, 3), keepdim=True)
    high = values.amax(dim=(2, 3), keepdim=True)
    return (values - low) / (high - low).clamp_min(EPSILON)
