# SPDX-License-Identifier: Apache-2.0
"""What GPUs ask of a bundle's float32 vision graph."""

from __future__ import annotations

from pathlib import Path


def check_vision_graph(bundle: Path) -> None:
    """TensorRT takes the graph, and ONNX Runtime has CUDA kernels for all of it."""
    import onnx
    from edge_export.graph_cuda import without_cuda_kernel
    from edge_export.tensorrt_lint import lint

    model = onnx.load(bundle / "vision.onnx")
    assert lint(model) == []
    assert without_cuda_kernel(model) == []
