# SPDX-License-Identifier: Apache-2.0
"""Weights in int8, and those of a decoder in int8 or int4."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import int4
from .errors import UsageError


def quantize_rows(weight: np.ndarray, axis: int = 0, levels: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with one scale per index of ``axis``.

    Returns
    -------
    int8 array like ``weight``, values in [-levels, levels], and float32 scales [weight.shape[axis]]
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / levels).astype(np.float32)
    safe = np.where(scale > 0, scale, 1.0)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / safe.reshape(shape)), -levels, levels).astype(np.int8), scale


TABLES = ("positions.weight", "types.weight")
"""Arrays of rows that are added to the embeddings as they are."""
INT8_IN_INT4 = ("embed", "head")
"""Matrices that an int4 decoder keeps in int8: each of their rows is one token's, and errors there are errors of
its logit."""


def quantize_decoder(
    arrays: dict[str, np.ndarray],
    quantize: str = "int8",
    keep_int8: Sequence[str] = (),
    *,
    int4_head: bool = False,
    prefill: bool = False,
) -> dict[str, np.ndarray]:
    """Matrices of a decoder to int8 with one scale per output row, or to int4 with one per group of columns
    (``X.weight.scale``); the rest stays float32.

    Parameters
    ----------
    quantize : {"int8", "int4"}
        int4 leaves in int8 what has no whole groups, the embedding and the head, and `keep_int8`.
    keep_int8 : sequence of str
        Matrices by name (``layers.0.mlp_out``), or by the last part of it (``mlp_out``) for all layers.
    int4_head : bool
        With int4, the embedding and the head in int4, too, unless `keep_int8` names them.
    prefill : bool
        Beside each int4 matrix of a layer put the int8 one that the kernel takes the image through (``prefill.X``).

    Raises
    ------
    UsageError
        A name in `keep_int8` is no matrix of the decoder.
    """
    matrices = {n.removesuffix(".weight") for n, a in arrays.items() if a.ndim == 2 and n not in TABLES}
    names = (*keep_int8, *(() if int4_head else INT8_IN_INT4))
    kept = {n for n in matrices if any(n == name or n.endswith(f".{name}") for name in names)}
    unknown = [name for name in keep_int8 if not any(n == name or n.endswith(f".{name}") for n in matrices)]
    if unknown:
        raise UsageError(f"no matrix of the decoder is called {', '.join(unknown)}")
    result = {}
    for name, array in arrays.items():
        matrix = name.removesuffix(".weight")
        if matrix not in matrices:
            result[name] = array
        elif quantize == "int4" and matrix not in kept and int4.fits(array.shape):
            result[name], result[f"{name}.scale"] = int4.quantize_groups(array)
            if prefill and matrix.startswith("layers."):
                other = f"prefill.{name}"
                result[other], result[f"{other}.scale"] = quantize_rows(array)
        else:
            result[name], result[f"{name}.scale"] = quantize_rows(array)
    return result
