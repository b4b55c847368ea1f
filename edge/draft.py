# SPDX-License-Identifier: Apache-2.0
"""The draft table of a bundle: which token usually follows which, so that several can be checked in one pass.

A safetensors file with four arrays: a trie over contexts read backwards, one level per earlier token, breadth first.
Node 0 is the empty context.

=========  ==================  =====================================================================================
children   int32 [nodes + 1]   the children of node i are the nodes from children[i] up to children[i + 1]
tokens     int32 [nodes]       the id before the parent's context, -1 where the text begins there; sorted in a family
next       int32 [nodes]       the id that follows this context most often
share      float32 [nodes]     how often it does, above 0 and up to 1
=========  ==================  =====================================================================================

Guesses are checked against the model: a wrong table costs time, never a token. The file still comes from anywhere, so
every number in it is checked before it is used (by the kernel, in place).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import BundleError
from edge.weights import map_safetensors

ARRAYS: dict[str, np.dtype[Any]] = {
    "children": np.dtype("<i4"),
    "tokens": np.dtype("<i4"),
    "next": np.dtype("<i4"),
    "share": np.dtype("<f4"),
}
TEXT_BEGIN = -1


def load_draft_table(path: Path, vocab: int) -> Any:
    """The kernel's view of a mapped table.

    Parameters
    ----------
    path : Path
    vocab : int
        Ids must lie below it.

    Raises
    ------
    BundleError
        The file breaks the format, or what it holds is no such trie.
    """
    from edge import _kernel

    arrays = map_safetensors(path, {"I32": np.dtype("<i4"), "F32": np.dtype("<f4")})
    if {name: array.dtype for name, array in arrays.items()} != ARRAYS:
        raise BundleError(f"{path.name} does not hold the arrays {', '.join(ARRAYS)} of a draft table")
    try:
        return _kernel.DraftTable(**arrays, vocab=vocab)
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path.name}: {str(error).splitlines()[0]}") from None
