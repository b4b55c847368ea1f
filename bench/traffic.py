# SPDX-License-Identifier: Apache-2.0
"""Bytes that one decode step has to read from memory: what bounds its speed.

Counted once each, as stored: every matrix with its scales and bias, every norm, the head (the embedding where
it is tied), and the cached keys and values at the mean length of the run. Not counted, because small: the
token's own embedding and position row, activations, and the key bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edge.weights import PREFILL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KV_ITEM_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
KV_SCALE_BYTES = {"fp32": 0, "fp16": 0, "int8": 4}
"""Per head and position, once for the key and once for the value."""


@dataclass(frozen=True)
class Traffic:
    """Bytes read per decode step.

    Attributes
    ----------
    weights : int
        Bytes of the weights.
    cache : int
        Bytes of cached keys and values at `mean_keys`.
    mean_keys : float
        Mean number of keys that a decode step of the run attends to, its own included.
    kv_dtype : str
    """

    weights: int
    cache: int
    mean_keys: float
    kv_dtype: str

    @property
    def total(self) -> int:
        return self.weights + self.cache

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def weight_bytes(weights: Mapping[str, NDArray[np.generic]], spec: Mapping[str, Any]) -> int:
    """Bytes of the weights that a decode step reads: not those that only a prefill takes."""
    skipped = {"positions.weight"}
    if not spec["tied_head"]:
        skipped |= {"embed.weight", "embed.weight.scale"}
    return sum(
        int(array.nbytes) for name, array in weights.items() if name not in skipped and not name.startswith(PREFILL)
    )


def mean_keys(prefix: int, prompt: int, tokens: int) -> float:
    """Mean keys of the ``tokens - 1`` decode steps that follow the first token.

    The step that is fed the j-th token (j = 1 .. tokens - 1) sees ``prefix + prompt + j`` keys.
    """
    return prefix + prompt + tokens / 2


def traffic(
    weights: Mapping[str, NDArray[np.generic]],
    spec: Mapping[str, Any],
    *,
    kv_dtype: str,
    prefix: int,
    prompt: int,
    tokens: int,
) -> Traffic:
    """Bytes per decode step of a run of `tokens` new tokens after `prefix` and `prompt` rows."""
    keys = mean_keys(prefix, prompt, tokens)
    per_head = spec["head_dim"] * KV_ITEM_BYTES[kv_dtype] + KV_SCALE_BYTES[kv_dtype]
    per_key = spec["layers"] * spec["kv_heads"] * per_head * 2
    return Traffic(weight_bytes(weights, spec), round(per_key * keys), keys, kv_dtype)
