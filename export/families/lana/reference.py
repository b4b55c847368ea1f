# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model run as the engine runs it: a prefill, then row after row, with every bias mode.

Plain and slow; the self-check of an export compares the graph and the kernel with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ExportError
from .anatomy import LOWEST, stretch
from .model import LanaModel


@dataclass
class ReferenceText:
    """Greedy ids, the raw logits [n, V] each was chosen from, and how far the runner-up's score was behind; the stop
    has its own, too."""

    ids: list[int]
    logits: Tensor
    margins: list[float]


class ReferenceDecoder:
    """The decoder with a K/V cache over one film.

    Parameters
    ----------
    model : LanaModel
    embeddings : Tensor [P, D]
        Output of the connector.
    key_bias : Tensor [layers, P] or [layers, grid ** 2], or None
        As :class:`AnatomicalBias` gives it (without the batch axis).
    sequence_length : int
        Positions over which the kind ``layerwise`` is stretched: prefix, begin ids and new tokens.
    prefill_bias : bool
        Whether the prefill rows get the bias.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: LanaModel,
        embeddings: Tensor,
        key_bias: Tensor | None,
        *,
        sequence_length: int,
        prefill_bias: bool,
    ) -> None:
        self.model = model
        self.transformer = model.decoder.transformer
        self.key_bias = key_bias
        self.sequence_length = sequence_length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.length = 0
        self.prefix_length = embeddings.shape[0]
        self.first_logits = self._rows(embeddings, bias=prefill_bias)[-1]

    @torch.no_grad()
    def step(self, token: int, *, bias: bool) -> Tensor:
        """Append one token and return the logits [V] after it."""
        return self._rows(self.transformer.wte.weight[token : token + 1], bias=bias)[-1]

    def _rows(self, embedded: Tensor, *, bias: bool) -> Tensor:
        start, total = self.length, self.length + embedded.shape[0]
        hidden = embedded + self.transformer.wpe.weight[start:total]
        causal = torch.full((total, total), LOWEST).triu(1)[start:]
        for index, block in enumerate(self.transformer.h):
            query, key, value = (
                part.unflatten(1, (self.model.config.decoder_heads, -1)).transpose(0, 1)
                for part in block.attn.c_attn(block.ln_1(hidden)).chunk(3, dim=1)
            )
            if start:
                key = torch.cat([self.keys[index], key], dim=1)
                value = torch.cat([self.values[index], value], dim=1)
                self.keys[index], self.values[index] = key, value
            else:
                self.keys.append(key)
                self.values.append(value)
            mask = causal + self._bias_row(index, total) if bias else causal
            scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5 + mask
            mixed = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
            hidden = hidden + block.attn.c_proj(mixed)
            hidden = hidden + block.mlp(block.ln_2(hidden))
        self.length = total
        return self.model.decoder.lm_head(self.transformer.ln_f(hidden[-1:]))

    def _bias_row(self, layer: int, total: int) -> Tensor:
        """Bias over ``total`` keys."""
        if self.key_bias is None:
            return torch.zeros(total)
        row = self.key_bias[layer]
        if self.model.config.bias.span == "sequence":
            row = stretch(row[None, None], self.sequence_length)[0, 0, :total]
        return F.pad(row, (0, total - row.shape[0]))

    def greedy(
        self,
        count: int,
        *,
        bias_rows: str,
        penalty: float,
        begin_ids: Sequence[int] = (),
        stop_ids: Sequence[int] = (),
        suppressed_ids: Sequence[int] = (),
    ) -> ReferenceText:
        """Write ``count`` tokens at most: repetition penalty over the generated ids, lowest id on a tie."""
        logits = self.first_logits
        for token in begin_ids:
            logits = self.step(token, bias=bias_rows != "none")
        text = ReferenceText([], torch.empty(0), [])
        rows = []
        for position in range(count):
            scores = logits.clone()
            scores[list(suppressed_ids)] = -torch.inf
            seen = list(set(text.ids))
            scores[seen] = torch.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
            best = scores.topk(2).values
            if torch.isnan(best).any():  # the largest of all, to PyTorch
                raise ExportError("PyTorch's own numbers overflow with these weights; nothing was written")
            token = int((scores == best[0]).nonzero()[0])
            text.margins.append(float(best[0] - best[1]))
            if token in stop_ids:
                break
            text.ids.append(token)
            rows.append(logits)
            if position + 1 < count:
                logits = self.step(token, bias=bias_rows == "all")
        text.logits = torch.stack(rows) if rows else torch.empty(0, logits.shape[0])
        return text
