# SPDX-License-Identifier: Apache-2.0
"""How many numbers a film costs to multiply: the arithmetic of a vision graph and of the decoder's prefill.

One product is one multiplication with the addition to its sum; the share of them among the most that a machine does
per second is what a film's time can be held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
MATRICES = ("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "FusedMatMul")


def of_graph(path: Path) -> int | None:
    """Products of one run of a graph, or None where a shape cannot be known (operators of a runtime's own)."""
    import onnx
    from onnx import shape_inference

    try:
        model = shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    except Exception:
        return None
    graph = model.graph
    shapes: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = [dim.dim_value for dim in dims]
    total = 0
    for node in graph.node:
        count = _of_node(node, shapes)
        if count is None:
            return None
        total += count
    return total


def _of_node(node: Any, shapes: Mapping[str, list[int]]) -> int | None:
    """Products of a node; 0 where it does not multiply matrices."""
    from math import prod

    kind = node.op_type
    if kind in CONVOLUTIONS:
        out, weight = shapes.get(node.output[0]), shapes.get(node.input[3 if kind == "QLinearConv" else 1])
        return None if out is None or weight is None else prod(out) * prod(weight[1:])
    if kind == "ConvTranspose":  # every input meets its channel's whole window
        first, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
        return None if first is None or weight is None else prod(first) * prod(weight[1:])
    if kind in MATRICES:
        out, first = shapes.get(node.output[0]), shapes.get(node.input[0])
        if out is None or first is None:
            return None
        across = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(out) * first[-2 if across else -1]
    return None if node.domain not in ("", "ai.onnx") else 0  # a runtime's own may be anything


def of_prefill(spec: Mapping[str, Any], rows: int) -> int:
    """Products of the kernel's prefill: all matrices for all rows, but for the last layer's behind its keys and values
    and the head, which one row needs; attention to each row's own past."""
    d, f, layers = spec["hidden"], spec["mlp"], spec["layers"]
    past = rows * (rows + 1) // 2
    keys_and_values, rest = 2 * d * d, 2 * d * d + 2 * d * f  # query and output, and both of the MLP
    whole = (layers - 1) * (rows * (keys_and_values + rest) + 2 * d * past)
    return whole + rows * keys_and_values + rest + 2 * d * rows + d * spec["vocab"]
