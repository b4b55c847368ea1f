# SPDX-License-Identifier: Apache-2.0
"""The formats that are compared, and a decoder in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.decoder import Decoder

WEIGHTS = ("fp32", "int8", "int4", "int4-head")
"""int4-head: with the embedding and the head in int4, too."""
CACHES = ("fp32", "fp16", "int8")
TRUTH = ("fp32", "fp32")
"""Weights and cache that all others are compared with."""


@dataclass(frozen=True)
class Format:
    """Types of the weights and of the KV cache."""

    weights: str
    cache: str

    @property
    def is_truth(self) -> bool:
        return (self.weights, self.cache) == TRUTH


def all_formats() -> list[Format]:
    """Every pair that this build's kernel has; what all are compared with comes first."""
    return [Format(weights, cache) for weights in WEIGHTS for cache in CACHES if kernel_has(weights, cache)]


def kernel_has(weights: str, cache: str) -> bool:
    """Whether a (tiny) decoder of these types can be made."""
    import numpy as np

    from ..reference import SPEC, random_weights

    sizes = {"layers": 1, "hidden": 32, "heads": 1, "kv_heads": 1, "head_dim": 32, "mlp": 32, "vocab": 32}
    spec = {**SPEC, **sizes, "max_positions": 8}
    arrays = {name: np.asarray(array) for name, array in random_weights(spec, "none").items()}
    try:
        make_decoder(spec, convert(arrays, weights), cache, threads=1)
    except (UsageError, BundleError):
        return False
    return True


def convert(
    arrays: Mapping[str, NDArray[np.generic]], weights: str, *, prefill: bool = False
) -> dict[str, NDArray[np.generic]]:
    """float32 weights as a bundle of this precision has them; `prefill`: one whose prefill is the kernel's."""
    if weights == "fp32":
        return dict(arrays)
    from edge_export.quantize import quantize_decoder

    whole = weights == "int4-head"
    converted: dict[str, NDArray[np.generic]] = quantize_decoder(
        dict(arrays), weights.removesuffix("-head"), int4_head=whole, prefill=prefill
    )
    return converted


def widen(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """float32 weights as they are, int8 ones as the numbers that they stand for."""
    import numpy as np

    wide: dict[str, NDArray[np.generic]] = {}
    for name, array in arrays.items():
        if array.dtype == np.int8:
            wide[name] = array.astype(np.float32) * arrays[f"{name}.scale"][:, None]
        elif not name.endswith(".scale") or arrays[name.removesuffix(".scale")].dtype != np.int8:
            wide[name] = array
    return wide


def make_decoder(spec: Mapping[str, Any], weights: Mapping[str, Any], cache: str, *, threads: int) -> Decoder:
    from edge.decoder import Decoder

    return Decoder(spec, weights, kv_dtype=cache, threads=threads)  # type: ignore[arg-type]
