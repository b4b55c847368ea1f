# SPDX-License-Identifier: Apache-2.0
"""The vision graph with fixed int8 ranges: what it computes, what decides, and how a bundle holds it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from edge_export.errors import UsageError  # noqa: E402
from edge_export.graph_static import plan_static, with_static_ranges  # noqa: E402
from test_graph_int8 import feed, make_model, nmse, operators, run  # noqa: E402

import edge  # noqa: E402
from edge.bundle import Bundle  # noqa: E402


def test_products_of_fixed_ranges(tmp_path: Path) -> None:
    model = make_model()
    plan = plan_static(model, lambda: [feed(), feed(2.0)], tmp_path, 1)
    assert set(plan.errors) == {"m", "g", "c"}  # not the small one, the transposed convolution or the head
    assert all(plan.takes(name) for name in plan.errors)
    assert plan.ranges["x"] == (min(f["x"].min() for f in (feed(), feed(2.0))), feed(2.0)["x"].max())
    static = with_static_ranges(model, plan)
    onnx.checker.check_model(static)
    assert operators(static).count("QuantizeLinear") == 3  # x, what gelu gives, p
    assert operators(static).count("DequantizeLinear") == 6
    assert len(static.SerializeToString()) < 0.7 * len(model.SerializeToString())
    want, got = run(model, feed()), run(static, feed())
    for name in want:
        assert nmse(got[name], want[name]) < 3e-3
    # Each product alone is off by what the plan says, within what pictures and sampled rows differ.
    assert 1e-5 < nmse(got["y0"], want["y0"]) < 3 * plan.errors["m"]
    assert not list(tmp_path.iterdir())


def test_a_product_that_would_lose_too_much_stays(tmp_path: Path) -> None:
    model = make_model()
    plan = plan_static(model, lambda: [feed(), feed(200.0)], tmp_path, 1)
    assert not plan.takes("m")
    assert "1 of 3 products" in plan.describe()
    static = with_static_ranges(model, plan)
    assert "x" not in {node.input[0] for node in static.graph.node if node.op_type == "QuantizeLinear"}
    assert nmse(run(static, feed())["y0"], run(model, feed())["y0"]) == 0.0


def test_what_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    broken = feed()
    broken["x"][0, 0] = np.inf
    assert not plan_static(make_model(), lambda: [broken], tmp_path, 1).takes("m")


def joined_model() -> onnx.ModelProto:
    """relu(x) and -x one behind the other, then a product."""
    rng = np.random.default_rng(5)
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"]),
        onnx.helper.make_node("Neg", ["x"], ["b"]),
        onnx.helper.make_node("Concat", ["a", "b"], ["ab"], axis=0),
        onnx.helper.make_node("MatMul", ["ab", "w"], ["y"]),
        onnx.helper.make_node("Relu", ["y"], ["yy"]),
        onnx.helper.make_node("MatMul", ["yy", "v"], ["z"]),
    ]
    weights = [
        onnx.numpy_helper.from_array((rng.standard_normal((160, 160)) / 12).astype(np.float32), name) for name in "wv"
    ]
    ports = [onnx.helper.make_tensor_value_info(n, 1, [rows, 160]) for n, rows in (("x", 48), ("z", 96))]
    graph = onnx.helper.make_graph(nodes, "joined", ports[:1], ports[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_a_product_of_joined_tensors_stays(tmp_path: Path) -> None:
    model = joined_model()
    feeds = {"x": np.random.default_rng(6).standard_normal((48, 160)).astype(np.float32)}
    plan = plan_static(model, lambda: [feeds], tmp_path, 1)
    assert [name for name in plan.errors if plan.takes(name)] == ["v"]
    path = tmp_path / "static.onnx"
    onnx.save(with_static_ranges(model, plan), path)
    assert plan_static(model, lambda: [feeds], tmp_path, 1, symmetric=True).takes("w")
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from edge.vision.choice import open_backend

    backend = open_backend(path, "openvino", device="cpu", threads=1, graph="")
    (got,) = backend.run(feeds, ["z"])
    assert nmse(got, run(model, feeds)["z"]) < 3e-3


def test_a_bundle_with_a_graph_for_openvino(exported) -> None:  # type: ignore[no-untyped-def]
    _, folder = exported(kind="gaussian", quantize="int8", openvino_graph=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["graphs"] == {"vision": "vision.onnx", "vision_static": "vision.static.onnx"}
    graph = onnx.load(folder / "vision.static.onnx")
    assert "DynamicQuantizeLinear" not in operators(graph)
    assert {o.domain for o in graph.opset_import} == {""}
    card = (folder / "MODEL_CARD.md").read_text()
    assert "fixed int8 ranges" in card
    assert "Dice of the mask at least" in card
    assert Bundle.open(folder).manifest.vision_static_file == "vision.static.onnx"
    # ONNX Runtime takes the other graph.
    engine = edge.load(folder, vision="ort", threads=1)
    assert engine.report(np.random.default_rng(0).random((80, 70))).software["vision"] == "ort"


def test_only_an_int8_bundle_holds_one(exported) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="needs quantize"):
        exported(kind="gaussian", openvino_graph=True)
