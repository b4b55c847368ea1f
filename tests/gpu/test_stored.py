# SPDX-License-Identifier: Apache-2.0
"""Graphs whose weights are only stored as small integers, as the demo model's: GPUs take them whole."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import fake_ort
import fake_tensorrt
import numpy as np
import onnx
import pytest
from handmade import make_bundle, seal
from onnx import TensorProto, helper, numpy_helper
from stand_in import ROOT, StandIn

import edge
import edge.cuda
from edge.errors import BundleError
from edge.vision.stored import computes_in_integers, with_floats

DEMO = ROOT / "edge" / "bundles" / "demo"


def graph(nodes: list[Any], weights: dict[str, np.ndarray]) -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model.producer_name = "somebody"
    data: bytes = model.SerializeToString()
    return data


STORED = [
    helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["f", "s"], ["m"]),
    helper.make_node("MatMul", ["x", "m"], ["y"]),
]
WEIGHTS = {
    "w": np.random.default_rng(0).integers(-128, 128, (4, 4)).astype(np.int8),
    "s": np.float32([0.1, 0.2, 0.3, 0.4]),
}


def test_stored_weights_become_floats() -> None:
    data = graph(STORED, WEIGHTS)
    model, widened = onnx.load_from_string(data), onnx.load_from_string(with_floats(data))
    onnx.checker.check_model(widened, full_check=True)
    (tensor,) = [tensor for tensor in widened.graph.initializer if tensor.name == "w"]
    assert tensor.data_type == TensorProto.FLOAT
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHTS["w"])
    tensor.CopyFrom(numpy_helper.from_array(WEIGHTS["w"], "w"))  # and nothing else has changed
    assert widened == model
    assert with_floats(with_floats(data)) == with_floats(data) != data


def test_other_integers_stay() -> None:
    zero = {"z": np.int8(0), "t": np.float32(0.5)}
    both = [*STORED[:2], helper.make_node("Cast", ["w"], ["i"], to=TensorProto.INT32)]
    for nodes, weights in (
        ([*STORED[:2], helper.make_node("Neg", ["w"], ["n"]), STORED[2]], WEIGHTS),  # read as an integer, too
        ([helper.make_node("DequantizeLinear", ["w", "t", "z"], ["m"]), STORED[2]], WEIGHTS | zero),
        (STORED, WEIGHTS | {"w": WEIGHTS["w"].astype(np.int32)}),
        (STORED, WEIGHTS | {"w": WEIGHTS["w"].astype(np.uint8)}),
    ):
        data = graph(nodes, weights)
        assert with_floats(data) == data
    assert with_floats(graph([*both, STORED[2]], WEIGHTS)) != graph([*both, STORED[2]], WEIGHTS)


def test_integers_that_are_computed_with(tmp_path: Path) -> None:
    path = tmp_path / "vision.onnx"
    path.write_bytes(graph(STORED, WEIGHTS))
    assert not computes_in_integers(path)
    for operator in ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "DequantizeLinear"):
        path.write_bytes(graph([helper.make_node(operator, ["x"], ["q"]), *STORED], WEIGHTS))
        assert computes_in_integers(path), operator


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    data = graph(STORED, WEIGHTS)
    path = tmp_path / "vision.onnx"
    for broken in (data[:-3], b"\xff" * 40, b"", b"\x3a\x7f\x01"):
        path.write_bytes(broken)
        if broken:
            with pytest.raises(BundleError, match="not a valid ONNX file"):
                with_floats(broken)
        with pytest.raises(BundleError, match=r"vision.onnx is not a valid ONNX file"):
            computes_in_integers(path)


@pytest.fixture
def gpu(
    request: pytest.FixtureRequest,
    host_library: Path,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The stand-in for a GPU, with a TensorRT or (the parameter, and without one) an ONNX Runtime for it."""
    import ctypes

    import onnxruntime

    if getattr(request, "param", "") != "tensorrt":  # whose fake has the real ONNX Runtime behind it
        for name, value in fake_ort.module(refuses="", calls=Counter()).items():
            monkeypatch.setattr(onnxruntime, name, value)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module())
    monkeypatch.setattr(fake_tensorrt, "library", ctypes.CDLL(str(host_library)))
    fake_tensorrt.calls.clear()
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if getattr(request, "param", "auto") != "auto":  # both ways of writing are compared there
        monkeypatch.setenv("EDGE_CUDA_WAY", "steps")
    stand_in.set("any_pointer", 1)


@pytest.fixture(scope="module")
def want() -> tuple[int, ...]:
    report = edge.load(DEMO, device="cpu", threads=1).report(picture(), force=True, max_new_tokens=3)
    return report.token_ids


def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 4096, (64, 64)).astype(np.uint16)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("gpu", "device"), [(d, d) for d in ("auto", "cuda", "tensorrt")], indirect=["gpu"])
def test_the_demo_model_on_a_gpu(device: str, want: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Whole, without a word about parts on the CPU: its film's keys stay there for the decoder."""
    engine = edge.load(DEMO, device=device, threads=1)
    assert engine.device == ("cuda" if device == "auto" else device)
    assert (engine.isa, engine.fallback) == ("cuda", ())
    assert engine._vision.stays
    assert engine.report(picture(), force=True, max_new_tokens=3).token_ids == want
    assert "run on the CPU" not in caplog.text


@pytest.mark.usefixtures("gpu")
def test_a_graph_of_integers_stays(tmp_path: Path) -> None:
    """A quantized bundle goes there whole, unless one product of its graph is of integers."""
    bundle = make_bundle(tmp_path / "bundle", precision="int8")
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.fallback) == ("cuda", ())
    model = onnx.load(bundle / "vision.onnx")
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["pixels"], ["q", "qs", "qz"], name="q"))
    onnx.save(model, bundle / "vision.onnx")
    seal(bundle, json.loads((bundle / "manifest.json").read_text()))
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa) == ("cpu", "cuda")
    assert engine.fallback == (
        "the vision graph on the CPU: this bundle's is quantized for processors; "
        "edge-export --gpu-graph adds one for GPUs",
    )
