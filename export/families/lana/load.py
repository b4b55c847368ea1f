# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of this family, in either layout, to a :class:`LanaModel` and its generation defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoint import compare, read_json, read_state
from ...errors import BadCheckpoint, UsageError
from ...options import GenerationOptions, ImageOptions
from .hf_folder import end_of_text_id, read_folder
from .infer import infer_config
from .model import LanaConfig, LanaModel

FAMILY = "lana"
GPT2_POSITIONS, LONG_POSITIONS = 1024, 2048
_OPTIONAL = (
    r"decoder\.lm_head\.weight",
    r"encoder\.model\.embeddings\.mask_token",
    r"segmenter\.\w+_model\.encoder\.layer_norm\.(weight|bias)",
)
_IGNORED = (
    r"decoder\.transformer\.h\.\d+\.attn\.(bias|masked_bias)",
    r"encoder\.model\.rope_embeddings\.inv_freq",
    r"(segmenter\.)?anatomy\..*",
)


@dataclass
class Loaded:
    """A model ready for export.

    Attributes
    ----------
    layout : str
        ``flat`` or ``hf``.
    notes : list of str
        What a user must know: no segmenter, a stretched position table, ...
    tokenizer : Path or None
        Folder that seems to hold the tokenizer.
    """

    model: LanaModel
    layout: str
    generation: GenerationOptions
    image: ImageOptions
    notes: list[str] = field(default_factory=list)
    tokenizer: Path | None = None

    def check_room(self, name: str) -> None:
        """Refuse a model without positions for the texts that it is to write."""
        config, new = self.model.config, self.generation.max_new_tokens
        if config.prefix_length + len(self.generation.begin_ids) + new > config.positions:
            raise BadCheckpoint(
                f"{name}: {new} new tokens after a prefix of {config.prefix_length} do not fit the {config.positions} "
                "positions of the model"
            )


def recognises(path: Path) -> bool:
    """Whether the path looks like this family, from names alone (nothing is loaded)."""
    if path.is_dir():
        config = path / "config.json"
        return config.is_file() and str(read_json(config).get("model_type", "")).startswith("lana")
    return path.is_file()


def load(
    path: Path,
    config_file: Path | None = None,
    tokenizer: Path | None = None,
    bias: dict[str, Any] | None = None,
) -> Loaded:
    """Load a flat state dict or a LAnA folder.

    Parameters
    ----------
    path : Path
    config_file : Path, optional
        JSON with fields of :class:`LanaConfig` that override what the weights' shapes tell. By default a file
        ``NAME.config.json`` beside a flat checkpoint ``NAME.pth`` is used where there is one.
    tokenizer : Path, optional
        Folder of the tokenizer; by default the one the checkpoint lies in.
    bias : dict, optional
        Fields of :class:`BiasConfig` that win over everything else.

    Raises
    ------
    BadCheckpoint
        Another model, or weights that do not fit: all of them are listed.
    CannotRead, CorruptInput, UsageError
    """
    if path.is_dir():
        return _load_folder(path, config_file, tokenizer, bias)
    by_hand = bool(config_file or bias)
    if config_file is None and path.with_suffix(".config.json").is_file():
        config_file = path.with_suffix(".config.json")
    state = read_state(path)
    config = infer_config(state, _overrides(config_file, bias, {}), path.name, by_hand=by_hand)
    notes: list[str] = []
    if config.segmenter is None:
        notes.append("The checkpoint holds no segmenter: no mask and no anatomical bias.")
    config = _stretch_positions(state, config, GenerationOptions().max_new_tokens, notes)
    model = build(config, state, path.name)
    end = end_of_text_id(tokenizer or path.parent)
    generation = GenerationOptions(stop_ids=[end] if end is not None and end < config.vocab else [])
    return Loaded(model, "flat", generation, ImageOptions(), notes, tokenizer or path.parent)


def _load_folder(path: Path, config_file: Path | None, tokenizer: Path | None, bias: dict[str, Any] | None) -> Loaded:
    folder = read_folder(path, tokenizer)
    fields = _overrides(config_file, bias, folder.fields)
    config = infer_config(folder.state, fields, path.name, by_hand=bool(config_file or bias))
    notes = list(folder.notes)
    config = _stretch_positions(folder.state, config, folder.generation.max_new_tokens, notes)
    model = build(config, folder.state, path.name)
    return Loaded(model, "hf", folder.generation, folder.image, notes, folder.tokenizer)


def _overrides(config_file: Path | None, bias: dict[str, Any] | None, fields: dict[str, Any]) -> dict[str, Any]:
    """``fields`` of a folder, overridden by a configuration file, overridden by single bias options."""
    values = dict(fields)
    if config_file is not None:
        read = read_json(config_file)
        unknown = sorted(set(read) - set(LanaConfig().to_dict()))
        if unknown:
            raise UsageError(f"{config_file.name}: unknown fields {', '.join(unknown)}")
        values.update(read)
    if bias:
        values["bias"] = {**values.get("bias", {}), **bias}
    return values


def _stretch_positions(state: dict[str, Tensor], config: LanaConfig, new_tokens: int, notes: list[str]) -> LanaConfig:
    """GPT-2's own 1024 positions are too few for image and text: stretched to 2048, as in training."""
    name = "decoder.transformer.wpe.weight"
    table = state.get(name)
    if table is None or table.ndim != 2:
        return config
    config.positions = table.shape[0]
    if config.positions == GPT2_POSITIONS and config.prefix_length + new_tokens + 1 > GPT2_POSITIONS:
        config.positions = LONG_POSITIONS
        wide = F.interpolate(table.t()[None], size=LONG_POSITIONS, mode="linear", align_corners=True)
        state[name] = wide[0].t().contiguous()
        notes.append(f"The position table was stretched from {GPT2_POSITIONS} to {LONG_POSITIONS} rows.")
    return config


def build(config: LanaConfig, state: dict[str, Tensor], name: str) -> LanaModel:
    """A model with exactly these weights."""
    embed = state.get("decoder.transformer.wte.weight")
    head = state.get("decoder.lm_head.weight")
    config.tied_head = head is None or (embed is not None and head.shape == embed.shape and torch.equal(head, embed))
    try:
        with torch.random.fork_rng(devices=[]):
            model = LanaModel(config)
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise BadCheckpoint(f"{name}: no such model can be built ({_first_line(error)})") from None
    expected = model.state_dict()
    compare(state, expected, optional=_OPTIONAL, ignored=_IGNORED).raise_if_any(name)
    model.load_state_dict({key: value for key, value in state.items() if key in expected}, strict=False)
    return model.eval()


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]
