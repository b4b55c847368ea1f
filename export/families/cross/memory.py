# SPDX-License-Identifier: Apache-2.0
"""A small transformer that looks at features of retrieved reports with one query, the picture (PromptMRG).

Norms behind the sublayers, ReLU, no positions. The query is added to queries and keys of the self-attention and to the
queries of the cross-attention, never to values; what it writes on begins as zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import BadCheckpoint

HEADS = 8


class _Layer(nn.Module):
    """The weights of one layer under the published names; `cross`: with an attention to the reports."""

    def __init__(self, width: int, mlp: int, *, cross: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, HEADS)
        if cross:
            self.multihead_attn = nn.MultiheadAttention(width, HEADS)
            self.norm3 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def mlp(self, x: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))


def _attend(part: nn.MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Rows [n, width] that look at rows [m, width]."""
    weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
    heads = [
        F.linear(rows, weight, bias).unflatten(1, (HEADS, -1)).transpose(0, 1)
        for rows, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    ]
    q, k, v = heads
    shares = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1)
    return part.out_proj((shares @ v).transpose(0, 1).flatten(1))


class Memory(nn.Module):
    """Mean features of a picture [1, D] to [1, `width`].

    Parameters
    ----------
    state : dict
        The transformer's weights.
    query_weight, query_bias : Tensor
        From the picture's features to the query.
    features : Tensor
        Of the reports [reports, width].
    name : str
        Of the checkpoint, for messages.

    Raises
    ------
    BadCheckpoint
        Weights or features do not fit.
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        query_weight: Tensor | None,
        query_bias: Tensor | None,
        features: Tensor,
        name: str,
    ) -> None:
        super().__init__()
        mlp = state.get("encoder.layers.0.linear1.weight")
        if query_weight is None or query_bias is None or mlp is None or query_weight.ndim != 2 or mlp.ndim != 2:
            raise BadCheckpoint(
                f"{name}: the transformer over retrieved reports (memory.*, vision_proj.*) is not whole"
            )
        self.width = query_weight.shape[0]
        self.query = nn.Linear(query_weight.shape[1], self.width)
        if self.width % HEADS or features.shape[1] != self.width:
            raise BadCheckpoint(
                f"{name}: features of reports are {features.shape[1]} wide, the transformer over them {self.width}"
            )
        layers = {
            part: len({key.split(".")[2] for key in state if key.startswith(f"{part}.layers.")})
            for part in ("encoder", "decoder")
        }
        self.encoder = nn.ModuleList(_Layer(self.width, mlp.shape[0], cross=False) for _ in range(layers["encoder"]))
        self.decoder = nn.ModuleList(_Layer(self.width, mlp.shape[0], cross=True) for _ in range(layers["decoder"]))
        self.norm = nn.LayerNorm(self.width)
        named = {key.replace(".layers.", ".").replace("decoder.norm.", "norm."): value for key, value in state.items()}
        try:
            self.load_state_dict({**named, "query.weight": query_weight, "query.bias": query_bias})
        except RuntimeError as error:
            lines = " ".join(str(error).split())
            raise BadCheckpoint(f"{name}: the transformer over retrieved reports does not fit: {lines[:300]}") from None
        with torch.no_grad():  # the same for every film
            for layer in self.encoder:
                features = layer.norm1(features + _attend(layer.self_attn, features, features, features))
                features = layer.norm2(features + layer.mlp(features))
        self.reports = len(features)
        self.register_buffer("looked_at", features, persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        query = self.query(picture)
        x = torch.zeros_like(query)
        for layer in self.decoder:
            x = layer.norm1(x + _attend(layer.self_attn, x + query, x + query, x))
            x = layer.norm2(x + _attend(layer.multihead_attn, x + query, self.looked_at, self.looked_at))
            x = layer.norm3(x + layer.mlp(x))
        return self.norm(x)
