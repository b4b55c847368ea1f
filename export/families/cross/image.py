# SPDX-License-Identifier: Apache-2.0
"""A preprocessor configuration to the bundle's image section."""

from __future__ import annotations

from typing import Any

from ...errors import BadCheckpoint
from ...options import ImageOptions

_RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_CROP_SHARE_BELOW = 384
"""ConvNeXt's processor crops pictures below this size and warps larger ones."""


def image_section(values: dict[str, Any], encoder_size: Any, options: ImageOptions) -> dict[str, Any]:
    """The manifest's image section.

    Parameters
    ----------
    values : dict
        ``preprocessor_config.json``; empty: the encoder's size, bilinear, mean and std 0.5, as ViT's processor does.
    encoder_size : int, pair of int or None
        What the encoder's configuration says.
    options : ImageOptions
        Its intensity pipeline is taken.

    Raises
    ------
    BadCheckpoint
        It asks for something the runtime's pipeline does not do.
    """
    default = _pair(encoder_size) or (224, 224)
    size = values.get("size", list(default))
    resample = values.get("resample", 2)
    if resample not in _RESAMPLING:
        raise BadCheckpoint(f"preprocessor_config.json: resampling {resample!r} is not one of {sorted(_RESAMPLING)}")
    section: dict[str, Any] = {"resize": _RESAMPLING[resample]}
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    whole = _pair(size) if edge is None else None
    if edge is not None and "crop_pct" in values and isinstance(edge, int):
        if edge < _CROP_SHARE_BELOW:
            section["crop_from"], final = [int(edge / float(values["crop_pct"] or 0.875))], (edge, edge)
        else:
            final = (edge, edge)
    elif values.get("do_center_crop", False):
        final = _pair(values.get("crop_size", size)) or default
        section["crop_from"] = [edge] if edge is not None else list(whole or default)
    elif whole is not None:
        final = whole
    else:
        raise BadCheckpoint(f"preprocessor_config.json: pictures of size {size!r} differ from film to film")
    mean, std = _numbers(values, "image_mean"), _numbers(values, "image_std")
    if not values.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    section |= {
        "height": final[0],
        "width": final[1],
        "mean": [v / (factor * 255) for v in mean],
        "std": [v / (factor * 255) for v in std],
        "intensity": options.intensity,
    }
    return section


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width of the ways a configuration writes them."""
    if isinstance(size, dict):
        size = [size.get("height"), size.get("width")]
    if isinstance(size, int):
        size = [size, size]
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(type(v) is int and v > 0 for v in size):
        return int(size[0]), int(size[1])
    return None


def _numbers(values: dict[str, Any], key: str) -> list[float]:
    numbers = values.get(key, [0.5, 0.5, 0.5])
    if not isinstance(numbers, list) or len(numbers) != 3 or not all(isinstance(v, (int, float)) for v in numbers):
        raise BadCheckpoint(f"preprocessor_config.json: {key} is not three numbers")
    return [float(v) for v in numbers]
