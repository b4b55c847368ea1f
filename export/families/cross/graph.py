# SPDX-License-Identifier: Apache-2.0
"""What runs once per film, as one module for ONNX export: encoder, connector, and every layer's cross K/V."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoders import Decoder
from .encoders import EncoderTokens, freeze_positions


class CrossGraph(nn.Module):
    """Wrapper whose forward is the exported graph (batch 1).

    Parameters
    ----------
    model : VisionEncoderDecoderModel
    decoder : Decoder
        Its decoder in the kernel's terms.
    height, width : int
        Of the pixels.
    """

    with_mask = False
    input_names = ("pixels",)
    output_names = ("cross_keys", "cross_values", "prefix_embeddings")

    def __init__(self, model: Any, decoder: Decoder, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        self.heads = decoder.heads
        self.tokens = EncoderTokens(model)
        if self.tokens.classifier is not None:
            self.output_names = (*self.output_names, "prompt_logits")
        freeze_positions(model.encoder, torch.zeros(1, 3, height, width))
        for index, block in enumerate(decoder.blocks):
            for name in ("cross_k", "cross_v"):
                part = getattr(block, name)
                self.register_buffer(f"{name}_{index}_weight", part.weight.detach().clone(), persistent=False)
                self.register_buffer(f"{name}_{index}_bias", part.bias.detach().clone(), persistent=False)
        self.layers = len(decoder.blocks)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 3, *self.size),)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels [1,3,H,W] to K and V [layers, heads, tokens, head_dim], the tokens [N, D], and the logits [findings,
        states] of the classifier where the model has one."""
        tokens, states = self.tokens.look(pixels)
        keys = torch.stack([self._project(tokens, "cross_k", i) for i in range(self.layers)])
        values = torch.stack([self._project(tokens, "cross_v", i) for i in range(self.layers)])
        return (keys, values, tokens) if states is None else (keys, values, tokens, states)

    def _project(self, tokens: Tensor, name: str, index: int) -> Tensor:
        rows = F.linear(tokens, getattr(self, f"{name}_{index}_weight"), getattr(self, f"{name}_{index}_bias"))
        return rows.view(rows.shape[0], self.heads, -1).transpose(0, 1)
