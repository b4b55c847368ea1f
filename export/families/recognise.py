# SPDX-License-Identifier: Apache-2.0
"""Which family a checkpoint is of, from its configuration or the names of its weights; and what is missing for those
that are known but not supported."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import BadCheckpoint
from . import CROSS, CVT2DISTILGPT2, LANA, PROMPTMRG

_TEXT_KEYS = ("text_config", "llm_config", "language_config", "decoder")
_VISION = {
    "qwen2_vl": ("positions of image tokens in time, height and width (M-RoPE)", "the 2x2 merge of patches"),
    "qwen2_5_vl": (
        "positions of image tokens in time, height and width (M-RoPE)",
        "attention in windows",
        "the 2x2 merge of patches",
    ),
}
_ELSE = {
    "blip-2": "the query transformer between image and text",
    "instructblip": "the query transformer between image and text",
    "git": "an image prefix before a BERT decoder without cross-attention, in one attention",
    "t5": "relative position biases",
    "mllama": "gated cross-attention in some layers only",
}


def family_of(path: Path, asked: str = "auto") -> str:
    """The family to read a checkpoint as: the one asked for, else what a folder's ``config.json`` or the names of a
    state dict's weights say.

    Raises
    ------
    BadCheckpoint
        A family that is known and not supported: its missing pieces are named.
    """
    if asked != "auto":
        return asked
    if (path / "config.json").is_file():
        from ..checkpoint import read_json

        values = read_json(path / "config.json")
        if values.get("model_type") == CROSS:
            return CROSS
        if missing := list(missing_of(values)):
            kind = str(values.get("model_type"))[:40]
            raise BadCheckpoint(f"{path.name}: not supported: models of type {kind!r}; missing: {', '.join(missing)}")
        return LANA
    if path.is_file():
        from ..checkpoint import names_in
        from .cross import cvt2distilgpt2, promptmrg

        names = names_in(path)
        if promptmrg.recognises(names):
            return PROMPTMRG
        if cvt2distilgpt2.recognises(names):
            return CVT2DISTILGPT2
        if has_relational_memory(names):
            raise BadCheckpoint(
                f"{path.name}: not supported: R2Gen's decoder; missing: the relational memory, whose state goes on "
                "from token to token of every text, and the norms that it conditions"
            )
    return LANA


def missing_of(values: dict[str, Any]) -> Iterator[str]:
    """What the kernel or this exporter lacks for a configuration of a decoder that it does not know by name."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind.startswith("lana"):
        return
    text = next((values[key] for key in _TEXT_KEYS if isinstance(values.get(key), dict)), values)
    if "rms_norm_eps" in text or text.get("model_type") in ("llama", "mistral", "qwen2"):
        yield "RMSNorm"
        yield "SwiGLU"
        scaling = text.get("rope_scaling")
        scaled = scaling.get("rope_type", scaling.get("type", "")) if isinstance(scaling, dict) else ""
        yield f"rotary positions{f' with {scaled} scaling' if scaled and scaled not in ('default', 'mrope') else ''}"
        heads, shared = text.get("num_attention_heads"), text.get("num_key_value_heads")
        if isinstance(shared, int) and shared != heads:
            yield f"grouped queries ({heads} heads on {shared})"
    yield from _VISION.get(kind, ())
    if kind in _ELSE:
        yield _ELSE[kind]


def has_relational_memory(names: Collection[str]) -> bool:
    """Whether weights are R2Gen's: a recurrent memory, and norms that it conditions."""
    return any(".rm.attn." in name for name in names) and any(".mlp_gamma." in name for name in names)
