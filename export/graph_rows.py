# SPDX-License-Identifier: Apache-2.0
"""Pixels as rows of one matrix, where a graph works on their channels alone.

Between two transpositions (channels last, channels first) a ConvNeXt block norms and multiplies the channels of each
pixel. Written on tensors [batch, height, width, channels], OpenVINO (2026.4) copies each of them into another order,
takes the norm apart, and leaves what follows a product outside of it; on [batch, pixels, channels] it does neither.
Sums of blocks are taken with the channels last, too, where both of their terms come from there: else OpenVINO keeps a
stage that begins with a norm in the other order, and turns it for each of its convolutions. The numbers are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_ONE_INPUT = ("Erf", "Gelu", "Relu", "Sigmoid", "Tanh")
_PLAIN = ("Add", "Div", "Mul", "Sub")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")


def pixels_as_rows(model: onnx.ModelProto) -> int:
    """Put height and width into one dimension between such transpositions, in place; returns between how many."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred.value_info}
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in ranks:
            ranks[node.output[0]] = ranks[node.input[0]]
    readers: dict[str, list[Any]] = {output.name: [None] for output in graph.output}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)

    behind: dict[str, Any] = {}

    def reshape(name: str, shape: list[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}.shape"))
        behind[name] = onnx.helper.make_node("Reshape", [name, f"{name}.shape"], [f"{name}.reshaped"])
        return f"{name}.reshaped"

    found = 0
    for node in list(graph.node):
        chain = _per_pixel(node, readers, ranks) if _order(node) == CHANNELS_LAST else []
        if len(chain) < 2:
            continue
        first, last = node.output[0], chain[-1].input[0]
        before, after = shapes.get(first, []), shapes.get(last, [])
        if len(before) != 4 or len(after) != 4 or 0 in before or 0 in after:
            continue
        names = list(chain[0].input)
        names[names.index(first)] = reshape(first, [before[0], before[1] * before[2], before[3]])
        chain[0].input[:] = names
        chain[-1].input[0] = reshape(last, after)
        found += 1
    nodes = [part for node in graph.node for part in (node, *(behind[o] for o in node.output if o in behind))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    return found


def sums_with_channels_last(model: onnx.ModelProto) -> int:
    """Take sums before the transposition of both of their terms, in place; returns how many were."""
    import onnx

    graph = model.graph
    last: dict[str, str] = {}  # of a tensor with the channels first: the same with the channels last
    same: dict[str, str] = {}
    nodes: list[Any] = []
    found = 0
    for old in graph.node:
        node = onnx.NodeProto.FromString(old.SerializeToString())
        node.input[:] = [same.get(name, name) for name in node.input]
        order = _order(node)
        if order == CHANNELS_LAST and node.input[0] in last:
            same[node.output[0]] = last[node.input[0]]
            continue
        if order == CHANNELS_FIRST:
            last[node.output[0]] = node.input[0]
        elif node.op_type == "Add" and all(name in last for name in node.input):
            (name,) = node.output
            turned = f"{name}.last"
            nodes.append(onnx.helper.make_node("Add", [last[term] for term in node.input], [turned], name=node.name))
            node = onnx.helper.make_node("Transpose", [turned], [name], perm=CHANNELS_FIRST, name=f"{name}.first")
            last[name] = turned
            found += 1
        nodes.append(node)
    if not found:
        return 0
    outputs = {output.name for output in graph.output}
    nodes += [onnx.helper.make_node("Identity", [same[name]], [name]) for name in same if name in outputs]
    needed = outputs | {name for node in nodes for name in node.input}
    kept = [node for node in nodes if needed.intersection(node.output)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return found


def _order(node: Any) -> list[int]:
    if node.op_type != "Transpose":
        return []
    return next((list(a.ints) for a in node.attribute if a.name == "perm"), [])


def _per_pixel(node: Any, readers: dict[str, list[Any]], ranks: dict[str, int]) -> list[Any]:
    """What reads a node's output, one after the other, up to the transposition back; empty where something mixes
    pixels or where there is no such line."""
    chain: list[Any] = []
    while True:
        name = node.output[0]
        reading = readers.get(name, [])
        if len(reading) != 1 or reading[0] is None:
            return []
        node = reading[0]
        chain.append(node)
        if _order(node) == CHANNELS_FIRST:
            return chain
        if not _keeps_pixels(node, name, ranks):
            return []


def _keeps_pixels(node: Any, name: str, ranks: dict[str, int]) -> bool:
    others = [ranks.get(other) for other in node.input if other != name and other]
    if list(node.input).count(name) != 1 or len(node.output) != 1 or None in others:
        return False
    kind = node.op_type
    if kind == "LayerNormalization":
        return node.input[0] == name and all(a.i == -1 for a in node.attribute if a.name == "axis")
    if kind == "MatMul":
        return node.input[0] == name and others == [2]
    if kind in _QUANTIZED:
        return node.input[0] == name and not any(others)
    return kind in _ONE_INPUT or (kind in _PLAIN and max(others) <= 1)
