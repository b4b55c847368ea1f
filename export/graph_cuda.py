# SPDX-License-Identifier: Apache-2.0
"""Operators in forms that ONNX Runtime's CUDA provider has had for long, and a check that a graph holds no others.

A kernel of that provider serves the version of an operator that it was registered for and no later one. Versions that
opset 19 and 20 brought were registered late or not yet; one such node on the CPU, and the graph can no longer be
recorded as a CUDA graph. Each form below computes the same numbers, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

KERNELS: dict[str, tuple[int, ...]] = {
    "Add": (14,), "And": (7,), "AveragePool": (11,), "BatchNormalization": (15,), "Cast": (13, 19), "Ceil": (13,),
    "Clip": (13,), "Concat": (13,), "Conv": (11,), "ConvTranspose": (11,), "Cos": (7,), "Div": (14,), "Einsum": (12,),
    "Equal": (13,), "Erf": (13,), "Exp": (13,), "Expand": (13,), "Flatten": (13,), "Floor": (13,), "Gather": (13,),
    "GatherElements": (13,), "Gelu": (20,), "Gemm": (13,), "GlobalAveragePool": (1,), "GlobalMaxPool": (1,),
    "Greater": (13,), "GreaterOrEqual": (16,), "Identity": (14, 19), "InstanceNormalization": (6,),
    "LayerNormalization": (17,), "LeakyRelu": (16,), "Less": (13,), "LessOrEqual": (16,), "Log": (13,), "MatMul": (13,),
    "Max": (13,), "MaxPool": (12,), "Min": (13,), "Mul": (14,), "Neg": (13,), "Not": (1,), "Or": (7,), "Pad": (13, 18),
    "Pow": (15,), "Reciprocal": (13,), "ReduceL2": (18,), "ReduceMax": (18,), "ReduceMean": (18,), "ReduceMin": (18,),
    "ReduceSum": (13,), "Relu": (14,), "Reshape": (14, 19), "Resize": (13, 18), "Sigmoid": (13,), "Sin": (7,),
    "Slice": (13,), "Softmax": (13,), "Split": (13, 18), "Sqrt": (13,), "Squeeze": (13,), "Sub": (14,), "Tanh": (13,),
    "Tile": (13,), "Transpose": (13,), "Unsqueeze": (13,), "Where": (16,),
}  # fmt: skip
"""Versions of operators for which ONNX Runtime has had CUDA kernels for float and half (truth values where the operator
is one of logic) in all releases that were looked at, from 1.21 to 1.31: ``tests/export/cuda_kernels.json`` says which
those are, and what they have. ``AveragePool`` 19 came with 1.24; ``Equal`` 19, ``Pad`` 19, ``Resize`` 19 and
``ReduceMax`` and ``ReduceMin`` 20 came later still. ``GatherND`` has one that a CUDA graph must not hold: until
mid-2026 every replay copied its strides anew from host memory that was free again."""

MOST_PARTS = 8
"""Inputs of one ``Max``: so many the provider takes in one kernel."""


def without_cuda_kernel(model: onnx.ModelProto) -> list[str]:
    """Every node for which an ONNX Runtime of 1.21 or later may have no CUDA kernel, each a line."""
    import onnx

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    problems = []
    for node in model.graph.node:
        where = f"{node.op_type} {node.name or node.output[0]}"
        if node.domain not in ("", "ai.onnx"):
            problems.append(f"{where}: an operator of {node.domain}")
            continue
        version = onnx.defs.get_schema(node.op_type, opset).since_version
        if version not in KERNELS.get(node.op_type, ()):
            problems.append(f"{where}: no CUDA kernel for version {version}")
    return problems


def for_cuda(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph whose late operators are spelt in older ones, with the same numbers.

    Extrema over the last axes become a tree of ``Max`` or ``Min``, an index of the largest that is compared with a
    constant becomes comparisons, padding with a constant becomes a concatenation, ``GatherND`` of whole rows becomes
    ``Gather``. What has another shape than these stays, and :func:`without_cuda_kernel` tells it.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _Forms(copy).rewrite()
    onnx.checker.check_model(copy)
    return copy


class _Forms:
    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx
        from onnx import numpy_helper

        self.graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.shapes: dict[str, list[int]] = {}
        self.types: dict[str, int] = {}
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            kind = value.type.tensor_type
            self.types[value.name] = kind.elem_type
            sizes = [size.dim_value for size in kind.shape.dim]
            if kind.HasField("shape") and all(sizes):
                self.shapes[value.name] = sizes
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.value = lambda name: numpy_helper.to_array(self.constants[name])
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.outputs = {output.name for output in self.graph.output}
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def rewrite(self) -> None:
        forms = {"ReduceMax": self._extremum, "ReduceMin": self._extremum, "Equal": self._largest, "Pad": self._padded}
        forms["GatherND"] = self._gathered
        nodes: list[Any] = []
        for node in self.graph.node:
            form = forms.get(node.op_type)
            nodes.extend((form and form(node)) or [node])
        used = {name for node in nodes for name in node.input} | self.outputs
        nodes = [node for node in nodes if node.op_type != "ArgMax" or set(node.output) & used]
        used = {name for node in nodes for name in node.input} | self.outputs
        kept = [tensor for tensor in self.constants.values() if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(kept)

    def _constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def _extremum(self, node: Any) -> list[Any] | None:
        from onnx import helper

        source, target = node.input[0], node.output[0]
        shape = self.shapes.get(source)
        if shape is None or len(node.input) < 2 or node.input[1] not in self.constants:
            return None
        axes = sorted(int(axis) % len(shape) for axis in self.value(node.input[1]))
        keep = len(shape) - len(axes)
        if not axes or axes != list(range(keep, len(shape))):
            return None
        operator, lead, size = node.op_type.removeprefix("Reduce"), shape[:keep], int(np.prod(shape[keep:]))
        kept = _attribute(node, "keepdims", 1)
        rest = self._constant(f"{target}.rows", np.array([*lead, size], np.int64))
        name = f"{target}.0"
        made = [helper.make_node("Reshape", [source, rest], [name], name=f"{name}.Reshape")]
        turn = 0
        while size > 1:
            turn += 1
            parts = next((count for count in range(MOST_PARTS, 1, -1) if size % count == 0), 0)
            if parts:
                size //= parts
                cut = [f"{target}.{turn}.{part}" for part in range(parts)]
                sizes = self._constant(f"{target}.{turn}.sizes", np.full(parts, size, np.int64))
                made.append(
                    helper.make_node("Split", [name, sizes], cut, name=f"{target}.{turn}.Split", axis=len(lead))
                )
            else:  # two halves that share their middle, which changes no extremum
                half = (size + 1) // 2
                axis = self._constant(f"{target}.axis", np.array([len(lead)], np.int64))
                cut = []
                for begin in (0, size - half):
                    ends = [
                        self._constant(f"{target}.{turn}.{begin}.{what}", np.array([at], np.int64))
                        for what, at in (("from", begin), ("to", begin + half))
                    ]
                    cut.append(f"{target}.{turn}.{begin}")
                    made.append(helper.make_node("Slice", [name, *ends, axis], cut[-1:], name=f"{cut[-1]}.Slice"))
                size = half
            name = f"{target}.{turn}"
            made.append(helper.make_node(operator, cut, [name], name=f"{name}.{operator}"))
        out = self._constant(f"{target}.shape", np.array(lead + [1] * len(axes) * bool(kept), np.int64))
        return [*made, helper.make_node("Reshape", [name, out], [target], name=f"{target}.Reshape")]

    def _largest(self, node: Any) -> list[Any] | None:
        """``Equal`` of an index of the largest along an axis and a constant: the first one counts among equals."""
        from onnx import helper

        index, wanted = node.input
        maker = self.makers.get(index)
        if maker is None or maker.op_type != "ArgMax" or wanted not in self.constants or self.value(wanted).size != 1:
            return None
        shape, chosen, target = self.shapes.get(maker.input[0]), int(self.value(wanted).reshape(())), node.output[0]
        if shape is None or _attribute(maker, "select_last_index", 0) or not _attribute(maker, "keepdims", 1):
            return None
        axis = _attribute(maker, "axis", 0) % len(shape)
        count = shape[axis]
        if not (0 <= chosen < count and 1 < count <= MOST_PARTS):
            return None
        parts = [f"{target}.class{part}" for part in range(count)]
        sizes = self._constant(f"{target}.sizes", np.ones(count, np.int64))
        made = [helper.make_node("Split", [maker.input[0], sizes], parts, name=f"{target}.Split", axis=axis)]
        held = []
        for what, others, test in (
            ("before", parts[:chosen], "Greater"),
            ("behind", parts[chosen + 1 :], "GreaterOrEqual"),
        ):
            if not others:
                continue
            most = others[0]
            if len(others) > 1:
                most = f"{target}.{what}"
                made.append(helper.make_node("Max", others, [most], name=f"{most}.Max"))
            held.append(f"{target}.{test}")
            made.append(helper.make_node(test, [parts[chosen], most], held[-1:], name=f"{held[-1]}.test"))
        if len(held) > 1:
            return [*made, helper.make_node("And", held, [target], name=f"{target}.And")]
        made[-1].output[0] = target
        return made

    def _gathered(self, node: Any) -> list[Any] | None:
        from onnx import helper

        source, places = node.input
        if places not in self.constants or _attribute(node, "batch_dims", 0) or self.value(places).shape[-1:] != (1,):
            return None
        rows = self._constant(f"{node.output[0]}.rows", self.value(places)[..., 0])
        return [helper.make_node("Gather", [source, rows], node.output, name=f"{node.output[0]}.Gather", axis=0)]

    def _padded(self, node: Any) -> list[Any] | None:
        from onnx import helper

        source, target = node.input[0], node.output[0]
        shape, extra = self.shapes.get(source), [name for name in node.input[2:] if name]
        if shape is None or node.input[1] not in self.constants or _attribute(node, "mode", b"constant") != b"constant":
            return None
        if (len(node.input) > 3 and node.input[3]) or any(name not in self.constants for name in extra):
            return None
        pads = [int(pad) for pad in self.value(node.input[1])]
        if min(pads) < 0:
            return None
        value = self.value(extra[0]).reshape(()) if extra else 0
        kind, shape, name, made = helper.tensor_dtype_to_np_dtype(self.types[source]), list(shape), source, []
        for axis in range(len(shape)):
            names = [name]
            for at, pad in ((0, pads[axis]), (1, pads[axis + len(shape)])):
                if pad:
                    block = np.full([*shape[:axis], pad, *shape[axis + 1 :]], value, kind)
                    names.insert(len(names) * at, self._constant(f"{target}.{axis}.{at}", block))
            if len(names) > 1:
                shape[axis] += pads[axis] + pads[axis + len(shape)]
                name = f"{target}.{axis}"
                made.append(helper.make_node("Concat", names, [name], name=f"{name}.Concat", axis=axis))
        if not made:
            return [helper.make_node("Identity", [source], [target], name=f"{target}.Identity")]
        made[-1].output[0] = target
        return made


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
