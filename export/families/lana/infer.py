# SPDX-License-Identifier: Apache-2.0
"""The geometry of a model from the shapes of its weights."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ...errors import BadCheckpoint, UsageError
from ..limits import MOST_LAYERS, Rule, number, problem, whole
from .model import LanaConfig

_HEAD_DIM = 64
"""Of every public ViT-S/B/L and GPT-2; other models say how many heads they have in their configuration."""
_LIMITS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("patch_size", "encoder_hidden", "encoder_heads", "encoder_mlp", "decoder_hidden", "decoder_heads"),
            *("vocab", "positions"),
        ),
        whole(1),
    ),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), whole(0, MOST_LAYERS)),  # none: the weights are missing
    **dict.fromkeys(("registers", "skip_tokens"), whole(0)),
    "image_size": whole(1),
}
_BIAS_LIMITS = {"strength": number(-1e6, 1e6), "kernel_base": whole(1), "kernel_growth": whole(0)}


def infer_config(
    state: dict[str, Tensor], overrides: dict[str, Any], name: str, *, by_hand: bool = False
) -> LanaConfig:
    """A configuration from weights under the flat names.

    Parameters
    ----------
    overrides : dict
        Fields of :class:`LanaConfig` that win over what the shapes tell.
    by_hand : bool
        Some of these were given by hand.

    Raises
    ------
    BadCheckpoint
        The weights that tell the geometry are not there: it is another kind of model; or they tell none that can be.
    UsageError
        The same, and some of it was given by hand.
    """
    shapes = _Shapes(state)
    for key, ndim in (
        ("encoder.model.embeddings.patch_embeddings.weight", 4),
        ("decoder.transformer.wte.weight", 2),
        ("decoder.transformer.wpe.weight", 2),
    ):
        if len(shapes.of(key)) != ndim:
            some = ", ".join(sorted(state)[:5])
            raise BadCheckpoint(
                f"{name} is not a checkpoint of the family lana: it has no usable {key} (it holds {some}, ...)"
            )
    hidden, _, patch, _ = shapes.of("encoder.model.embeddings.patch_embeddings.weight")
    vocab, width = shapes.of("decoder.transformer.wte.weight")
    values: dict[str, Any] = {
        "patch_size": patch,
        "encoder_hidden": hidden,
        "encoder_layers": shapes.count(r"encoder\.model\.layer\.(\d+)\."),
        "encoder_heads": max(1, hidden // _HEAD_DIM),
        "encoder_mlp": (shapes.of("encoder.model.layer.0.mlp.up_proj.weight") or (4 * hidden,))[0],
        "registers": (shapes.of("encoder.model.embeddings.register_tokens") or (1, 4, 1))[1],
        "connector": "mlp4" if "linear_projection.proj.6.weight" in state else "linear",
        "decoder_hidden": width,
        "decoder_layers": shapes.count(r"decoder\.transformer\.h\.(\d+)\."),
        "decoder_heads": max(1, width // _HEAD_DIM),
        "vocab": vocab,
        "positions": shapes.of("decoder.transformer.wpe.weight")[0],
        "segmenter": _segmenter(shapes),
    }
    values.update({key: value for key, value in overrides.items() if key != "segmenter"})
    if "segmenter" in overrides and overrides["segmenter"] is None:
        values["segmenter"] = None
    try:
        config = LanaConfig.from_dict(values)
        if wrong := problem(vars(config), _LIMITS) or problem(vars(config.bias), _BIAS_LIMITS) or _misfit(config):
            raise ValueError(wrong)
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise (UsageError if by_hand else BadCheckpoint)(
            f"the configuration of {name} does not make a model ({error})"
        ) from None
    return config


def _misfit(config: LanaConfig) -> str | None:
    """What does not go together; a field has its name in a folder, too."""
    if config.grid < 1:
        return f"image_size {config.image_size} is less than one patch of {config.patch_size}"
    if config.skip_tokens > 1 + config.registers:
        name = "skip_tokens (vision_feature_prefix_tokens_to_skip)"
        return f"{name} {config.skip_tokens} is more than the {1 + config.registers} tokens before the patches"
    for part, name in (("encoder", "num_attention_heads"), ("decoder", "n_head")):
        heads, width = getattr(config, f"{part}_heads"), getattr(config, f"{part}_hidden")
        if width % heads:
            return f"{part}_heads ({name}) {heads} does not divide the width of {width}"
    return None


def _segmenter(shapes: _Shapes) -> dict[str, list[int]] | None:
    if not any(key.startswith("segmenter.") for key in shapes.state):
        return None
    sizes, depths = [], []
    for stage in range(4):
        base = f"segmenter.lung_model.encoder.stages.{stage}."
        sizes.append((shapes.of(f"{base}layers.0.depthwise_conv.weight") or (0,))[0])
        depths.append(shapes.count(re.escape(base) + r"layers\.(\d+)\."))
    head = [
        (shapes.of("segmenter.lung_model.channel_adapter.weight") or (0,))[0],
        (shapes.of("segmenter.lung_model.decoder.0.weight") or (0,))[0],
        (shapes.of("segmenter.lung_model.decoder.2.weight") or (0, 0))[1],
        (shapes.of("segmenter.lung_model.decoder.4.weight") or (0, 0))[1],
    ]
    if 0 in (*sizes, *depths, *head):
        # Too much is missing to tell: compare with the paper's, so that the error lists what is not there.
        return {}
    return {"hidden_sizes": sizes, "depths": depths, "head": head}


class _Shapes:
    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def of(self, name: str) -> tuple[int, ...]:
        """Shape of a weight, empty where there is none."""
        tensor = self.state.get(name)
        return tuple(tensor.shape) if tensor is not None else ()

    def count(self, pattern: str) -> int:
        """One more than the largest index that the pattern's group takes."""
        found = (re.match(pattern, name) for name in self.state)
        return 1 + max((int(match.group(1)) for match in found if match), default=-1)
