# SPDX-License-Identifier: Apache-2.0
"""What a film costs to multiply, counted by hand for graphs that are small enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edge_bench import products
from onnx import TensorProto, helper, numpy_helper

import edge._kernel as kernel


def graph(path: Path, nodes: list[Any], feeds: dict[str, list[Any]], weights: dict[str, Any], domain: str = "") -> Path:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(nodes[-1].output[0])]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, tensors), opset_imports=opsets), path)
    return path


def test_of_a_graph(tmp_path: Path) -> None:
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "t"], ["u"], strides=[2, 2]),
        helper.make_node("Flatten", ["u"], ["f"], axis=2),
        helper.make_node("MatMul", ["f", "m"], ["y"]),
        helper.make_node("Transpose", ["y"], ["z"], perm=[1, 0]),
        helper.make_node("Gemm", ["z", "g"], ["o"], transA=1),
    ]
    weights = {"w": zeros(6, 2, 3, 3), "t": zeros(6, 5, 2, 2), "m": zeros(80, 7), "g": zeros(7, 3)}
    path = graph(tmp_path / "a.onnx", nodes, {"x": [1, 4, 8, 10]}, weights)
    conv = 6 * 8 * 10 * 2 * 9
    up = 6 * 8 * 10 * 5 * 4
    # [1, 5, 16, 20] is flat [5, 320]: the matrix does not fit, which is not counted.
    assert products.of_graph(path) is None
    weights["m"] = zeros(320, 7)
    path = graph(tmp_path / "b.onnx", nodes, {"x": [1, 4, 8, 10]}, weights)
    assert products.of_graph(path) == conv + up + 5 * 320 * 7 + 5 * 7 * 3


def test_what_cannot_be_known(tmp_path: Path) -> None:
    weights = {"m": np.zeros((4, 4), np.float32)}
    open_shape = graph(tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "m"], ["y"])], {"x": ["n", 4]}, weights)
    assert products.of_graph(open_shape) is None
    fused = helper.make_node("FusedGelu", ["x", "m"], ["y"], domain="com.microsoft")
    assert products.of_graph(graph(tmp_path / "b.onnx", [fused], {"x": [4, 4]}, weights)) is None
    assert products.of_graph(tmp_path / "none.onnx") is None


def test_of_a_prefill() -> None:
    """Against a loop over rows and what each of them meets."""
    spec = {"hidden": 8, "mlp": 20, "layers": 3, "vocab": 11}
    total = 8 * 11
    for layer in range(3):
        for row in range(6):
            last = layer == 2
            total += 2 * 8 * 8
            if not last or row == 5:
                total += 2 * 8 * 8 + 2 * 8 * 20 + 2 * 8 * (row + 1)
    assert products.of_prefill(spec, 6) == total


@pytest.mark.parametrize("isa", kernel.isa_supported())
def test_the_meter(isa: str) -> None:
    """A few passes at a rate that a processor can have, in billions per second."""
    rates = kernel.MultiplyMeter(1, isa).passes(0.01)
    assert len(rates) >= 3
    assert 0.1 < min(rates) <= max(rates) < 10_000


def test_wrong_meters() -> None:
    for threads in (0, -1, 5000):
        with pytest.raises(ValueError, match="threads"):
            kernel.MultiplyMeter(threads)
    with pytest.raises(ValueError, match="seconds"):
        kernel.MultiplyMeter(1).passes(-1.0)
