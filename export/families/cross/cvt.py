# SPDX-License-Identifier: Apache-2.0
"""CvT encoders: a feature map, flattened to tokens, and the projection head that checkpoints bring along.

``transformers`` has the network but no head, so its ``VisionEncoderDecoderModel`` cannot hold one; the published models
have code of their own. Their weights say what it is: ``encoder.cvt.*`` (or the network at ``encoder.encoder.*``), and
``encoder.projection_head.projection`` with or without a ``layer_norm`` before it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BadCheckpoint

HEAD = "encoder.projection_head."


class ProjectionHead(nn.Module):
    """Features [B, N, `width`] to the decoder's width."""

    def __init__(self, width: int, out: int, eps: float, *, norm: bool, bias: bool) -> None:
        super().__init__()
        if norm:
            self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.projection = nn.Linear(width, out, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        features = self.layer_norm(features) if hasattr(self, "layer_norm") else features
        return self.projection(features)


class CvtTokens(nn.Module):
    """Pixels [B, 3, H, W] to tokens [B, N, D], row-major; the class token of the last stage is left out.

    Parameters
    ----------
    config : CvtConfig
    out : int
        Width that the decoder's cross-attention reads.
    names : collection of str
        Of the checkpoint's weights: they tell which head there is.

    Raises
    ------
    BadCheckpoint
        There is no head, and the widths differ.
    """

    def __init__(self, config: Any, out: int, names: Collection[str]) -> None:
        super().__init__()
        from transformers import CvtModel

        self.config = config
        self.cvt = CvtModel(config, add_pooling_layer=False)
        width = config.embed_dim[-1]
        self.projection_head: ProjectionHead | None = None
        if f"{HEAD}projection.weight" in names:
            norm, bias = f"{HEAD}layer_norm.weight" in names, f"{HEAD}projection.bias" in names
            self.projection_head = ProjectionHead(width, out, config.layer_norm_eps, norm=norm, bias=bias)
        elif width != out:
            raise BadCheckpoint(
                f"not supported: the projection from the CvT encoder's {width} features to {out} is not among the "
                f"weights ({HEAD}projection.weight is looked for)"
            )

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        features = torch.flatten(self.cvt(pixel_values, return_dict=True).last_hidden_state, 2).transpose(1, 2)
        if self.projection_head is not None:
            features = self.projection_head(features)
        return BaseModelOutput(last_hidden_state=features)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network that lies at ``encoder.encoder`` under the names of this module."""
    return {
        f"encoder.cvt.{name.removeprefix('encoder.')}" if name.startswith("encoder.encoder.") else name: tensor
        for name, tensor in state.items()
    }
