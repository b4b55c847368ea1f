# SPDX-License-Identifier: Apache-2.0
"""The float16 vision graph with int8 products, as TensorRT takes them: explicit, symmetric, with fixed ranges.

In front of a product its activations are quantized and dequantized with one scale and the zero point 0, its weights
dequantized with one scale per output channel; TensorRT fuses both into a product of bytes. The rule which product is
one is that of :mod:`edge_export.graph_static`, with the errors of symmetric ranges. Scales are float16, as the types of
a strongly typed network must meet; a product whose scales float16 does not hold stays in float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .graph_fp16 import SUFFIX
from .graph_static import StaticPlan
from .quantize import quantize_rows

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("MatMul", "Gemm", "Conv")
LEAST_SCALE, MOST_SCALE = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)


def with_symmetric_int8(half: onnx.ModelProto, plan: StaticPlan) -> tuple[onnx.ModelProto, int]:
    """A copy of a float16 graph with the plan's products in int8, and how many they are.

    Parameters
    ----------
    half : ModelProto
        What :func:`edge_export.graph_fp16.to_fp16` made.
    plan : StaticPlan
        Of the float32 graph, with symmetric ranges.
    """
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(half)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    near: dict[str, str] = {}
    taken = 0

    def activation(name: str, limit: float) -> str:
        if name not in near:
            constants[f"{name}.step"] = np.float16(limit / 127)
            constants[f"{name}.zero"] = np.int8(0)
            parts = [f"{name}.step", f"{name}.zero"]
            nodes.append(helper.make_node("QuantizeLinear", [name, *parts], [f"{name}.int8"], name=f"{name}.Q"))
            near[name] = f"{name}.near"
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}.int8", *parts], [near[name]], name=f"{name}.DQ")
            )
        return near[name]

    def weight(name: str, values: np.ndarray, scale: np.ndarray, axis: int) -> str:
        if name not in near:
            constants[f"{name}.int8"], constants[f"{name}.scale"] = values, scale.astype(np.float16)
            constants[f"{name}.none"] = np.zeros(scale.shape, np.int8)
            parts = [f"{name}.{part}" for part in ("int8", "scale", "none")]
            near[name] = f"{name}.near"
            nodes.append(helper.make_node("DequantizeLinear", parts, [near[name]], name=f"{name}.DQ", axis=axis))
        return near[name]

    for node in graph.node:
        source, own = (node.input[0], node.input[1]) if node.op_type in PRODUCTS else ("", "")
        exact, limits = own.removesuffix(SUFFIX), plan.ranges.get(source.removesuffix(SUFFIX))
        if own in weights and own.endswith(SUFFIX) and source.endswith(SUFFIX) and limits and plan.takes(exact):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if node.op_type == "Conv" or transposed else 1
            values, scale = quantize_rows(numpy_helper.to_array(weights[own]).astype(np.float32), axis)
            steps = [*scale, limits[1] / 127]
            if min(steps) >= LEAST_SCALE and max(steps) <= MOST_SCALE:
                node.input[0], node.input[1] = activation(source, limits[1]), weight(own, values, scale, axis)
                taken += 1
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(result)
    return result, taken
