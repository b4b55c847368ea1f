# SPDX-License-Identifier: Apache-2.0
"""The two key layouts of the family's checkpoints, and how each maps onto the names of :class:`LanaModel`.

``flat`` is the state dict of the paper's code, whose names :class:`LanaModel` uses itself. ``hf`` is a LAnA
Hugging Face folder: other prefixes, and a connector without its ``proj`` level.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from .model import LanaModel

LAYOUTS = ("flat", "hf")
_HF_TO_FLAT = (
    ("vision_encoder.", "encoder.model."),
    ("visual_projection.", "linear_projection.proj."),
    ("text_decoder.", "decoder."),
)


def hf_to_flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a LAnA folder's state; unknown keys stay as they are."""
    return {_rename(name, _HF_TO_FLAT): tensor for name, tensor in state.items()}


def flat_to_hf(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`hf_to_flat`."""
    back = tuple((flat, hf) for hf, flat in _HF_TO_FLAT)
    return {_rename(name, back): tensor for name, tensor in state.items()}


def _rename(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for old, new in prefixes:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def save_flat(model: LanaModel, path: Path) -> None:
    """Write the paper's layout: ``.safetensors``, or a ``.pth`` pickle for any other suffix."""
    import torch
    from safetensors.torch import save_file

    state = _state(model)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def save_hf(model: LanaModel, folder: Path) -> None:
    """Write a LAnA folder: ``config.json``, ``model.safetensors`` and the bundled sub-configurations."""
    from safetensors.torch import save_file

    config = model.config
    folder.mkdir(parents=True, exist_ok=True)
    vision = {
        "model_type": "dinov3_vit",
        "hidden_size": config.encoder_hidden,
        "num_hidden_layers": config.encoder_layers,
        "num_attention_heads": config.encoder_heads,
        "intermediate_size": config.encoder_mlp,
        "num_register_tokens": config.registers,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
    }
    text = {
        "model_type": "gpt2",
        "n_embd": config.decoder_hidden,
        "n_layer": config.decoder_layers,
        "n_head": config.decoder_heads,
        "vocab_size": config.vocab,
        "n_positions": config.positions,
        "activation_function": "gelu_new",
    }
    top = {
        "model_type": "lana_radgen",
        "image_size": config.image_size,
        "mask_size": config.grid,
        "num_attention_layers": config.decoder_layers,
        "max_position_embeddings": config.positions,
        "visual_feature_dim": config.encoder_hidden,
        "text_hidden_size": config.decoder_hidden,
        "visual_projection_type": config.connector,
        "vocab_size": config.vocab,
        "layer_mask_base_kernel_size": config.bias.kernel_base,
        "layer_mask_kernel_growth": config.bias.kernel_growth,
        "anatomical_attention_bias": config.bias.strength,
        "attention_bias_mode": config.bias.kind,
        "vision_feature_prefix_tokens_to_skip": config.skip_tokens,
        "use_segmentation_mask": model.segmenter is not None,
        "generation_use_bos_token": True,
        "generation_stop_on_eos": False,
        "generation_repetition_penalty": 1.0,
        "bundled_vision_model_name": "bundled_backbones/vision",
        "bundled_text_model_name": "bundled_backbones/text",
        "bundled_segmentation_model_name": "bundled_backbones/segmentation",
        "segmenter_weights_in_model_state": model.segmenter is not None,
    }
    parts = {"": top, "bundled_backbones/vision": vision, "bundled_backbones/text": text}
    if config.segmenter is not None:
        parts["bundled_backbones/segmentation"] = {
            "model_type": "dinov3_convnext",
            "hidden_sizes": config.segmenter.hidden_sizes,
            "depths": config.segmenter.depths,
        }
    for name, values in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    save_file(flat_to_hf(_state(model)), folder / "model.safetensors", metadata={"format": "pt"})


def _state(model: LanaModel) -> dict[str, Tensor]:
    """All weights as contiguous tensors of their own (the tied head is stored twice, as the paper's code
    does)."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
