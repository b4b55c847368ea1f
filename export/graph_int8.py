# SPDX-License-Identifier: Apache-2.0
"""The vision graph in int8: products of small integers where the measured error allows, else only stored small.

Every product with a constant matrix gets one of three forms, all of standard ONNX operators:

``int8``
    Weights in 7 bits with a scale per output column, activations in 8 bits with a scale and a zero point taken from
    each film (``DynamicQuantizeLinear``, ``MatMulInteger``). 7 bits, because processors without VNNI add pairs of
    products in 16 bits, which 8-bit weights overflow silently: so the integers are the same on every processor.
``int16``
    The same twice: what the first rounding of the activations left over is quantized again and added, which makes
    about 16 bits of them. As slow as float32, and as small in memory as ``int8``.
``stored``
    Weights stored as int8, widened to float32 when the graph is loaded (``Cast``, ``Mul``): convolutions, and matrices
    too small to gain. Not ``DequantizeLinear``: ONNX Runtime fuses that with a product into ``MatMulNBits``, which by
    default quantizes the activations silently.

The rule: ``int8``, unless the product's outputs then differ from its float32 outputs by more than ``MOST_NMSE`` (mean
squared error over mean square) on any picture; then ``int16``. The head over the vocabulary is always ``int16``: it is
one row, so it costs nothing, and it decides the first token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .quantize import quantize_rows

if TYPE_CHECKING:
    import onnx

Form = Literal["int8", "int16", "stored"]

MOST_NMSE = 2e-3
SMALLEST_PRODUCT = 20_000
"""A matrix of fewer numbers stays a float32 product: quantizing its activations costs more than it saves."""
LEVELS = 64
"""Largest weight: two products of 255 * 64 still fit into 16 bits."""
SAMPLED_ROWS = 128
_SMALLEST_STORED = 2048
# operator -> axis of its weight (input 1) along which output channels lie
_OUTPUT_AXIS = {"MatMul": 1, "Gemm": 1, "Conv": 0, "ConvTranspose": 1}


@dataclass(frozen=True)
class Product:
    """A product of activations with a constant matrix [in, out] (after transposition)."""

    source: str
    weight: str
    transposed: bool
    is_head: bool


@dataclass
class Plan:
    """The form of each product by the name of its weight, and the error that decided it.

    ``errors`` holds the worst NMSE of each product's outputs in ``int8``.
    """

    forms: dict[str, Form]
    errors: dict[str, float]

    def describe(self) -> str:
        """One line for the model card."""
        count = {form: sum(f == form for f in self.forms.values()) for form in ("int8", "int16")}
        worst = max((e for name, e in self.errors.items() if self.forms[name] == "int8"), default=0.0)
        return (
            f"Products of the graph: {count['int8']} with int8 activations (the worst one's outputs off by NMSE "
            f"{worst:.1e}), {count['int16']} with int16 activations; limit {MOST_NMSE:g}."
        )


def plan_products(model: onnx.ModelProto, feeds: Iterable[dict[str, np.ndarray]], work: Path, threads: int) -> Plan:
    """Measure on pictures what int8 activations would do to each product, and choose its form.

    Parameters
    ----------
    feeds : iterable of dict
        Inputs of the graph, one picture after the other.
    work : Path
        Folder for a temporary copy of the graph.
    """
    products = products_of(model)
    errors = {product.weight: 0.0 for product in products if not product.is_head}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    rounded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    measured = [product for product in products if not product.is_head]
    for values in activations(model, [product.source for product in measured], feeds, work, threads):
        for product in measured:
            rows = values[product.source].reshape(-1, values[product.source].shape[-1])
            weight = matrix_of(weights, product)
            if product.weight not in rounded:
                rounded[product.weight] = quantize_rows(weight, 1, LEVELS)
            error = product_error(rows, weight, *rounded[product.weight])
            errors[product.weight] = max(errors[product.weight], error)
    forms: dict[str, Form] = {}
    for product in products:
        wide = product.is_head or errors[product.weight] > MOST_NMSE
        forms[product.weight] = "int16" if wide else "int8"
    return Plan(forms, errors)


def product_error(rows: np.ndarray, weight: np.ndarray, values: np.ndarray, steps: np.ndarray) -> float:
    """NMSE of some rows' outputs if the weights have 7 bits and the activations 8.

    Parameters
    ----------
    rows : ndarray float32 [N, in]
        All rows of the tensor, since its scale comes from all; of long ones only every n-th is multiplied.
    weight : ndarray float32 [in, out]
    values, steps : ndarray int8 [in, out], float32 [out]
        The weights in 7 bits.
    """
    if not np.isfinite(rows).all():
        return float("inf")
    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
    scale = (high - low) / 255.0 or 1.0
    zero = round(-low / scale)
    rows = rows[:: max(1, len(rows) // SAMPLED_ROWS)]
    small = (np.clip(np.rint(rows / scale) + zero, 0, 255) - zero) * np.float32(scale)
    want = rows @ weight
    error = small.astype(np.float32) @ (values * steps) - want
    power = float(np.mean(np.square(want, dtype=np.float64)))
    return float(np.mean(np.square(error, dtype=np.float64))) / (power or 1.0)


def quantize_graph(model: onnx.ModelProto, plan: Plan | None = None) -> onnx.ModelProto:
    """Give each product the form of the plan (in place); without a plan all weights are only stored small.

    Constants of the anatomical bias are not touched.
    """
    from onnx import TensorProto

    graph = model.graph
    forms = plan.forms if plan is not None else {}
    writer = _Writer({tensor.name: tensor for tensor in graph.initializer})
    products = {product.weight: product for product in products_of(model)}
    for node in graph.node:
        axis = _output_axis(node)
        weight = writer.weights.get(node.input[1]) if axis is not None else None
        form = forms.get(node.input[1]) if weight is not None else None
        if form is not None:
            writer.integer(node, matrix_of(writer.weights, products[node.input[1]]), wide=form == "int16")
            continue
        if weight is not None and weight.data_type == TensorProto.FLOAT and _worth_storing(weight):
            node.input[1] = writer.stored(weight, axis)
        writer.nodes.append(node)
    still = {name for node in writer.nodes for name in node.input}
    kept = [*writer.constants, *(tensor for tensor in graph.initializer if tensor.name in still)]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend([*writer.front, *writer.nodes])
    return model


class _Writer:
    """Nodes and constants of the graph that is being made."""

    def __init__(self, weights: dict[str, onnx.TensorProto]) -> None:
        self.weights = weights
        self.front: list[Any] = []
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._made: dict[str, Any] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self._made:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            self._made[name] = name
        return name

    def node(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), outputs[0], **attributes))
        return outputs[0]

    def stored(self, weight: onnx.TensorProto, axis: int | None) -> str:
        """Weights as int8 with one scale per output channel, widened by a Cast and a Mul that runtimes fold."""
        from onnx import TensorProto, helper, numpy_helper

        assert axis is not None
        small, steps, cast, wide = (f"{weight.name}.{part}" for part in ("int8", "scale", "cast", "wide"))
        if wide not in self._made:
            values, scale = quantize_rows(numpy_helper.to_array(weight), axis)
            shape = [1] * values.ndim
            shape[axis] = -1
            self.constant(small, values)
            self.constant(steps, scale.reshape(shape))
            self.front.append(helper.make_node("Cast", [small], [cast], cast, to=TensorProto.FLOAT))
            self.front.append(helper.make_node("Mul", [cast, steps], [wide], wide))
            self._made[wide] = wide
        return wide

    def integer(self, node: onnx.NodeProto, weight: np.ndarray, *, wide: bool) -> None:
        """A product of integers in place of `node`, with its bias if it has one."""
        source, name, result = node.input[0], node.input[1], node.output[0]
        small, steps = f"{name}.int7", f"{name}.scale"
        if small not in self._made:
            values, scale = quantize_rows(weight, 1, LEVELS)
            self.constant(small, values)
            self.constant(steps, scale)
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
        out = result if bias is None else f"{result}.product"
        if not wide:
            self._product(source, small, steps, out)
        else:
            first = self._product(source, small, steps, f"{result}.first")
            second = self._product(self._left_over(source), small, steps, f"{result}.second")
            self.node("Add", [first, second], out)
        if bias is not None:
            self.node("Add", [out, bias], result)

    def _quantized(self, source: str) -> tuple[str, str, str]:
        """Names of a tensor's integers, scale and zero point."""
        names = (f"{source}.uint8", f"{source}.step", f"{source}.zero")
        if names[0] not in self._made:
            self.node("DynamicQuantizeLinear", [source], *names)
            self._made[names[0]] = names
        return names

    def _left_over(self, source: str) -> str:
        """What quantizing a tensor rounds away."""
        name = f"{source}.rest"
        if name not in self._made:
            near = self.node("DequantizeLinear", self._quantized(source), f"{source}.near")
            self._made[name] = self.node("Sub", [source, near], name)
        return name

    def _product(self, source: str, small: str, steps: str, out: str) -> str:
        from onnx import TensorProto

        integers, step, zero = self._quantized(source)
        total = self.node("MatMulInteger", [integers, small, zero], f"{out}.sum")
        cast = self.node("Cast", [total], f"{out}.cast", to=TensorProto.FLOAT)
        both = self.node("Mul", [step, steps], f"{out}.steps")
        return self.node("Mul", [cast, both], out)


def products_of(model: onnx.ModelProto) -> list[Product]:
    """Products with a constant float32 matrix large enough to gain from integers."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = _behind(model, "first_logits")
    found = {}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if (
            weight is None
            or weight.data_type != 1
            or len(weight.dims) != 2
            or int(np.prod(weight.dims)) < SMALLEST_PRODUCT
        ):
            continue
        given = {a.name: a for a in node.attribute}
        if node.op_type == "Gemm" and any(n in given for n in ("transA", "alpha", "beta")):
            plain = not given["transA"].i if "transA" in given else True
            plain &= all(given[n].f == 1.0 for n in ("alpha", "beta") if n in given)
            if not plain:
                continue
        transposed = "transB" in given and bool(given["transB"].i)
        found[weight.name] = Product(node.input[0], weight.name, transposed, node.output[0] in heads)
    return list(found.values())


def _behind(model: onnx.ModelProto, output: str) -> set[str]:
    """Names of the tensors that lead to `output` by nothing but reshaping."""
    makers = {name: node for node in model.graph.node for name in node.output}
    names = {output}
    node = makers.get(output)
    while node is not None and node.op_type in ("Reshape", "Squeeze", "Gather", "Slice", "Identity"):
        names.add(node.input[0])
        node = makers.get(node.input[0])
    return names


def matrix_of(weights: dict[str, onnx.TensorProto], product: Product) -> np.ndarray:
    from onnx import numpy_helper

    array = numpy_helper.to_array(weights[product.weight])
    return array.T if product.transposed else array


def activations(
    model: onnx.ModelProto, names: Iterable[str], feeds: Iterable[dict[str, np.ndarray]], work: Path, threads: int
) -> Iterator[dict[str, np.ndarray]]:
    """For each picture the tensors called `names`; `work` is a folder for a temporary copy of the graph."""
    import onnx
    from onnx import TensorProto, helper

    from .onnx_graph import open_session

    wanted = sorted(set(names))
    if not wanted:
        return
    inside = [name for name in wanted if name not in {value.name for value in model.graph.input}]
    if not inside:  # inputs alone
        yield from ({name: feed[name] for name in wanted} for feed in feeds)
        return
    spied = onnx.ModelProto()
    spied.CopyFrom(model)
    del spied.graph.output[:]
    spied.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inside)
    path = work / "activations.onnx"
    path.write_bytes(spied.SerializeToString())
    del spied
    try:
        session = open_session(path, threads)
    finally:
        path.unlink()
    for feed in feeds:
        found = dict(zip(inside, session.run(inside, feed), strict=True))
        yield {name: found[name] if name in found else feed[name] for name in wanted}


def _output_axis(node: onnx.NodeProto) -> int | None:
    axis = _OUTPUT_AXIS.get(node.op_type)
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        axis = 0
    return axis


def _worth_storing(weight: onnx.TensorProto) -> bool:
    """Large enough, and no depthwise kernel (one input channel per output channel)."""
    shape = list(weight.dims)
    if len(shape) < 2 or len(shape) == 3 or int(np.prod(shape)) < _SMALLEST_STORED:
        return False
    return not (len(shape) == 4 and shape[1] == 1)
