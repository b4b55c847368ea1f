# SPDX-License-Identifier: Apache-2.0
"""The decoder that all peers run: the reference shape's random weights, under each peer's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import reference
from .job import Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPEC = reference.SPEC
VERSION = 1
"""Part of the folder's name: raise it when a file that is made changes."""


def folder(job: Job) -> Path:
    """Where the peers' model files are kept."""
    return Path(job.cache) / f"peers-v{VERSION}"


def weights() -> dict[str, NDArray[np.float32]]:
    """float32 weights under our names, matrices [out, in]; mapped from the cache."""
    return reference.decoder_weights("none", lambda _line: None)  # type: ignore[return-value]


def prompt(length: int, seed: int = 0) -> NDArray[np.int64]:
    """Random ids [length]."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, SPEC["vocab"], length)


def transformers_state() -> dict[str, NDArray[np.float32]]:
    """The same under the names of ``GPT2LMHeadModel``, whose Conv1D matrices are [in, out]."""
    given = weights()
    state: dict[str, Any] = {
        "transformer.wte.weight": given["embed.weight"],
        "transformer.wpe.weight": given["positions.weight"],
        "lm_head.weight": given["embed.weight"],
    }
    names = {"attn_norm": "ln_1", "qkv": "attn.c_attn", "attn_out": "attn.c_proj"}
    names |= {"mlp_norm": "ln_2", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
    for i in range(SPEC["layers"]):
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                array = given[f"layers.{i}.{ours}.{part}"]
                state[f"transformer.h.{i}.{theirs}.{part}"] = array.T if array.ndim == 2 else array
    for part in ("weight", "bias"):
        state[f"transformer.ln_f.{part}"] = given[f"final_norm.{part}"]
    return state


def pixels(size: int = 512) -> NDArray[np.float32]:
    """A random picture [1, 3, size, size], as if normalised."""
    import numpy as np

    return np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
