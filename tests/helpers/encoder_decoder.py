# SPDX-License-Identifier: Apache-2.0
"""Small random ``VisionEncoderDecoderModel``s of every family, and their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from edge_export.random_checkpoint import random_tokenizer

VOCAB, SIZE, END = 320, 64, 319

_ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
            "patch_size": 16},
    "deit": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
             "patch_size": 16},
    "dinov2": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2, "patch_size": 8,
               "image_size": 80},
    "dinov2_with_registers": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2,
                              "patch_size": 8, "image_size": 80},
    "dinov3_vit": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
                   "patch_size": 16, "num_register_tokens": 2},
    "swin": {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 4},
    "swinv2": {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 4},
}  # fmt: skip
_BERT = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 98,
}  # fmt: skip
_BART = {"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128,
         "max_position_embeddings": 96}  # fmt: skip
_DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "bert": _BERT,
    "roberta": _BERT,
    "bart": {**_BART, "scale_embedding": True},
    "mbart": _BART,
}
DECODERS, ENCODERS = tuple(_DECODERS), tuple(_ENCODERS)
ROBERTA_KINDS = ("xlm-roberta", "camembert")
"""Decoders that differ from RoBERTa in their tokenizers only, and in the names of their classes."""
_DECODERS |= dict.fromkeys(ROBERTA_KINDS, _BERT)


def random_model(encoder: str, decoder: str, *, seed: int = 0, full: dict[str, Any] | None = None) -> Any:
    """A model whose texts differ from picture to picture and do not stop at once; `full` replaces the shapes."""
    shapes = {"encoder": _ENCODERS[encoder], "decoder": _DECODERS[decoder], "vocab": VOCAB, "image_size": SIZE}
    shapes |= full or {}
    vocab = shapes["vocab"]
    ids = {"bos_token_id": 0, "eos_token_id": vocab - 1, "pad_token_id": 1, "decoder_start_token_id": 2}
    ids["forced_eos_token_id"] = None  # BART's would be 2
    source = hf.AutoConfig.for_model(encoder, **{"image_size": shapes["image_size"], **shapes["encoder"]})
    target = hf.AutoConfig.for_model(
        decoder, vocab_size=vocab, is_decoder=True, add_cross_attention=True, **ids, **shapes["decoder"]
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(source, target, **ids)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = hf.VisionEncoderDecoderModel(config).eval()
        # A random text with too little gain repeats its first token for ever; one with too much amplifies rounding
        # until float32 and float64 differ. With twelve layers there is no gain between the two: those texts are told
        # not to repeat themselves (full_model).
        gain = {"gpt2": 14.0, "bert": 40.0, "mbart": 18.0, "roberta": 12.0, "bart": 25.0}[decoder] if full else 8.0
        wide = gain * (64 / target.hidden_size) ** 0.5
        enliven(model, wide)
    generation = model.generation_config
    generation.max_length, generation.decoder_start_token_id = 48, 2
    generation.eos_token_id, generation.pad_token_id = vocab - 1, 1
    return model


def enliven(model: Any, gain: float) -> None:
    """Scale initialised weights until texts differ from picture to picture."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif "embed" not in name and "wte" not in name and "wpe" not in name and "lm_head" not in name:
            parameter.mul_(gain * (4 if "fc2" in name or "out_proj" in name else 1))
        else:
            parameter.mul_(2.0)


def let_positions_through(decoder: Any, attention: float, mlp: float) -> None:
    """Scale what attention and MLPs of a BERT-like decoder add to its residual stream.

    Behind many layers with the gain of :func:`enliven` the next token hardly depends on where it stands: beams that
    hold the same tokens in another order are ties then, and rounding chooses between them.
    """
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim == 2 and name.endswith("attention.output.dense.weight"):
                parameter.mul_(attention)
            elif parameter.ndim == 2 and name.endswith("output.dense.weight"):
                parameter.mul_(mlp)


def save(model: Any, folder: Path, **generation: Any) -> Path:
    """The folder that a user has; `generation` changes its generation configuration."""
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    random_tokenizer(model.config.decoder.vocab_size).save(str(folder / "tokenizer.json"))
    size = model.config.encoder.image_size
    if model.config.encoder.model_type.startswith("dinov2"):
        size = SIZE
    processor = {
        "do_resize": True, "do_normalize": True, "do_rescale": True, "size": {"height": size, "width": size},
        "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def pictures(count: int, size: int = SIZE, seed: int = 3) -> torch.Tensor:
    """Normalised pixels [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return ((smooth.clamp(0, 1) - 0.5) / 0.5).expand(-1, 3, -1, -1).contiguous()
