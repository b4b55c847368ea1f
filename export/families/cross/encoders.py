# SPDX-License-Identifier: Apache-2.0
"""Image encoders: which ones, and where the patches are among their tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _one(config: Any) -> int:
    return 1


def _none(config: Any) -> int:
    return 0


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


ENCODERS = {
    "cvt": _none,
    "vit": _one,
    "deit": lambda config: 2,
    "dinov2": _one,
    "dinov2_with_registers": _registers,
    "dinov3_vit": _registers,
    "resnet": _none,
    "swin": _none,
    "swinv2": _none,
}
"""Tokens before the patches, by the type of the encoder's configuration."""

MISSING = {
    "resnet": "it yields a feature map, not tokens",
    "convnext": "it yields a feature map, not tokens",
    "convnextv2": "it yields a feature map, not tokens",
}


class EncoderTokens(nn.Module):
    """Pixels [1,3,H,W] to the tokens that the cross-attention reads, [N, D]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.projection = getattr(model, "enc_to_dec_proj", None)  # only where the widths differ
        self.classifier = getattr(model, "classifier", None)

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens, and the logits [findings, states] of the model's classifier where it has one."""
        seen = self.encoder(pixel_values=pixels, return_dict=True)
        tokens = seen.last_hidden_state if self.projection is None else self.projection(seen.last_hidden_state)
        return tokens[0], None if self.classifier is None else self.classifier(seen.pooler_output)[0]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.look(pixels)[0]


def freeze_positions(encoder: nn.Module, pixels: Tensor) -> None:
    """Positions that are interpolated to the size of the picture become constants: the size is fixed."""
    embeddings = getattr(encoder, "embeddings", None)
    if encoder.config.model_type not in ("dinov2", "dinov2_with_registers"):
        return
    with torch.no_grad():
        patches = embeddings.patch_embeddings(pixels)
        tokens = torch.cat((embeddings.cls_token.expand(1, -1, -1), patches), dim=1)
        fixed = embeddings.interpolate_pos_encoding(tokens, pixels.shape[2], pixels.shape[3]).clone()
    embeddings.register_buffer("fixed_positions", fixed, persistent=False)
    embeddings.interpolate_pos_encoding = lambda *_, **__: embeddings.fixed_positions


def grid_of(patches: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the patches; None where there is no such grid."""
    rows = round((patches * height / width) ** 0.5)
    return (rows, patches // rows) if rows and patches % rows == 0 else None
