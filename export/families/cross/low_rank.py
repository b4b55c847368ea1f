# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates (LoRA) of a decoder, added to the weights that they change."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from ...checkpoint import read_json
from ...errors import BadCheckpoint

_UPDATE = re.compile(r"(.*)\.lora_A\.\w+\.weight")


def merge(state: dict[str, Tensor], path: Path, scale: float | None) -> tuple[dict[str, Tensor], int]:
    """Weights without updates, under plain names, and how many were merged.

    Parameters
    ----------
    state : dict
        Names as ``peft`` writes them: ``decoder.base_model.model.X.lora_A.NAME.weight`` [rank, in], ``lora_B``
        [out, rank] beside ``X.weight`` or ``X.base_layer.weight``.
    path : Path
        Folder; ``adapter_config.json`` in it holds the scale (``lora_alpha``).
    scale : float, optional
        The same where no file says it.

    Raises
    ------
    BadCheckpoint
        There are updates and nothing tells their scale, or half of one is missing.
    """
    plain = {name.replace(".base_model.model.", "."): tensor for name, tensor in state.items()}
    updates = [found for name in plain if (found := _UPDATE.fullmatch(name))]
    if not updates:
        return plain, 0
    file = path / "adapter_config.json"
    alpha = read_json(file).get("lora_alpha") if file.is_file() else scale
    if not isinstance(alpha, (int, float)):
        raise BadCheckpoint(
            f"{path.name}: not supported: low-rank weights (LoRA) whose scale no adapter_config.json names; merge them "
            "(merge_and_unload in peft) and save the model again"
        )
    for found in updates:
        name, target = found.group(0), found.group(1)
        base = next((key for key in (f"{target}.base_layer.weight", f"{target}.weight") if key in plain), None)
        down, up = plain.pop(name), plain.pop(name.replace(".lora_A.", ".lora_B."), None)
        if base is None or up is None:
            raise BadCheckpoint(f"{path.name}: the low-rank weights of {target} are not whole")
        whole, parts, rank = list(plain[base].shape), (list(up.shape), list(down.shape)), list(down.shape[:1])
        if not (down.is_floating_point() and up.is_floating_point()):
            raise BadCheckpoint(f"{path.name}: the low-rank weights of {target} are no floating-point numbers")
        if not down.numel() or len(whole) != 2 or parts != (whole[:1] + rank, rank + whole[1:]):
            raise BadCheckpoint(
                f"{path.name}: the low-rank weights {parts[0]} x {parts[1]} of {target} {whole} do not fit"
            )
        plain[base] = plain[base] + alpha / down.shape[0] * (up @ down)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in plain.items()}, len(updates)
