# SPDX-License-Identifier: Apache-2.0
"""The part of the model that runs once per film, as one module for ONNX export.

pixels -> image tokens -> prefix embeddings -> prefill of the decoder -> K/V of every layer and first
logits, and pixels -> mask -> key bias. The prefill is written out over the GPT-2 weights: the last block
computes its query, MLP and logits for the last row only, and a switch input turns the bias of the prefill
rows on and off. Where the kernel does the prefill, the graph ends at the prefix embeddings (positions are
added by the kernel) and holds none of the decoder's weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .anatomy import LOWEST, stretch
from .model import LanaModel

BLOCKS, SMALLEST_BLOCK = 4, 64


def trunks_are_equal(model: LanaModel) -> bool:
    """Whether both segmenters hold the same trunk, so that it can be stored and run once."""
    if model.segmenter is None:
        return False
    lung = model.segmenter.lung_model.stages.state_dict()
    heart = model.segmenter.heart_model.stages.state_dict()
    return all(torch.equal(lung[key], heart[key]) for key in lung)


class VisionGraph(nn.Module):
    """Wrapper whose forward is the exported graph (batch 1).

    Parameters
    ----------
    model : LanaModel
    with_mask : bool
        Whether the mask branch is part of the graph. Needs a segmenter.
    sequence_length : int
        Positions over which the kind ``layerwise`` stretches its values: prefix, begin ids and new tokens.
    with_prefill : bool
        Whether the prefill is part of the graph.
    """

    def __init__(self, model: LanaModel, *, with_mask: bool, sequence_length: int, with_prefill: bool = True) -> None:
        super().__init__()
        if with_mask and model.segmenter is None:
            raise ValueError("a graph with a mask needs a segmenter")
        config = model.config
        self.config = config
        self.encoder = model.encoder
        self.connector = model.linear_projection
        self.with_mask = with_mask
        self.with_prefill = with_prefill
        self.sequence_length = sequence_length
        self.shared_trunk = with_mask and trunks_are_equal(model)
        if with_mask:
            self.segmenter = model.segmenter
            self.anatomy = model.anatomy
        if not with_prefill:
            return
        self.decoder = model.decoder
        length, width = config.prefix_length, config.decoder_hidden
        attention = model.decoder.transformer.h[-1].attn.c_attn
        # Slices of weights as constants of their own: a slice at run time could be neither folded nor
        # quantized.
        self.blocks = row_blocks(length, exact=config.bias.kind == "hidden" and with_mask)
        constants = {
            "causal": torch.full((length, length), LOWEST).triu(1),
            "positions": model.decoder.transformer.wpe.weight[:length],
            "last_query_weight": attention.weight[:, :width],
            "last_query_bias": attention.bias[:width],
            "last_kv_weight": attention.weight[:, width:],
            "last_kv_bias": attention.bias[width:],
        }
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone(), persistent=False)

    @property
    def has_switch(self) -> bool:
        """Whether there is an input that turns the bias of the prefill rows on and off."""
        return self.with_mask and self.with_prefill

    @property
    def input_names(self) -> list[str]:
        return ["pixels", "bias_switch"] if self.has_switch else ["pixels"]

    @property
    def output_names(self) -> list[str]:
        names = ["prefix_keys", "prefix_values", "first_logits"] if self.with_prefill else []
        return [*names, "key_bias", "mask", "prefix_embeddings"] if self.with_mask else [*names, "prefix_embeddings"]

    def example_inputs(self) -> tuple[Tensor, ...]:
        size = self.config.image_size
        pixels = torch.zeros(1, 3, size, size)
        return (pixels, torch.ones(1)) if self.has_switch else (pixels,)

    def forward(self, pixels: Tensor, bias_switch: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run the graph.

        Parameters
        ----------
        pixels : Tensor [1,3,H,W]
        bias_switch : Tensor [1]
            1: the prefill rows get the bias, 0: they do not.

        Returns
        -------
        tuple of Tensor
            As named by ``output_names``: K and V [layers, heads, prefix, head_dim], logits [vocab], key bias
            [layers, prefix or sequence], mask [M, M], prefix embeddings [prefix, hidden].
        """
        embeddings = self.connector(self.encoder(pixels))[0]
        if not self.with_mask:
            return (*self.prefill(embeddings, None), embeddings) if self.with_prefill else (embeddings,)
        mask = self.segmenter(pixels, self.shared_trunk)
        key_bias = self.anatomy(mask)
        if self.config.bias.span == "sequence":
            key_bias = stretch(key_bias, self.sequence_length)
        if not self.with_prefill:
            return key_bias[0], mask[0, 0], embeddings
        used = key_bias[0, :, : self.config.prefix_length]
        keys, values, logits = self.prefill(embeddings, used * bias_switch)
        return keys, values, logits, key_bias[0], mask[0, 0], embeddings

    def prefill(self, embeddings: Tensor, key_bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Prefix embeddings [P,D] and key bias [layers,P] to K, V [layers,H,P,hd] and the last row's logits
        [V]."""
        transformer = self.decoder.transformer
        width = embeddings.shape[1]
        hidden = embeddings + self.positions
        keys, values = [], []
        last = len(transformer.h) - 1
        for index, block in enumerate(transformer.h):
            normed = block.ln_1(hidden)
            bias = None if key_bias is None else key_bias[index]
            if index == last:
                query = normed[-1:] @ self.last_query_weight + self.last_query_bias
                key, value = (normed @ self.last_kv_weight + self.last_kv_bias).split(width, dim=1)
                hidden, rows = hidden[-1:], [range(hidden.shape[0] - 1, hidden.shape[0])]
            else:
                query, key, value = _project(normed, block.attn.c_attn).split(width, dim=1)
                rows = self.blocks
            mixed = [self._attend(query, key, value, part, bias) for part in rows]
            hidden = hidden + _project(torch.cat(mixed) if len(mixed) > 1 else mixed[0], block.attn.c_proj)
            key, value = self._heads(key), self._heads(value)
            inner = F.gelu(_project(block.ln_2(hidden), block.mlp.c_fc), approximate="tanh")
            hidden = hidden + _project(inner, block.mlp.c_proj)
            keys.append(key)
            values.append(value)
        logits = F.linear(transformer.ln_f(hidden), self.decoder.lm_head.weight)[0]
        return torch.stack(keys), torch.stack(values), logits

    def _heads(self, rows: Tensor) -> Tensor:
        """[T, D] to [heads, T, head_dim]."""
        return rows.view(rows.shape[0], self.config.decoder_heads, -1).transpose(0, 1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, rows: range, bias: Tensor | None) -> Tensor:
        """Scaled dot-product attention of some prefix rows.

        Parameters
        ----------
        query : Tensor [T, H*hd]
            All rows of the prefix, or, for the last row alone, that row.
        key, value : Tensor [P, H*hd]
        rows : range
            Rows of the prefix to compute; they see the keys up to the last one of them.
        bias : Tensor [P], optional
            Added to the scores of each key.

        Returns
        -------
        Tensor [rows, H*hd]
        """
        seen, first = rows.stop, rows.start if query.shape[0] > 1 else 0
        query = self._heads(query[first : first + len(rows)])
        key, value = self._heads(key[:seen]), self._heads(value[:seen])
        mask = self.causal[rows.start : rows.stop, :seen]
        if bias is not None:
            mask = mask + bias[:seen]
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2) + mask
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(0, 1).reshape(len(rows), -1)


def row_blocks(length: int, *, exact: bool) -> list[range]:
    """Rows of the prefix that attend together.

    A block of rows needs no key behind its last row, so that of four blocks' scores only 10/16 are computed. In the
    strict kind ("exact") all rows stay one block: there a row whose visible keys are all behind it counts them as much
    as the hidden ones before it, since both have the lowest score, and the model was trained with that.
    """
    size = length if exact else max(SMALLEST_BLOCK, -(-length // BLOCKS))
    return [range(start, min(start + size, length)) for start in range(0, length, size)]


def _project(rows: Tensor, layer: nn.Module) -> Tensor:
    """GPT-2's Conv1D as a plain product: [T, in] to [T, out]."""
    return rows @ layer.weight + layer.bias
