# SPDX-License-Identifier: Apache-2.0
"""The vision graph in int8: each form computes what it says, and the measured error decides which one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from edge_export.graph_int8 import LEVELS, MOST_NMSE, Plan, plan_products, product_error, quantize_graph  # noqa: E402
from edge_export.quantize import quantize_rows  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edge.vision.ort import import_runtime  # noqa: E402


def spread(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape))).astype(np.float32)


def make_model() -> Any:
    """Products of every kind: MatMul, Gemm with bias (transposed or not), Conv, ConvTranspose, a head."""
    rng = np.random.default_rng(0)
    weights = {
        "m": spread(rng, 160, 192) / 8,
        "g": spread(rng, 160, 192) / 8,
        "b": spread(rng, 160),
        "small": spread(rng, 160, 48),
        "c": spread(rng, 32, 8, 3, 3),
        "t": spread(rng, 8, 64, 2, 2),
        "h": spread(rng, 300, 160) / 8,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["y0"]),
        helper.make_node("Gelu", ["y0"], ["a"]),
        helper.make_node("Gemm", ["a", "g", "b"], ["y1"], transB=1),
        helper.make_node("MatMul", ["x", "small"], ["y2"]),
        helper.make_node("Conv", ["p", "c"], ["y3"], kernel_shape=[3, 3]),
        helper.make_node("ConvTranspose", ["p", "t"], ["y4"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Gemm", ["y1", "h"], ["first_logits"], transB=1),
    ]
    shapes = {"y0": [40, 192], "y1": [40, 160], "y2": [40, 48], "y3": [1, 32, 4, 4], "y4": [1, 64, 12, 12]}
    shapes["first_logits"] = [40, 300]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, 160]),
            helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 8, 6, 6]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feed(outlier: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 160)).astype(np.float32)
    x[3, 7] *= outlier
    return {"x": x, "p": rng.standard_normal((1, 8, 6, 6)).astype(np.float32)}


def run(model: Any, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = import_runtime().SessionOptions()
    options.log_severity_level = 4
    session = import_runtime().InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, values), strict=True))


def nmse(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.mean((got - want) ** 2) / np.mean(want**2))


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_stored_weights_widen_along_their_own_axis() -> None:
    want = run(make_model(), feed())
    model = quantize_graph(make_model())
    assert operators(model).count("Cast") == 6
    assert "MatMulInteger" not in operators(model)
    for name, got in run(model, feed()).items():
        assert nmse(got, want[name]) < 2e-3


@pytest.mark.parametrize(("form", "limit", "products"), [("int8", 5e-3, 3), ("int16", 4.5e-3, 6)])
def test_products_of_integers(form: Any, limit: float, products: int) -> None:
    want = run(make_model(), feed())
    model = quantize_graph(make_model(), Plan(dict.fromkeys(("m", "g", "h"), form), {}))
    onnx.checker.check_model(model)
    assert operators(model).count("MatMulInteger") == products
    sizes = {t.name: (t.data_type, numpy_helper.to_array(t)) for t in model.graph.initializer}
    for name in ("m", "g", "h"):
        assert name not in sizes
        kind, values = sizes[f"{name}.int7"]
        assert kind == TensorProto.INT8
        assert np.abs(values).max() == LEVELS
    for name, got in run(model, feed()).items():
        assert nmse(got, want[name]) < limit, name


def test_int16_activations_lose_nothing_beside_the_weights() -> None:
    """With weights that 7 bits hold exactly, what remains is the rounding of the activations."""
    model = make_model()
    rng = np.random.default_rng(2)
    exact = rng.integers(-LEVELS, LEVELS + 1, (160, 192)).astype(np.float32)
    exact[0] = LEVELS
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(exact, "m"))
    want = run(model, feed(20.0))["y0"]
    errors = {}
    for form in ("int8", "int16"):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        errors[form] = nmse(run(quantize_graph(copy, Plan({"m": form}, {})), feed(20.0))["y0"], want)
    assert errors["int16"] < 1e-4 * errors["int8"]


def test_no_pair_of_products_overflows_16_bits() -> None:
    """The largest activations on the largest weights: exact on processors that add pairs in 16 bits, too."""
    model = make_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((160, 192), 3.0, np.float32), "m"))
    values = feed()
    values["x"][:] = 5.0
    got = run(quantize_graph(model, Plan({"m": "int8"}, {})), values)["y0"]
    np.testing.assert_allclose(got, 160 * 15.0, rtol=1e-5)


def test_the_measured_error_decides(tmp_path: Path) -> None:
    plan = plan_products(make_model(), [feed()], tmp_path, 1)
    assert plan.forms == {"m": "int8", "g": "int8", "h": "int16"}
    assert 0 < max(plan.errors.values()) < MOST_NMSE
    # One large number makes the steps of all others coarse; the second picture is enough.
    plan = plan_products(make_model(), [feed(), feed(60.0)], tmp_path, 1)
    assert plan.forms == {"m": "int16", "g": "int8", "h": "int16"}
    assert "1 with int8 activations" in plan.describe()
    assert "2 with int16 activations" in plan.describe()
    assert not list(tmp_path.iterdir())


def test_the_error_is_that_of_the_runtime() -> None:
    model, values = make_model(), feed(15.0)
    want = run(model, values)["y0"]
    weight = numpy_helper.to_array(model.graph.initializer[0])
    measured = nmse(run(quantize_graph(model, Plan({"m": "int8"}, {})), values)["y0"], want)
    small = quantize_rows(weight, 1, LEVELS)
    assert product_error(values["x"], weight, *small) == pytest.approx(measured, rel=0.02)
    assert product_error(np.zeros((4, 160), np.float32), weight, *small) == 0.0
    assert product_error(np.full((4, 160), np.nan, np.float32), weight, *small) == float("inf")


def test_own_films_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_export import pipeline
    from edge_export.errors import UsageError
    from PIL import Image
    from tiny import tiny_bundle, tiny_model

    films = tmp_path / "films"
    films.mkdir()
    seen: list[np.ndarray] = []

    def spy(model: Any, feeds: Any, *rest: Any) -> Plan:
        seen.extend(feed["pixels"] for feed in feeds)
        return plan_products(model, [], *rest)

    monkeypatch.setattr(pipeline, "plan_products", spy)
    model = tiny_model(segmenter=False)
    options: dict[str, Any] = {"model": model, "rows": "none", "quantize": "int8", "calibrate": films}
    with pytest.raises(UsageError, match="no files in it"):
        tiny_bundle(tmp_path / "bundle", **options)
    shade = np.linspace(0, 255, 80 * 90).reshape(80, 90).astype(np.uint8)
    Image.fromarray(shade).save(films / "a.png")
    (films / "b.png").write_bytes(b"no picture")
    from edge.errors import InputError

    with pytest.raises(InputError, match="file 2 of --calibrate"):
        tiny_bundle(tmp_path / "bundle", **options)
    assert not (tmp_path / "bundle").exists()
    (films / "b.png").unlink()
    seen.clear()
    tiny_bundle(tmp_path / "bundle", **options)
    size = model.config.image_size
    assert seen[-1].shape == (1, 3, size, size)
    assert seen[-1].std() > 0.5
