# SPDX-License-Identifier: Apache-2.0
"""Checkpoints have one set of names, whatever version of transformers wrote or reads them."""

from __future__ import annotations

import torch
from edge_export.families.lana.model import keep_names
from torch import nn


class Network(nn.Module):
    """As transformers 5 builds it (`inside`), or 4."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 3)])
        if inside:
            self.model = nn.Module()
            self.model.layer = layers
        else:
            self.layer = layers
        self.norm = nn.LayerNorm(2)


def test_names_of_both_versions() -> None:
    old, new = (nn.ModuleDict({"encoder": Network(inside)}) for inside in (False, True))
    for module in (old, new):
        keep_names(module["encoder"], "layer.")
    assert list(old.state_dict())
    assert set(new.state_dict()) == set(old.state_dict())
    assert "encoder.layer.1.weight" in new.state_dict()
    new.load_state_dict(old.state_dict())
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, old.state_dict()[name])
    old.load_state_dict(new.state_dict())
