# SPDX-License-Identifier: Apache-2.0
"""Text decoders: what each says to the kernel (spec and weights), and the cross-attention's keys and values.

One function per decoder yields its layers in common terms; everything else follows from these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass
class Linear:
    """A matrix [out, in] and its bias [out]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, *layers: nn.Module) -> Linear:
        """One layer, or several on top of each other."""
        return cls(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))

    @classmethod
    def conv1d(cls, layer: nn.Module) -> Linear:
        """GPT-2's layers hold their matrix as [in, out]."""
        return cls(layer.weight.t(), layer.bias)

    def split(self, parts: int) -> list[Linear]:
        return [Linear(w, b) for w, b in zip(self.weight.chunk(parts), self.bias.chunk(parts), strict=True)]


@dataclass
class Block:
    """One layer: norms, and products of self-attention, cross-attention and MLP."""

    attn_norm: nn.Module
    qkv: Linear
    attn_out: Linear
    cross_norm: nn.Module
    cross_q: Linear
    cross_k: Linear
    cross_v: Linear
    cross_out: Linear
    mlp_norm: nn.Module
    mlp_in: Linear
    mlp_out: Linear


@dataclass
class Decoder:
    """A decoder in the kernel's terms. ``positions`` hold what every token of a text gets beside its position, too."""

    heads: int
    activation: str
    norm_eps: float
    embed: Tensor
    positions: Tensor
    blocks: list[Block]
    head: Tensor
    norm_position: str = "pre"
    position_offset: int = 0
    embed_scale: float = 1.0
    embed_norm: nn.Module | None = None
    final_norm: nn.Module | None = None
    transform: Linear | None = None
    transform_norm: nn.Module | None = None
    head_bias: Tensor | None = None
    types: Tensor | None = None
    type_after: list[int] = field(default_factory=list)

    @property
    def tied(self) -> bool:
        return self.head is self.embed or torch.equal(self.head, self.embed)

    def types_of(self, ids: Sequence[int]) -> list[int]:
        """The type of every token of a text."""
        pairs = list(zip(self.type_after[::2], self.type_after[1::2], strict=True))
        return [([0] + [kind for id_, kind in pairs if id_ in ids[:row]])[-1] for row in range(len(ids))]

    def spec(self, cross_keys: int) -> dict[str, Any]:
        """The manifest's decoder section; `cross_keys` tokens of all images."""
        hidden = int(self.embed.shape[1])
        spec = {
            "layers": len(self.blocks),
            "hidden": hidden,
            "heads": self.heads,
            "kv_heads": self.heads,
            "head_dim": hidden // self.heads,
            "mlp": int(self.blocks[0].mlp_in.weight.shape[0]),
            "vocab": int(self.embed.shape[0]),
            "max_positions": int(self.positions.shape[0]),
            "norm": "layernorm",
            "norm_position": self.norm_position,
            "norm_eps": self.norm_eps,
            "activation": ACTIVATIONS[self.activation],
            "positions": "learned",
            "position_offset": self.position_offset,
            "tied_head": self.tied,
            "cross_keys": cross_keys,
        }
        if self.embed_scale != 1.0:
            spec["embed_scale"] = self.embed_scale
        if self.types is not None:
            spec |= {"token_types": int(self.types.shape[0]), "type_after": list(self.type_after)}
        parts = {"embed_norm": self.embed_norm, "head_transform": self.transform, "head_bias": self.head_bias}
        return spec | {name: True for name, there in parts.items() if there is not None}

    def arrays(self) -> dict[str, np.ndarray]:
        """float32 weights in the kernel's names and layouts."""
        tensors = {"embed.weight": self.embed, "positions.weight": self.positions}
        for index, block in enumerate(self.blocks):
            for name, part in vars(block).items():
                if name not in ("cross_k", "cross_v"):  # in the graph
                    tensors |= _named(f"layers.{index}.{name}", part)
        for name in ("embed_norm", "final_norm", "transform", "transform_norm"):
            if (part := getattr(self, name)) is not None:
                tensors |= _named(name, part)
        if not self.tied:
            tensors["head.weight"] = self.head
        if self.head_bias is not None:
            tensors["head.bias"] = self.head_bias
        if self.types is not None:
            tensors["types.weight"] = self.types
        return {name: np.ascontiguousarray(t.detach().float().cpu().numpy()) for name, t in tensors.items()}


def _named(name: str, part: Any) -> dict[str, Tensor]:
    return {f"{name}.weight": part.weight, f"{name}.bias": part.bias}


def gpt2(model: Any) -> Decoder:
    """GPT-2: norms before the sublayers."""
    config, body = model.config, model.transformer
    blocks = []
    for block in body.h:
        cross = block.crossattention
        keys, values = Linear.conv1d(cross.c_attn).split(2)
        blocks.append(
            Block(
                attn_norm=block.ln_1,
                qkv=Linear.conv1d(block.attn.c_attn),
                attn_out=Linear.conv1d(block.attn.c_proj),
                cross_norm=block.ln_cross_attn,
                cross_q=Linear.conv1d(cross.q_attn),
                cross_k=keys,
                cross_v=values,
                cross_out=Linear.conv1d(cross.c_proj),
                mlp_norm=block.ln_2,
                mlp_in=Linear.conv1d(block.mlp.c_fc),
                mlp_out=Linear.conv1d(block.mlp.c_proj),
            )
        )
    return Decoder(
        heads=config.n_head,
        activation=config.activation_function,
        norm_eps=config.layer_norm_epsilon,
        embed=body.wte.weight,
        positions=body.wpe.weight,
        blocks=blocks,
        final_norm=body.ln_f,
        head=model.lm_head.weight,
    )


def _bert_like(model: Any, body: Any, offset: int) -> Decoder:
    config, embeddings = model.config, body.embeddings
    blocks = []
    for layer in body.encoder.layer:
        own, cross = layer.attention, layer.crossattention
        blocks.append(
            Block(
                attn_norm=own.output.LayerNorm,
                qkv=Linear.of(own.self.query, own.self.key, own.self.value),
                attn_out=Linear.of(own.output.dense),
                cross_norm=cross.output.LayerNorm,
                cross_q=Linear.of(cross.self.query),
                cross_k=Linear.of(cross.self.key),
                cross_v=Linear.of(cross.self.value),
                cross_out=Linear.of(cross.output.dense),
                mlp_norm=layer.output.LayerNorm,
                mlp_in=Linear.of(layer.intermediate.dense),
                mlp_out=Linear.of(layer.output.dense),
            )
        )
    positions = embeddings.position_embeddings.weight
    if hasattr(embeddings, "token_type_embeddings"):  # every token of a generated text is of type 0
        positions = positions + embeddings.token_type_embeddings.weight[:1]
    return Decoder(
        heads=config.num_attention_heads,
        activation=config.hidden_act,
        norm_eps=config.layer_norm_eps,
        norm_position="post",
        embed=embeddings.word_embeddings.weight,
        positions=positions,
        position_offset=offset,
        embed_norm=embeddings.LayerNorm,
        blocks=blocks,
        head=torch.empty(0),
    )


def bert(model: Any) -> Decoder:
    """BERT: norms behind the sublayers, a head with a layer of its own."""
    decoder, head = _bert_like(model, model.bert, 0), model.cls.predictions
    decoder.transform, decoder.transform_norm = Linear.of(head.transform.dense), head.transform.LayerNorm
    decoder.head, decoder.head_bias = head.decoder.weight, head.decoder.bias
    return decoder


def switch_types(decoder: Decoder, model: Any, type_after: list[int]) -> None:
    """Tokens of a BERT decoder are of the type that the ids before them say: pairs of an id and a type."""
    embeddings = model.bert.embeddings
    decoder.positions = embeddings.position_embeddings.weight
    decoder.types, decoder.type_after = embeddings.token_type_embeddings.weight, type_after


def roberta(model: Any) -> Decoder:
    """RoBERTa: BERT whose positions begin behind the padding's."""
    decoder, head = _bert_like(model, model.roberta, model.config.pad_token_id + 1), model.lm_head
    decoder.transform, decoder.transform_norm = Linear.of(head.dense), head.layer_norm
    decoder.head, decoder.head_bias = head.decoder.weight, head.decoder.bias
    return decoder


def bart(model: Any) -> Decoder:
    """BART: norms behind the sublayers, positions from 2."""
    config, body = model.config, model.model.decoder
    blocks = []
    for layer in body.layers:
        own, cross = layer.self_attn, layer.encoder_attn
        blocks.append(
            Block(
                attn_norm=layer.self_attn_layer_norm,
                qkv=Linear.of(own.q_proj, own.k_proj, own.v_proj),
                attn_out=Linear.of(own.out_proj),
                cross_norm=layer.encoder_attn_layer_norm,
                cross_q=Linear.of(cross.q_proj),
                cross_k=Linear.of(cross.k_proj),
                cross_v=Linear.of(cross.v_proj),
                cross_out=Linear.of(cross.out_proj),
                mlp_norm=layer.final_layer_norm,
                mlp_in=Linear.of(layer.fc1),
                mlp_out=Linear.of(layer.fc2),
            )
        )
    return Decoder(
        heads=config.decoder_attention_heads,
        activation=config.activation_function,
        norm_eps=body.layernorm_embedding.eps,
        norm_position="post",
        embed=body.embed_tokens.weight,
        embed_scale=config.d_model**0.5 if config.scale_embedding else 1.0,
        positions=body.embed_positions.weight,
        position_offset=body.embed_positions.offset,
        embed_norm=body.layernorm_embedding,
        blocks=blocks,
        head=model.lm_head.weight,
    )


def mbart(model: Any) -> Decoder:
    """mBART: BART with norms before the sublayers and the head."""
    decoder = bart(model)
    decoder.norm_position, decoder.final_norm = "pre", model.model.decoder.layer_norm
    return decoder


DECODERS: dict[str, Callable[[Any], Decoder]] = {
    "gpt2": gpt2,
    "bert": bert,
    "blip_text_model": bert,  # without types of tokens
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "bart": bart,
    "mbart": mbart,
}

_MISSING_DECODERS = {
    "trocr": "sinusoidal positions, or another norm order, of TrOCR decoders",
    "llama": "RMSNorm, SwiGLU and rotary positions",
    "opt": "OPT decoders have no cross-attention",
}


def missing_pieces(config: Any) -> Iterator[str]:
    """What a decoder's configuration asks for and the kernel or this exporter lacks."""
    kind = config.model_type
    if kind not in DECODERS:
        known = ", ".join(sorted(DECODERS))
        yield f"decoders of type {kind!r} ({_MISSING_DECODERS.get(kind, f'there are: {known}')})"
        return
    activation = getattr(config, "activation_function", None) or getattr(config, "hidden_act", None)
    if activation not in ACTIVATIONS:
        yield f"the activation {activation!r} (there are: {', '.join(ACTIVATIONS)})"
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        yield f"positions of type {config.position_embedding_type!r}"
    if not getattr(config, "scale_attn_weights", True):
        yield "attention scores without their scale (scale_attn_weights)"
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        yield "attention scores scaled by layer (scale_attn_by_inverse_layer_idx)"
