# SPDX-License-Identifier: Apache-2.0
"""A LAnA Hugging Face folder: configuration, weights, segmenters, generation defaults, image pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint import read_json, read_state
from ...errors import BadCheckpoint, CannotRead
from ...options import GenerationOptions, ImageOptions
from ..limits import BOOLEAN, MOST_LAYERS, MOST_PIXELS, NETWORK, PROCESSOR, TEXT, check, number, one_of, whole
from .anatomy import KINDS
from .layouts import hf_to_flat

END_OF_TEXT = "<|endoftext|>"
_NEW_TOKENS = 150
_SEGMENTERS = {"lung": "lung_segmenter_checkpoint", "heart": "heart_segmenter_checkpoint"}
# What DINOv3 and GPT-2 configurations may say and this exporter takes for granted.
_VISION_FIXED = {
    "hidden_act": "gelu",
    "use_gated_mlp": False,
    "rope_theta": 100.0,
    "layer_norm_eps": 1e-5,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
}
_TEXT_FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
_SEGMENTATION_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
_LIMITS = {
    "image_size": whole(16, 4096),
    "mask_size": whole(1, MOST_PIXELS),
    "num_attention_layers": whole(1, MOST_LAYERS),
    **dict.fromkeys(("max_position_embeddings", "visual_feature_dim", "text_hidden_size", "vocab_size"), whole(1)),
    "visual_projection_type": one_of("linear", "mlp4"),
    "vision_feature_prefix_tokens_to_skip": whole(0, 1024),
    "anatomical_attention_bias": number(-1e6, 1e6),
    "layer_mask_base_kernel_size": whole(1),
    "layer_mask_kernel_growth": whole(0),
    "generation_repetition_penalty": number(0.01, 100),
    **dict.fromkeys(
        (
            *("use_segmentation_mask", "segmenter_weights_in_model_state"),
            *("generation_use_bos_token", "generation_stop_on_eos"),
        ),
        BOOLEAN,
    ),
    **dict.fromkeys(
        (
            *("attention_bias_mode", "bundled_tokenizer_name", "bundled_vision_model_name"),
            *("bundled_text_model_name", "bundled_segmentation_model_name", *_SEGMENTERS.values()),
        ),
        TEXT,
    ),
}


@dataclass
class Folder:
    """What a folder holds: weights under the flat names, and fields of :class:`LanaConfig`."""

    state: dict[str, Tensor]
    fields: dict[str, Any]
    generation: GenerationOptions
    image: ImageOptions
    notes: list[str] = field(default_factory=list)
    tokenizer: Path | None = None


def read_folder(path: Path, tokenizer: Path | None = None) -> Folder:
    """Read a folder; ``tokenizer`` is another folder to take the tokenizer from.

    Raises
    ------
    BadCheckpoint
        Another model type, or an option this exporter does not implement.
    CannotRead, CorruptInput
    """
    if not (path / "config.json").is_file():
        raise CannotRead(f"{path} has no config.json: it is not a Hugging Face model folder")
    config = read_json(path / "config.json")
    kind = config.get("model_type")
    if kind != "lana_radgen":
        raise BadCheckpoint(f"{path.name} is a model of type {kind!r}; this exporter knows lana_radgen")
    check(config, _LIMITS, f"{path.name}: config.json")
    config = {key: value for key, value in config.items() if value is not None}
    weights = _weights_file(path)
    state = hf_to_flat(read_state(weights))
    notes: list[str] = []
    fields = _fields(path, config)
    _add_segmenters(path, config, state, fields, notes)
    tokenizer = tokenizer or _inside(path, config.get("bundled_tokenizer_name")) or path
    generation = _generation(config, tokenizer, fields)
    return Folder(state, fields, generation, _image(path, fields), notes, tokenizer)


def _weights_file(path: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    if (path / "model.safetensors.index.json").is_file():
        raise BadCheckpoint(f"{path.name} is split into several weight files: save it as one model.safetensors")
    raise CannotRead(f"{path} has no model.safetensors")


def _inside(root: Path, reference: Any) -> Path | None:
    """A path named by the configuration, only where it lies inside the folder and exists."""
    if not isinstance(reference, str) or not reference:
        return None
    found = (root / reference).resolve()
    return found if found.is_relative_to(root.resolve()) and found.exists() else None


def _sub_config(path: Path, config: dict[str, Any], key: str, fixed: dict[str, Any]) -> dict[str, Any]:
    folder = _inside(path, config.get(key))
    if folder is None or not (folder / "config.json").is_file():
        return {}
    values = read_json(folder / "config.json")
    check(values, NETWORK, f"{path.name}, {folder.name}: config.json")
    other = [
        f"{name} is {values[name]!r} instead of {want!r}"
        for name, want in fixed.items()
        if name in values and values[name] != want
    ]
    if other:
        raise BadCheckpoint(f"{path.name}, {folder.name}: not implemented: {', '.join(other)}")
    return values


def _fields(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    mode = config.get("attention_bias_mode", "layerwise")
    if mode not in KINDS:
        raise BadCheckpoint(f"{path.name}: attention_bias_mode {mode!r} is not one of {', '.join(KINDS)}")
    fields: dict[str, Any] = {
        "image_size": config.get("image_size", 512),
        "connector": config.get("visual_projection_type", "mlp4"),
        "skip_tokens": config.get("vision_feature_prefix_tokens_to_skip", 1),
        "bias": {
            "kind": mode,
            "strength": config.get("anatomical_attention_bias", 2.0),
            "kernel_base": config.get("layer_mask_base_kernel_size", 3),
            "kernel_growth": config.get("layer_mask_kernel_growth", 2),
        },
    }
    vision = _sub_config(path, config, "bundled_vision_model_name", _VISION_FIXED)
    text = _sub_config(path, config, "bundled_text_model_name", _TEXT_FIXED)
    _sub_config(path, config, "bundled_segmentation_model_name", _SEGMENTATION_FIXED)
    if vision.get("num_attention_heads") is not None:
        fields["encoder_heads"] = vision["num_attention_heads"]
    if text.get("n_head") is not None:
        fields["decoder_heads"] = text["n_head"]
    if "max_position_embeddings" in config:
        fields["positions"] = config["max_position_embeddings"]
    return fields


def _add_segmenters(
    path: Path, config: dict[str, Any], state: dict[str, Tensor], fields: dict[str, Any], notes: list[str]
) -> None:
    """Take the segmenters from the state or from files of their own; leave them out where none is trained."""
    if not config.get("use_segmentation_mask", True):
        _drop(state, fields, notes, "The configuration switches the segmentation mask off")
        return
    files = {name: _inside(path, config.get(key)) for name, key in _SEGMENTERS.items()}
    in_state = bool(config.get("segmenter_weights_in_model_state", False)) and any(
        name.startswith("segmenter.") for name in state
    )
    if not in_state and not any(files.values()):
        _drop(state, fields, notes, "The folder holds no trained segmenter")
        return
    if in_state:
        return
    for name in [key for key in state if key.startswith("segmenter.")]:
        del state[name]
    for name, file in files.items():
        if file is not None:
            for key, tensor in read_state(file).items():
                state[f"segmenter.{name}_model.{key}"] = tensor
    _fill_absent(state, files, notes)


def _drop(state: dict[str, Tensor], fields: dict[str, Any], notes: list[str], why: str) -> None:
    for name in [key for key in state if key.startswith("segmenter.")]:
        del state[name]
    fields["segmenter"] = None
    notes.append(f"{why}: no mask and no anatomical bias.")


def _fill_absent(state: dict[str, Tensor], files: dict[str, Path | None], notes: list[str]) -> None:
    """Where one of the two segmenters is not trained, a constant one stands in that never marks a pixel."""
    absent = [name for name, file in files.items() if file is None]
    if not absent:
        return
    (gone,) = absent
    there = "heart" if gone == "lung" else "lung"
    adapter = {"lung": "channel_adapter", "heart": "adapter"}
    source, target = f"segmenter.{there}_model.", f"segmenter.{gone}_model."
    for key in [key for key in state if key.startswith(source)]:
        name = key[len(source) :].replace(f"{adapter[there]}.", f"{adapter[gone]}.", 1)
        state[target + name] = state[key]
    last = state.get(f"{target}decoder.6.weight")
    if last is not None:
        classes = 1 if gone == "lung" else 3
        state[f"{target}decoder.6.weight"] = torch.zeros(classes, *last.shape[1:])
        never = torch.tensor([-1.0]) if gone == "lung" else torch.tensor([1.0, 0.0, 0.0])
        state[f"{target}decoder.6.bias"] = never
    notes.append(f"Only the {there} segmenter is trained: the mask is the {there} alone.")


def _generation(config: dict[str, Any], tokenizer: Path, fields: dict[str, Any]) -> GenerationOptions:
    from ...tokenizer_files import load_tokenizer

    end = load_tokenizer(tokenizer).token_to_id(END_OF_TEXT)
    ends = [end] if end is not None else []
    stops = bool(config.get("generation_stop_on_eos", False))
    begins = bool(config.get("generation_use_bos_token", True))
    if begins and end is None:
        raise BadCheckpoint(f"the model begins with {END_OF_TEXT}, which the tokenizer does not know")
    penalty = float(config.get("generation_repetition_penalty", 1.0))
    return GenerationOptions(
        max_new_tokens=_NEW_TOKENS,
        repetition_penalty=penalty if penalty > 1.0 else 1.0,
        stop_ids=ends if stops else [],
        suppressed_ids=[] if stops else ends,
        begin_ids=ends if begins else [],
    )


def end_of_text_id(tokenizer: Path) -> int | None:
    """Id of the end-of-text token in a folder's tokenizer files, None where there are none."""
    from ...tokenizer_files import load_tokenizer

    try:
        return load_tokenizer(tokenizer).token_to_id(END_OF_TEXT)
    except CannotRead:
        return None


def _image(path: Path, fields: dict[str, Any]) -> ImageOptions:
    image = ImageOptions()
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return image
    values = read_json(file)
    check(values, PROCESSOR, f"{path.name}: {file.name}")
    size = values.get("size")
    if isinstance(size, dict) and size.get("height") is not None:
        if size.get("width") != size["height"]:
            raise BadCheckpoint(f"{path.name}: {file.name}: size must be as high as wide: pictures are square")
        fields["image_size"] = size["height"]
    for key, name in (("image_mean", "mean"), ("image_std", "std")):
        if values.get(key) is not None:
            setattr(image, name, [float(v) for v in values[key]])
    return image
