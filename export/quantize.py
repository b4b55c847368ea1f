# SPDX-License-Identifier: Apache-2.0
"""Weights of a graph in int8, of a decoder in int8 or int4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import int4
from .errors import UsageError

if TYPE_CHECKING:
    import onnx


def quantize_rows(weight: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with one scale per index of ``axis``.

    Returns
    -------
    int8 array like ``weight``, values in [-127, 127], and float32 scales [weight.shape[axis]]
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127.0).astype(np.float32)
    safe = np.where(scale > 0, scale, 1.0)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / safe.reshape(shape)), -127, 127).astype(np.int8), scale


INT8_IN_INT4 = ("embed", "head")
"""Matrices that an int4 decoder keeps in int8: each of their rows is one token's, and errors there are errors of
its logit."""


def quantize_decoder(
    arrays: dict[str, np.ndarray], quantize: str = "int8", keep_int8: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Matrices of a decoder to int8 with one scale per output row, or to int4 with one per group of columns
    (``X.weight.scale``); the rest stays float32.

    Parameters
    ----------
    quantize : {"int8", "int4"}
        int4 leaves in int8 what has no whole groups, the embedding and the head, and `keep_int8`.
    keep_int8 : sequence of str
        Matrices by name (``layers.0.mlp_out``), or by the last part of it (``mlp_out``) for all layers.

    Raises
    ------
    UsageError
        A name in `keep_int8` is no matrix of the decoder.
    """
    matrices = {n.removesuffix(".weight") for n, a in arrays.items() if a.ndim == 2 and n != "positions.weight"}
    kept = {n for n in matrices if any(n == name or n.endswith(f".{name}") for name in (*keep_int8, *INT8_IN_INT4))}
    unknown = [name for name in keep_int8 if not any(n == name or n.endswith(f".{name}") for n in matrices)]
    if unknown:
        raise UsageError(f"no matrix of the decoder is called {', '.join(unknown)}")
    result = {}
    for name, array in arrays.items():
        matrix = name.removesuffix(".weight")
        if matrix not in matrices:
            result[name] = array
        elif quantize == "int4" and matrix not in kept and int4.fits(array.shape):
            result[name], result[f"{name}.scale"] = int4.quantize_groups(array)
        else:
            result[name], result[f"{name}.scale"] = quantize_rows(array)
    return result


# operator -> axis of its weight (input 1) along which output channels lie
_OUTPUT_AXIS = {"MatMul": 1, "Gemm": 1, "Conv": 0, "ConvTranspose": 1}
_SMALLEST = 2048


def quantize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the weights of products and convolutions as int8 with one scale per output channel (in place).

    Each is widened again by a ``Cast`` and a ``Mul``, which runtimes fold when they load the graph: activations
    stay float32, and the speed is that of float32. Not ``DequantizeLinear``: ONNX Runtime (1.32, at its default
    level) fuses that with a product into ``MatMulNBits``, which quantizes the activations as well, silently, and
    is slower without VNNI. Constants of the anatomical bias are not touched.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    widened: dict[str, str] = {}
    front, kept = [], []
    for node in graph.node:
        axis = _output_axis(node)
        weight = weights.get(node.input[1]) if axis is not None else None
        if weight is None or weight.data_type != TensorProto.FLOAT or not _worth_it(weight):
            continue
        if weight.name not in widened:
            values, scale = quantize_rows(numpy_helper.to_array(weight), axis)
            shape = [1] * values.ndim
            shape[axis] = -1
            small, steps, cast, wide = (f"{weight.name}.{part}" for part in ("int8", "scale", "cast", "wide"))
            kept.append(numpy_helper.from_array(values, small))
            kept.append(numpy_helper.from_array(scale.reshape(shape), steps))
            front.append(helper.make_node("Cast", [small], [cast], cast, to=TensorProto.FLOAT))
            front.append(helper.make_node("Mul", [cast, steps], [wide], wide))
            widened[weight.name] = wide
        node.input[1] = widened[weight.name]
    still = {name for node in graph.node for name in node.input}
    kept += [tensor for tensor in graph.initializer if tensor.name in still]
    nodes = [*front, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return model


def _output_axis(node: onnx.NodeProto) -> int | None:
    axis = _OUTPUT_AXIS.get(node.op_type)
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        axis = 0
    return axis


def _worth_it(weight: onnx.TensorProto) -> bool:
    """Large enough, and no depthwise kernel (one input channel per output channel)."""
    shape = list(weight.dims)
    if len(shape) < 2 or len(shape) == 3 or int(np.prod(shape)) < _SMALLEST:
        return False
    return not (len(shape) == 4 and shape[1] == 1)
