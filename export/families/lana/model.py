# SPDX-License-Identifier: Apache-2.0
"""The layer-wise anatomical attention generator as one PyTorch module.

Networks come from ``transformers``: a DINOv3 ViT, two DINOv3 ConvNeXt segmenters and a GPT-2 decoder. Only
the glue is ours. Parameter names follow the flat checkpoints of the paper's code (``encoder.model.*``,
``segmenter.lung_model.*``, ``segmenter.heart_model.*``, ``linear_projection.*``, ``decoder.*``), so a
checkpoint loads with ``load_state_dict``. Source: "Radiology Report Generation with Layer-Wise Anatomical
Attention", arXiv 2512.16841.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from .anatomy import LOWEST, AnatomicalBias, BiasConfig, stretch


@dataclass
class SegmenterConfig:
    """One ConvNeXt trunk with a small up-sampling head.

    Attributes
    ----------
    hidden_sizes, depths : list of int
        Widths and depths of the four ConvNeXt stages (strides 4, 8, 16, 32).
    head : list of int
        Channels of the head: 1x1 adapter, 3x3 conv, first and second transposed conv.
    """

    hidden_sizes: list[int] = field(default_factory=lambda: [96, 192, 384, 768])
    depths: list[int] = field(default_factory=lambda: [3, 3, 27, 3])
    head: list[int] = field(default_factory=lambda: [512, 256, 128, 64])


@dataclass
class LanaConfig:
    """Geometry of a model. Defaults are the paper's (512 x 512 pixels, ViT-S/16, GPT-2 small)."""

    image_size: int = 512
    patch_size: int = 16
    encoder_hidden: int = 384
    encoder_layers: int = 12
    encoder_heads: int = 6
    encoder_mlp: int = 1536
    registers: int = 4
    skip_tokens: int = 5
    connector: str = "linear"
    segmenter: SegmenterConfig | None = field(default_factory=SegmenterConfig)
    decoder_hidden: int = 768
    decoder_layers: int = 12
    decoder_heads: int = 12
    vocab: int = 50257
    positions: int = 2048
    tied_head: bool = True
    bias: BiasConfig = field(default_factory=BiasConfig)

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the segmenters' mask: stride 32, then up-sampled four times."""
        return self.image_size // 8

    @property
    def prefix_length(self) -> int:
        """Image tokens the decoder sees: CLS, registers and patches, less those skipped."""
        return 1 + self.registers + self.grid**2 - self.skip_tokens

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LanaConfig:
        values = dict(values)
        if values.get("segmenter") is not None:
            values["segmenter"] = SegmenterConfig(**values["segmenter"])
        if "bias" in values:
            values["bias"] = BiasConfig(**values["bias"])
        return cls(**values)


def keep_names(network: nn.Module, inner: str) -> None:
    """State dicts as ``transformers`` 4 names them: 5 puts what begins with `inner` into a module ``model``."""
    if not hasattr(network, "model"):
        return

    def rename(state: dict[str, Any], old: str, new: str) -> None:
        for key in [key for key in state if key.startswith(old)]:
            state[new + key.removeprefix(old)] = state.pop(key)

    def saved(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        rename(state, f"{prefix}model.{inner}", f"{prefix}{inner}")

    def loaded(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        rename(state, f"{prefix}{inner}", f"{prefix}model.{inner}")

    network.register_state_dict_post_hook(saved)
    network.register_load_state_dict_pre_hook(loaded)


class Encoder(nn.Module):
    """DINOv3 ViT. ``forward``: pixels [B,3,H,W] to tokens after the final norm, without the skipped ones."""

    def __init__(self, config: LanaConfig) -> None:
        super().__init__()
        self.skip_tokens = config.skip_tokens
        self.model = DINOv3ViTModel(
            DINOv3ViTConfig(
                patch_size=config.patch_size,
                hidden_size=config.encoder_hidden,
                intermediate_size=config.encoder_mlp,
                num_hidden_layers=config.encoder_layers,
                num_attention_heads=config.encoder_heads,
                image_size=config.image_size,
                num_register_tokens=config.registers,
            )
        )
        keep_names(self.model, "layer.")

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, self.skip_tokens :]


class SegmenterNetwork(nn.Module):
    """ConvNeXt trunk (last stage, before any norm) and its up-sampling head: to logits [B,C,H/8,W/8]."""

    def __init__(self, config: SegmenterConfig, classes: int, adapter_name: str) -> None:
        super().__init__()
        self.encoder = DINOv3ConvNextModel(
            DINOv3ConvNextConfig(hidden_sizes=config.hidden_sizes, depths=config.depths, layer_scale_init_value=1e-6)
        )
        keep_names(self.encoder, "stages.")
        first, second, third, fourth = config.head
        self.adapter_name = adapter_name
        setattr(self, adapter_name, nn.Conv2d(config.hidden_sizes[-1], first, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(second, third, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(third, fourth, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(fourth, classes, 1),
        )

    @property
    def stages(self) -> nn.ModuleList:
        """Of the trunk."""
        return getattr(self.encoder, "model", self.encoder).stages

    def trunk(self, pixels: Tensor) -> Tensor:
        """Features of the last stage, [B, C, H/32, W/32]."""
        features = pixels
        for stage in self.stages:
            features = stage(features)
        return features

    def head(self, features: Tensor) -> Tensor:
        return self.decoder(getattr(self, self.adapter_name)(features))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.trunk(pixels))


class Segmenter(nn.Module):
    """Lung (one class, sigmoid) and heart (three classes, arg-max 2) networks."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.lung_model = SegmenterNetwork(config, 1, "channel_adapter")
        self.heart_model = SegmenterNetwork(config, 3, "adapter")

    def logits(self, pixels: Tensor, shared_trunk: bool = False) -> tuple[Tensor, Tensor]:
        """Lung [B,1,M,M] and heart [B,3,M,M] logits. ``shared_trunk`` runs the lung trunk for both."""
        features = self.lung_model.trunk(pixels)
        heart_features = features if shared_trunk else self.heart_model.trunk(pixels)
        return self.lung_model.head(features), self.heart_model.head(heart_features)

    def forward(self, pixels: Tensor, shared_trunk: bool = False) -> Tensor:
        """Binary mask lung OR heart, float [B,1,M,M]."""
        lung, heart = self.logits(pixels, shared_trunk)
        is_lung = lung.sigmoid() > 0.5
        is_heart = heart.argmax(dim=1, keepdim=True) == 2
        return (is_lung | is_heart).to(pixels.dtype)


class Connector(nn.Module):
    """Encoder width to decoder width: one linear layer, or four with GELU between (``mlp4``)."""

    def __init__(self, config: LanaConfig) -> None:
        super().__init__()
        source, target = config.encoder_hidden, config.decoder_hidden
        if config.connector == "linear":
            self.proj: nn.Module = nn.Linear(source, target)
        elif config.connector == "mlp4":
            layers: list[nn.Module] = [nn.Linear(source, target)]
            for _ in range(3):
                layers += [nn.GELU(), nn.Linear(target, target)]
            self.proj = nn.Sequential(*layers)
        else:
            raise ValueError(f"connector {config.connector!r} is not one of: linear, mlp4")

    def forward(self, patches: Tensor) -> Tensor:
        return self.proj(patches)


class LanaModel(nn.Module):
    """Image encoder, connector, segmenters, anatomical bias and decoder."""

    def __init__(self, config: LanaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.segmenter = Segmenter(config.segmenter) if config.segmenter is not None else None
        self.linear_projection = Connector(config)
        self.decoder = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=config.vocab,
                n_positions=config.positions,
                n_embd=config.decoder_hidden,
                n_layer=config.decoder_layers,
                n_head=config.decoder_heads,
                tie_word_embeddings=config.tied_head,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )
        self.anatomy = AnatomicalBias(
            config.bias, config.decoder_layers, config.mask_size, config.grid, config.prefix_length
        )

    def prefix(self, pixels: Tensor) -> Tensor:
        """Pixels [B,3,H,W] to the decoder's image embeddings [B,P,D], positions not yet added."""
        return self.linear_projection(self.encoder(pixels))

    def mask(self, pixels: Tensor, shared_trunk: bool = False) -> Tensor | None:
        """Binary mask [B,1,M,M], or None without segmenters."""
        return None if self.segmenter is None else self.segmenter(pixels, shared_trunk)

    def decode_teacher_forced(self, prefix: Tensor, ids: Tensor, key_bias: Tensor | None) -> Tensor:
        """Logits of every text row under full attention, as in training (bias rows ``all``).

        Parameters
        ----------
        prefix : Tensor [B,P,D]
            Image embeddings.
        ids : Tensor [B,T] of int64
            Text ids.
        key_bias : Tensor [B,L,P] or None
            Added to the scores at the image keys, for every query, layer by layer. For the kind ``layerwise``
            [B,L,grid ** 2], stretched over the whole sequence.

        Returns
        -------
        Tensor [B,T+1,V]
            Row ``i`` predicts ``ids[:, i]``; the first comes from the last image token.
        """
        transformer = self.decoder.transformer
        batch, length, width = prefix.shape
        hidden = torch.cat([prefix, transformer.wte(ids)], dim=1)
        total = hidden.shape[1]
        hidden = hidden + transformer.wpe.weight[:total]
        causal = torch.full((total, total), LOWEST, device=hidden.device).triu(1)
        if key_bias is not None and self.config.bias.span == "sequence":
            key_bias = stretch(key_bias, total)
        heads = self.config.decoder_heads
        for index, block in enumerate(transformer.h):
            query, key, value = (
                part.view(batch, total, heads, -1).transpose(1, 2)
                for part in block.attn.c_attn(block.ln_1(hidden)).split(width, dim=2)
            )
            mask = causal
            if key_bias is not None:
                mask = causal + F.pad(key_bias[:, index], (0, total - key_bias.shape[-1]))[:, None, None, :]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            hidden = hidden + block.attn.c_proj(mixed.transpose(1, 2).reshape(batch, total, width))
            hidden = hidden + block.mlp(block.ln_2(hidden))
        return self.decoder.lm_head(transformer.ln_f(hidden[:, length - 1 :]))
