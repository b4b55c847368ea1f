# SPDX-License-Identifier: Apache-2.0
"""The vision graph in float16 for GPUs: every tensor has one type, and what needs float32 keeps it.

Products (matrices, convolutions) and what is moved between them are float16. Norms, softmax with its bias, sums of
the residual stream, the anatomy and the last product, whose outputs are compared with each other, stay float32.
Casts stand where the two meet, so nothing is left to a runtime's choice: TensorRT takes such a graph as a strongly
typed network. Inputs and outputs stay float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
MOVES = ("Transpose", "Reshape", "Split", "Slice", "Unsqueeze", "Squeeze", "Flatten", "Concat", "Identity", "Expand")
"""Half where their input is half: they compute nothing."""
POINTWISE = ("Relu", "Gelu", "Add", "Mul")
"""Half where their only activation is half; with two of them, as in a residual sum, float."""
LARGEST = 65504.0


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 copy of a float32 graph.

    Parameters
    ----------
    model : ModelProto
        As traced, before any quantization; standard operators, no subgraphs.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return _Converter(copy).convert()


class _Converter:
    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.model, self.graph = model, model.graph
        inferred = onnx.shape_inference.infer_shapes(model)
        values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        self.weights = {w.name: w for w in self.graph.initializer}
        self.floats |= {name for name, w in self.weights.items() if w.data_type == onnx.TensorProto.FLOAT}
        self.outputs = {output.name for output in self.graph.output}
        self.half: set[str] = set()  # tensors that are computed in half, under the name with SUFFIX
        self.cast: set[str] = set()  # casts that there are already
        self.nodes: list[onnx.NodeProto] = []
        self.kept: set[str] = set()  # weights that are used as they were
        self.added: dict[str, onnx.TensorProto] = {}

    def convert(self) -> onnx.ModelProto:
        import onnx

        last = self._last_products()
        for node in self.graph.node:
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
                raise ValueError("a graph with subgraphs cannot be converted")
            if node.op_type in PRODUCTS and node.name not in last and self._fits(node.input):
                self._place(node, half=True)
            else:
                self._place(node, half=self._follows(node))
        for name in [output for output in self.outputs if output in self.half]:
            self._as_float(name)
        weights = [w for w in self.graph.initializer if w.name in self.kept]
        del self.graph.initializer[:], self.graph.node[:]
        self.graph.initializer.extend([*weights, *self.added.values()])
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]
        onnx.checker.check_model(self.model)
        return self.model

    def _last_products(self) -> set[str]:
        """Products behind which only moves stand before `first_logits`."""
        makers = {name: node for node in self.graph.node for name in node.output}
        names, found = ["first_logits"], set()
        while names:
            node = makers.get(names.pop())
            if node is None:
                continue
            if node.op_type in PRODUCTS:
                found.add(node.name)
            elif node.op_type in (*MOVES, "Gather", "Add"):
                names.extend(node.input)
        return found

    def _fits(self, names: Iterable[str]) -> bool:
        """Whether the weights among the names can be told in half."""
        from onnx import numpy_helper

        for name in names:
            weight = self.weights.get(name)
            if weight is None or name not in self.floats:
                continue
            array = numpy_helper.to_array(weight)
            if array.size and float(np.abs(array).max()) > LARGEST:
                return False
        return True

    def _follows(self, node: onnx.NodeProto) -> bool:
        activations = [name for name in node.input if name in self.floats and name not in self.weights]
        if not activations or not all(name in self.half for name in activations):
            return False
        if node.op_type in MOVES:
            return self._fits(node.input)
        return node.op_type in POINTWISE and len(activations) == 1 and self._fits(node.input)

    def _place(self, node: onnx.NodeProto, *, half: bool) -> None:
        import onnx

        placed = onnx.NodeProto()
        placed.CopyFrom(node)
        for at, name in enumerate(node.input):
            if name in self.floats:
                placed.input[at] = self._as_half(name) if half else self._as_float(name)
            elif name in self.weights:
                self.kept.add(name)
        for at, name in enumerate(node.output):
            if half and name in self.floats:
                placed.output[at] = name + SUFFIX
                self.half.add(name)
        self.nodes.append(placed)

    def _as_half(self, name: str) -> str:
        from onnx import TensorProto, helper, numpy_helper

        other = name + SUFFIX
        if name in self.weights:
            if other not in self.added:
                array = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                self.added[other] = numpy_helper.from_array(array, other)
        elif name not in self.half and other not in self.cast:
            self.cast.add(other)
            self.nodes.append(helper.make_node("Cast", [name], [other], name=f"{other}_cast", to=TensorProto.FLOAT16))
        return other

    def _as_float(self, name: str) -> str:
        from onnx import TensorProto, helper

        if name in self.weights:
            self.kept.add(name)
        elif name in self.half and name not in self.cast:
            self.cast.add(name)
            other = name + SUFFIX
            self.nodes.append(helper.make_node("Cast", [other], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        return name


SUFFIX = "_half"
