# SPDX-License-Identifier: Apache-2.0
"""The model's vision networks with random weights, for the peers that run networks of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .gpt2 import folder
from .job import Job, Missing, made_once, require

if TYPE_CHECKING:
    from torch import nn


def network(task: str) -> nn.Module:
    """The ``encoder`` (with the connector), or one ``segmenter``, from pixels [1, 3, 512, 512].

    Raises
    ------
    Missing
        The exporter, or what it needs, is not installed.
    """
    require("torch", "transformers", "onnx", "edge_export")
    import torch
    from edge_export.families.lana import model as lana

    torch.manual_seed(0)
    config = lana.LanaConfig()
    if task == "encoder":
        return torch.nn.Sequential(lana.Encoder(config), lana.Connector(config)).eval()
    if task == "segmenter" and config.segmenter is not None:
        return lana.SegmenterNetwork(config.segmenter, 1, "channel_adapter").eval()
    raise Missing(f"there is no network for {task}")


def onnx_file(task: str, job: Job) -> Path:
    """The same as an ONNX file with fixed shapes, made once. Raises :class:`Missing`."""

    def make(path: Path) -> None:
        import onnx
        import torch
        from edge_export.onnx_graph import to_onnx

        class Graph(torch.nn.Module):
            input_names = ("pixels",)
            output_names = ("features",)

            def __init__(self) -> None:
                super().__init__()
                self.network = network(task)

            def example_inputs(self) -> tuple[torch.Tensor]:
                return (torch.zeros(1, 3, 512, 512),)

            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return self.network(pixels)

        onnx.save(to_onnx(Graph()), str(path))

    path = folder(job) / f"{task}.onnx"
    if not path.exists():
        require("torch", "transformers", "onnx", "edge_export")
    return made_once(path, make)
