# SPDX-License-Identifier: Apache-2.0
"""What TensorRT refuses in a graph, or takes otherwise than it is meant, found without TensorRT.

The rules are those of strongly typed networks in TensorRT 10.12 and later: explicit symmetric quantization or none,
one type per operation, no operator outside ONNX's own, no branch, fixed shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

REFUSED = {
    "If": "a branch",
    "Loop": "a loop",
    "Scan": "a loop",
    "DynamicQuantizeLinear": "quantization at run time",
    "MatMulInteger": "a product of integers",
    "ConvInteger": "a product of integers",
    "QLinearMatMul": "a product of integers",
    "QLinearConv": "a product of integers",
    "Dropout": "an operator of training",
}
NEWEST_OPSET = 22
SAME_TYPE = (
    "MatMul",
    "Gemm",
    "Conv",
    "ConvTranspose",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Concat",
    "Sum",
)
SAME_TYPE += ("LayerNormalization", "InstanceNormalization", "BatchNormalization", "Einsum")


def lint(model: onnx.ModelProto) -> list[str]:
    """Every reason for which TensorRT would refuse the graph, each a line; empty where there is none."""
    return list(_problems(model))


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    import onnx

    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            yield f"operators of the domain {opset.domain}"
        elif opset.version > NEWEST_OPSET:
            yield f"opset {opset.version}, newer than {NEWEST_OPSET}"
    for value in model.graph.input:
        if not all(size.HasField("dim_value") and size.dim_value > 0 for size in value.type.tensor_type.shape.dim):
            yield f"the input {value.name} has no fixed shape"
    weights = {weight.name: weight for weight in model.graph.initializer}
    if any(weight.data_location == onnx.TensorProto.EXTERNAL for weight in weights.values()):
        yield "weights outside the file"
    types = _types(model)
    for name, kind in types.items():
        if kind in (onnx.TensorProto.DOUBLE, onnx.TensorProto.STRING, onnx.TensorProto.UINT16):
            yield f"{name} is {_name(kind)}"
    for node in model.graph.node:
        for problem in _node_problems(node, weights, types):
            yield f"{node.op_type} {node.name or node.output[0]}: {problem}"


def _node_problems(node: onnx.NodeProto, weights: dict[str, Any], types: dict[str, int]) -> Iterator[str]:
    import onnx

    if node.domain not in ("", "ai.onnx"):
        yield f"an operator of {node.domain}"
        return
    if node.op_type in REFUSED:
        yield REFUSED[node.op_type]
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        yield "a graph inside the graph"
    if any(a.name == "training_mode" and a.i for a in node.attribute):
        yield "in training mode"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _quantization(node, weights, types)
    elif any(weights[name].data_type == onnx.TensorProto.INT8 for name in node.input if name in weights):
        yield "a constant of int8 that nothing dequantizes"
    elif node.op_type in SAME_TYPE:
        known = {types[name] for name in node.input if name in types}
        if len(known) > 1:
            yield "mixed types: " + " and ".join(sorted(_name(kind) for kind in known))
        elif node.op_type in SAME_TYPE[:4] and known & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}:
            yield "a product of integers"
    if missing := [name for name in (*node.input, *node.output) if name and name not in types]:
        yield f"the type of {missing[0]} cannot be told"


def _quantization(node: onnx.NodeProto, weights: dict[str, Any], types: dict[str, int]) -> Iterator[str]:
    import onnx
    from onnx import numpy_helper

    scale = weights.get(node.input[1])
    if scale is None:
        yield "a scale that is not constant"
    elif not (np.asarray(numpy_helper.to_array(scale), np.float64) > 0).all():
        yield "a scale that is not positive"
    quantized = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    if types.get(quantized, onnx.TensorProto.INT8) not in (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT8E4M3FN):
        yield f"{_name(types[quantized])} instead of int8"
    if len(node.input) > 2 and node.input[2]:
        zero = weights.get(node.input[2])
        if zero is None:
            yield "a zero point that is not constant"
        else:
            if zero.data_type == onnx.TensorProto.UINT8:
                yield "an unsigned zero point"
            if np.any(numpy_helper.to_array(zero)):
                yield "a zero point other than 0"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors. A graph that contradicts itself has none beyond its inputs and weights."""
    import onnx

    graph = model.graph
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    return {name: kind for name, kind in types.items() if kind}


def _name(kind: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(kind)).lower()
