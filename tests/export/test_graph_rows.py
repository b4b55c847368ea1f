# SPDX-License-Identifier: Apache-2.0
"""Pixels as rows of one matrix: the same numbers, only where nothing else looks at height and width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from edge_export.graph_rows import pixels_as_rows, sums_with_channels_last  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Change = Callable[[list[Any], dict[str, np.ndarray]], None]
CHANNELS, HEIGHT, WIDTH = 8, 5, 3


def block(change: Change = lambda nodes, weights: None, *, axis: int = -1) -> onnx.ModelProto:
    """A ConvNeXt block without its convolution, its first product one of fixed ranges."""
    rng = np.random.default_rng(0)
    weights = {
        "scale": rng.standard_normal(CHANNELS).astype(np.float32),
        "shift": rng.standard_normal(CHANNELS).astype(np.float32),
        "up.int8": rng.integers(-127, 128, (CHANNELS, 4 * CHANNELS)).astype(np.int8),
        "up.step": rng.random(4 * CHANNELS, dtype=np.float32) / 64,
        "up.zero": np.zeros(4 * CHANNELS, np.int8),
        "up.bias": rng.standard_normal(4 * CHANNELS).astype(np.float32),
        "down": rng.standard_normal((4 * CHANNELS, 6)).astype(np.float32),
        "gamma": rng.standard_normal(6).astype(np.float32),
        "step": np.asarray(0.05, np.float32),
        "zero": np.asarray(128, np.uint8),
    }
    if axis == 2:
        weights |= {name: rng.standard_normal((WIDTH, CHANNELS)).astype(np.float32) for name in ("scale", "shift")}
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        node("LayerNormalization", ["last", "scale", "shift"], ["normed"], axis=axis),
        node("QuantizeLinear", ["normed", "step", "zero"], ["bytes"]),
        node("DequantizeLinear", ["bytes", "step", "zero"], ["near"]),
        node("DequantizeLinear", ["up.int8", "up.step", "up.zero"], ["up"], axis=1),
        node("MatMul", ["near", "up"], ["wide"]),
        node("Add", ["up.bias", "wide"], ["biased"]),
        node("Gelu", ["biased"], ["active"]),
        node("MatMul", ["active", "down"], ["narrow"]),
        node("Mul", ["narrow", "gamma"], ["scaled"]),
        node("Transpose", ["scaled"], ["y"], perm=[0, 3, 1, 2]),
    ]
    change(nodes, weights)
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, CHANNELS, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    return session.run(["y"], {"x": x})[0]


def test_a_block_works_on_rows_and_gives_the_same() -> None:
    model = block()
    want = run(model)
    assert pixels_as_rows(model) == 1
    onnx.checker.check_model(model, full_check=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _inferred(model)}
    assert shapes["normed"] == [2, HEIGHT * WIDTH, CHANNELS]
    assert shapes["scaled"] == [2, HEIGHT * WIDTH, 6]
    assert want.shape == (2, 6, HEIGHT, WIDTH)
    np.testing.assert_array_equal(run(model), want)


def _inferred(model: onnx.ModelProto) -> Any:
    return onnx.shape_inference.infer_shapes(model).graph.value_info


def _read_twice(nodes: list[Any], weights: dict[str, np.ndarray]) -> None:
    nodes.insert(-1, helper.make_node("Add", ["scaled", "narrow"], ["both"]))
    nodes[-1].input[0] = "both"


def _mixes_pixels(nodes: list[Any], weights: dict[str, np.ndarray]) -> None:
    weights["axes"] = np.array([1, 2])
    nodes.insert(-1, helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=1))
    nodes[-1].input[0] = "mean"


def _differs_by_column(nodes: list[Any], weights: dict[str, np.ndarray]) -> None:
    weights["gamma"] = np.ones((WIDTH, 6), np.float32)


def _weights_per_column(nodes: list[Any], weights: dict[str, np.ndarray]) -> None:
    weights["down"] = np.ones((HEIGHT, 4 * CHANNELS, 6), np.float32)


def _other_order_back(nodes: list[Any], weights: dict[str, np.ndarray]) -> None:
    nodes[-1].attribute[0].ints[:] = [0, 3, 2, 1]


def _quantized_by_channel(nodes: list[Any], weights: dict[str, np.ndarray]) -> None:
    weights |= {"step": np.full(HEIGHT, 0.05, np.float32), "zero": np.full(HEIGHT, 128, np.uint8)}
    for node in nodes[2:4]:
        node.attribute.append(helper.make_attribute("axis", 1))


@pytest.mark.parametrize(
    "change",
    [
        _read_twice,
        _mixes_pixels,
        _differs_by_column,
        _weights_per_column,
        _other_order_back,
        _quantized_by_channel,
    ],
)
def test_what_looks_at_height_or_width_stays(change: Change) -> None:
    model = block(change)
    before, want = [node.SerializeToString() for node in model.graph.node], run(model)
    assert pixels_as_rows(model) == 0
    assert [node.SerializeToString() for node in model.graph.node] == before
    np.testing.assert_array_equal(run(model), want)


def test_a_norm_over_columns_stays() -> None:
    assert pixels_as_rows(block(axis=2)) == 0


def test_an_output_in_the_middle_stays() -> None:
    model = block()
    model.graph.output.append(helper.make_tensor_value_info("biased", TensorProto.FLOAT, [None] * 4))
    assert pixels_as_rows(model) == 0


def stage(*, first_is_turned: bool = True, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """Two blocks with what they add to, which a convolution reads as well, behind a norm or behind none."""
    rng = np.random.default_rng(0)
    weights = {
        "scale": rng.standard_normal(CHANNELS).astype(np.float32),
        "shift": rng.standard_normal(CHANNELS).astype(np.float32),
        **{f"w{i}": rng.standard_normal((CHANNELS, 1, 3, 3)).astype(np.float32) for i in range(2)},
        **{f"m{i}": rng.standard_normal((CHANNELS, CHANNELS)).astype(np.float32) for i in range(2)},
    }
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["x.last"], perm=[0, 2, 3, 1]),
        node("LayerNormalization", ["x.last", "scale", "shift"], ["normed"]),
        node("Transpose", ["normed"], ["s0"], perm=[0, 3, 1, 2]),
    ]
    if not first_is_turned:
        nodes = [node("Relu", ["x"], ["s0"])]
    for i in range(2):
        nodes += [
            node("Conv", [f"s{i}", f"w{i}"], [f"c{i}"], pads=[1] * 4, group=CHANNELS),
            node("Transpose", [f"c{i}"], [f"t{i}"], perm=[0, 2, 3, 1]),
            node("MatMul", [f"t{i}", f"m{i}"], [f"p{i}"]),
            node("Transpose", [f"p{i}"], [f"b{i}"], perm=[0, 3, 1, 2]),
            node("Add", [f"s{i}", f"b{i}"], [f"s{i + 1}"]),
        ]
    nodes += [
        node("Transpose", ["s2"], ["z"], perm=[0, 2, 3, 1]),
        node("LayerNormalization", ["z", "scale", "shift"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stage",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, CHANNELS, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_sums_are_taken_with_the_channels_last() -> None:
    model = stage()
    want = run(model)
    assert sums_with_channels_last(model) == 2
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model), want)
    turned = [(n.input[0], n.output[0]) for n in model.graph.node if n.op_type == "Transpose"]
    # What is left is turned for a convolution, or comes from one.
    assert turned == [("x", "x.last"), ("normed", "s0"), ("c0", "t0"), ("s1.last", "s1"), ("c1", "t1")]


def test_what_a_graph_gives_out_is_still_there() -> None:
    outputs = ("y", "s1", "z")
    model = stage(outputs=outputs)
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    results = []
    for turned in (False, True):
        assert not turned or sums_with_channels_last(model) == 2
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(outputs, {"x": x}))
    for want, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, want)


def test_sums_with_a_term_that_was_not_turned_stay() -> None:
    model = stage(first_is_turned=False)
    before = [node.SerializeToString() for node in model.graph.node]
    assert sums_with_channels_last(model) == 0
    assert [node.SerializeToString() for node in model.graph.node] == before
