# SPDX-License-Identifier: Apache-2.0
"""Bytes that one decode step has to read from memory: what bounds its speed.

Counted once each, as stored: every matrix with its scales and bias, every norm, the head (the embedding where
it is tied), and the cached keys and values at the mean length of the run; of a float32 head that is screened
its copy in 8 bits, with a scale and a bound per row. Not counted, because small: the token's own embedding
and position row, the rows that the screen leaves to be read in full, activations, and the key bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edge.weights import PREFILL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCREEN_FROM = 32 << 20
"""Bytes of a float32 head from which on the decoder on the CPU screens it."""


def screens(isa: str) -> bool:
    """Whether an instruction set does: it must read bytes as fast as they come."""
    return isa not in ("generic", "cuda")


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


def weight_bytes(weights: Mapping[str, NDArray[np.generic]], spec: Mapping[str, Any], *, screened: bool = True) -> int:
    """Bytes of the weights that a greedy decode step reads: not those that only a prefill takes.

    `screened`: of a large float32 head what the screen reads, as on the CPU; a GPU reads all of it.
    """
    import numpy as np

    head = weights["embed.weight" if spec["tied_head"] else "head.weight"]
    saved = 0
    if screened and head.dtype == np.float32 and head.nbytes >= SCREEN_FROM:
        saved = int(head.nbytes) - int(head.size) - 8 * len(head)
    skipped = {"positions.weight"}
    if not spec["tied_head"]:
        skipped |= {"embed.weight", "embed.weight.scale"}
    read = sum(
        int(array.nbytes) for name, array in weights.items() if name not in skipped and not name.startswith(PREFILL)
    )
    return read - saved


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
    screened: bool = True,
) -> Traffic:
    """Bytes per decode step of a run of `tokens` new tokens after `prefix` and `prompt` rows."""
    keys = mean_keys(prefix, prompt, tokens)
    per_head = spec["head_dim"] * KV_ITEM_BYTES[kv_dtype] + KV_SCALE_BYTES[kv_dtype]
    per_key = spec["layers"] * spec["kv_heads"] * per_head * 2
    return Traffic(weight_bytes(weights, spec, screened=screened), round(per_key * keys), keys, kv_dtype)
