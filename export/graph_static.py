# SPDX-License-Identifier: Apache-2.0
"""The vision graph in int8 with fixed ranges, for OpenVINO.

The int8 graph of :mod:`edge_export.graph_int8` takes the range of every tensor from the film at hand, which OpenVINO
runs slowly. Here ranges are those met on pictures when the bundle is made (``QuantizeLinear`` and ``DequantizeLinear``
in front of a product, weights in 8 bits per output channel), which OpenVINO turns into products of bytes; what lies
between them it computes in bfloat16 where the processor can. Pixels are rows of matrices: see
:mod:`edge_export.graph_rows`.

The rule: a product is quantized unless its outputs then differ from its float32 outputs by more than ``MOST_NMSE`` on
any picture; a convolution, unless rounding its input alone does. For OpenVINO a product of joined tensors stays as it
is: OpenVINO (2026.4) moves the rounding in front of the join, gives every row a zero point of its own, and then refuses
the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ExportError
from .graph_int8 import MOST_NMSE, SAMPLED_ROWS, activations, matrix_of, products_of
from .graph_rows import pixels_as_rows, sums_with_channels_last
from .onnx_graph import without_check_outputs
from .quantize import quantize_rows

if TYPE_CHECKING:
    import onnx

Feeds = Callable[[], Iterable[dict[str, np.ndarray]]]
LEVELS = 255
LARGEST_ERROR, LEAST_DICE = 0.1, 0.9
"""What an export may be off at most, as for the int8 graph."""


@dataclass
class StaticPlan:
    """Ranges of the tensors that are rounded, and the error of each product by the name of its weight."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def takes(self, weight: str) -> bool:
        """Whether the product with this weight is one of bytes."""
        return self.errors.get(weight, np.inf) <= MOST_NMSE

    def describe(self) -> str:
        """For the model card."""
        taken = [error for error in self.errors.values() if error <= MOST_NMSE]
        return (
            f"The bundle holds the vision graph with fixed int8 ranges too, for OpenVINO: {len(taken)} of "
            f"{len(self.errors)} products in int8 (the worst one off by NMSE {max(taken, default=0.0):.1e}; limit "
            f"{MOST_NMSE:g})."
        )


def plan_static(
    model: onnx.ModelProto, feeds: Feeds, work: Path, threads: int, *, symmetric: bool = False
) -> StaticPlan:
    """Take pictures through the float32 graph twice: for the ranges, then for what rounding to them does.

    Parameters
    ----------
    model : ModelProto
        In float32.
    feeds : callable
        Gives the inputs of the graph, one picture after the other, as often as it is called.
    work : Path
        Folder for a temporary copy of the graph.
    symmetric : bool
        Ranges reach as far below 0 as above.
    """
    plan = StaticPlan()
    products = [product for product in products_of(model) if not product.is_head]
    if not symmetric:
        joined = {name for node in model.graph.node if node.op_type == "Concat" for name in node.output}
        products = [product for product in products if product.source not in joined]
    convolutions = _convolutions(model)
    sources = [product.source for product in products] + list(convolutions.values())
    for values in activations(model, sources, feeds(), work, threads):
        for name, array in values.items():
            low, high = plan.ranges.get(name, (0.0, 0.0))
            plan.ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    if symmetric:
        plan.ranges = {name: (-max(-low, high), max(-low, high)) for name, (low, high) in plan.ranges.items()}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    small = {p.weight: quantize_rows(matrix_of(weights, p), 1) for p in products}
    plan.errors = dict.fromkeys([*small, *convolutions], 0.0)
    for values in activations(model, sources, feeds(), work, threads):
        for product in products:
            rows = values[product.source].reshape(-1, values[product.source].shape[-1])
            error = _product_error(
                rows[:: max(1, len(rows) // SAMPLED_ROWS)],
                matrix_of(weights, product),
                small[product.weight],
                plan.ranges[product.source],
            )
            plan.errors[product.weight] = max(plan.errors[product.weight], error)
        for weight, source in convolutions.items():
            array = values[source].ravel()[:: max(1, values[source].size >> 18)]
            error = _nmse(_rounded(array, plan.ranges[source]), array)
            plan.errors[weight] = max(plan.errors[weight], error)
    return plan


def with_static_ranges(model: onnx.ModelProto, plan: StaticPlan) -> onnx.ModelProto:
    """A copy of the graph in which the products that the plan takes are products of integers."""
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    constants: list[Any] = []
    made: dict[str, str] = {}

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def source(name: str) -> str:
        if name not in made:
            scale, zero = _scale(plan.ranges[name])
            step = constant(f"{name}.step", np.float32(scale))
            origin = constant(f"{name}.zero", np.uint8(zero))
            nodes.append(_node("QuantizeLinear", [name, step, origin], f"{name}.uint8"))
            nodes.append(_node("DequantizeLinear", [f"{name}.uint8", step, origin], f"{name}.near"))
            made[name] = f"{name}.near"
        return made[name]

    def weight(name: str, axis: int) -> str:
        if name not in made:
            values, scale = quantize_rows(numpy_helper.to_array(weights[name]), axis)
            parts = [constant(f"{name}.int8", values), constant(f"{name}.scale", scale)]
            parts.append(constant(f"{name}.none", np.zeros(scale.shape, np.int8)))
            nodes.append(_node("DequantizeLinear", parts, f"{name}.wide", axis=axis))
            made[name] = f"{name}.wide"
        return made[name]

    for node in graph.node:
        if len(node.input) > 1 and node.op_type in ("MatMul", "Gemm", "Conv") and plan.takes(node.input[1]):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if node.op_type == "Conv" or transposed else 1
            node.input[0], node.input[1] = source(node.input[0]), weight(node.input[1], axis)
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [*constants, *(tensor for tensor in graph.initializer if tensor.name in used)]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    pixels_as_rows(result)
    sums_with_channels_last(result)
    return result


def write_static_graph(model: onnx.ModelProto, path: Path, feeds: Feeds, work: Path, threads: int) -> list[str]:
    """Write the graph with fixed ranges; sentences for the model card.

    Parameters
    ----------
    model : ModelProto
        In float32; it stays as it is.
    feeds, work, threads
        As for :func:`plan_static`.

    Raises
    ------
    ExportError
        What was written is too far from float32.
    """
    plan = plan_static(model, feeds, work, threads)
    path.write_bytes(without_check_outputs(with_static_ranges(model, plan)).SerializeToString())
    return [plan.describe(), compare_static(model, path, feeds(), work)]


def compare_static(model: onnx.ModelProto, path: Path, feeds: Iterable[dict[str, np.ndarray]], work: Path) -> str:
    """A sentence for the model card on how far the written graph is from float32, in the runtime that it is for.

    Without OpenVINO here ONNX Runtime runs it, and in either case bfloat16 is used only where the processor has it.
    """
    from edge.vision.choice import has_bf16, open_backend

    runtime = "openvino" if find_spec("openvino") is not None else "ort"
    whole = work / "float32.onnx"
    whole.write_bytes(model.SerializeToString())
    try:
        exact = open_backend(whole, "ort", device="cpu", threads=1, graph="")
    finally:
        whole.unlink()
    bf16 = runtime == "openvino" and has_bf16()
    static = open_backend(path, runtime, device="cpu", threads=1, graph="", bf16=bf16)
    names = [port.name for port in static.outputs if port.name not in ("mask", "key_bias")]
    masks = ["mask"] if any(port.name == "mask" for port in static.outputs) else []
    worst, dice = 0.0, 1.0
    for feed in feeds:
        got, want = (backend.run(feed, names + masks) for backend in (static, exact))
        worst = max(worst, *(_nmse(a, b) for a, b in zip(got[: len(names)], want, strict=False)))
        if masks:
            dice = min(dice, 2.0 * float((got[-1] * want[-1]).sum()) / max(float(got[-1].sum() + want[-1].sum()), 1.0))
    if not (worst <= LARGEST_ERROR and dice >= LEAST_DICE):
        raise ExportError(f"the graph with fixed ranges differs from float32: error {worst:.1e}, mask {dice:.4f}")
    form = "bfloat16 between the products" if bf16 else "float32 between the products"
    mask = f", Dice of the mask at least {dice:.4f}" if masks else ""
    return (
        f"In {'OpenVINO' if runtime == 'openvino' else 'ONNX Runtime'}, with {form}, its outputs are off by NMSE "
        f"{worst:.1e} at most{mask}."
    )


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], output, **attributes)


def _convolutions(model: onnx.ModelProto) -> dict[str, str]:
    """Inputs of the convolutions over all channels, by the name of the weight."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if tensor is None or tensor.data_type != 1 or any(a.name == "group" and a.i != 1 for a in node.attribute):
            continue
        found[tensor.name] = node.input[0]
    return found


def _scale(limits: tuple[float, float]) -> tuple[float, int]:
    """Step and zero point of 8 bits; 0 is one of the levels."""
    low, high = limits
    step = (high - low) / LEVELS or 1.0
    return step, round(-low / step)


def _rounded(array: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    step, zero = _scale(limits)
    levels = np.clip(np.rint(array / np.float32(step)) + zero, 0, LEVELS) - zero
    return (levels * np.float32(step)).astype(np.float32)


def _product_error(
    rows: np.ndarray, weight: np.ndarray, small: tuple[np.ndarray, np.ndarray], limits: tuple[float, float]
) -> float:
    values, steps = small
    if not np.isfinite(rows).all() or not np.isfinite(limits).all():
        return float("inf")
    return _nmse(_rounded(rows, limits) @ (values * steps), rows @ weight)


def _nmse(got: np.ndarray, want: np.ndarray) -> float:
    power = float(np.mean(np.square(want, dtype=np.float64)))
    error = float(np.mean(np.square(got - want, dtype=np.float64))) / (power or 1.0)
    return error if np.isfinite(error) else float("inf")
