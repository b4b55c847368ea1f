# SPDX-License-Identifier: Apache-2.0
"""Values that the JSON files of a Hugging Face folder may have: what no model can be is refused by its name.

A field that is missing or null says nothing, and one that is not known here is left to whoever reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.strict import short

from ..errors import BadCheckpoint

MOST = 1 << 22
"""Of any width or length."""
MOST_LAYERS = 256
MOST_PIXELS = 1 << 14
"""Of a picture's side."""


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test."""

    expected: str
    fits: Callable[[Any], bool]


def whole(low: int, high: int = MOST) -> Rule:
    """A whole number; true and false are none."""
    return Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def number(low: float, high: float) -> Rule:
    """A finite number."""
    return Rule(f"a number from {low:g} to {high:g}", lambda value: _is_number(value) and low <= value <= high)


def each(rule: Rule) -> Rule:
    """One such value, or a list of them for the stages of a network."""
    return Rule(
        f"{rule.expected}, or a list of such",
        lambda value: bool(value) and all(map(rule.fits, value)) if isinstance(value, list) else rule.fits(value),
    )


def exactly(count: int, rule: Rule, words: str) -> Rule:
    """A list of so many values; `words` say it."""
    return Rule(words, lambda value: isinstance(value, list) and len(value) == count and all(map(rule.fits, value)))


BOOLEAN = Rule("true or false", lambda value: type(value) is bool)
TEXT = Rule("a text", lambda value: isinstance(value, str))


def one_of(*texts: str) -> Rule:
    """One of a few texts."""
    return Rule(f"one of: {', '.join(texts)}", lambda value: value in texts)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    parts = [part for part in value.values() if part is not None] if isinstance(value, dict) else value
    parts = parts if isinstance(parts, list) else [parts]
    return 1 <= len(parts) <= 4 and all(map(whole(1, MOST_PIXELS).fits, parts))


_SIZE = Rule(f"a size of whole numbers from 1 to {MOST_PIXELS}", _is_size)
_WIDTH, _LAYERS, _SHARE, _EPSILON = each(whole(1)), each(whole(1, MOST_LAYERS)), each(number(0, 1)), number(1e-12, 0.1)

NETWORK: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("hidden_size", "hidden_sizes", "embed_dim", "d_model", "n_embd", "projection_size"),
            *("intermediate_size", "n_inner", "decoder_ffn_dim"),
            *("num_attention_heads", "num_heads", "n_head", "decoder_attention_heads"),
            *("vocab_size", "type_vocab_size", "n_positions", "n_ctx", "max_position_embeddings"),
            *("cross_attention_hidden_size", "num_channels", "window_size"),
            *("patch_size", "patch_sizes", "patch_stride", "kernel_qkv", "stride_kv", "stride_q"),
        ),
        _WIDTH,
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "decoder_layers", "num_layers", "depth", "depths"), _LAYERS),
    **dict.fromkeys(("num_register_tokens", "patch_padding", "padding_kv", "padding_q"), each(whole(0))),
    **dict.fromkeys(
        (
            *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "activation_dropout"),
            *("dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "drop_rate", "attention_drop_rate"),
            *("drop_path_rate", "decoder_layerdrop"),
        ),
        _SHARE,
    ),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon"), _EPSILON),
    **dict.fromkeys(("hidden_act", "activation_function"), TEXT),
    "mlp_ratio": each(number(1e-3, 1e3)),
    "image_size": _SIZE,
}
"""Encoders and decoders."""

PROCESSOR: dict[str, Rule] = {
    "size": _SIZE,
    "crop_size": _SIZE,
    "crop_pct": number(0.01, 1),
    "resample": whole(0, 5),
    "rescale_factor": number(1e-9, 1e9),
    "image_mean": exactly(3, number(-1e6, 1e6), "three numbers"),
    "image_std": exactly(3, number(1e-6, 1e6), "three numbers above 0"),
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_center_crop"), BOOLEAN),
}
"""``preprocessor_config.json``."""

GENERATION: dict[str, Rule] = {
    "repetition_penalty": number(0.01, 100),
    "length_penalty": number(-10, 10),
    "num_beams": whole(1, 16),
    "no_repeat_ngram_size": whole(0, 64),
    **dict.fromkeys(("max_length", "max_new_tokens"), whole(1)),
    **dict.fromkeys(("min_length", "min_new_tokens"), whole(0)),
    "do_sample": BOOLEAN,
    "early_stopping": Rule("true, false or never", lambda value: type(value) is bool or value == "never"),
}
"""``generation_config.json``, or the same in a configuration."""


def problem(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> str | None:
    """The first value that cannot be, and what it must be; None where all can."""
    for key, rule in rules.items():
        value = values.get(key)
        if value is not None and not rule.fits(value):
            return f"{key} must be {rule.expected}, not {short(value)}"
    return None


def check(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> None:
    """Refuse a value that cannot be.

    Raises
    ------
    BadCheckpoint
        It is named, behind `where`.
    """
    found = problem(values, rules)
    if found is not None:
        raise BadCheckpoint(f"{where}: {found}")
