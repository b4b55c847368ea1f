# SPDX-License-Identifier: Apache-2.0
"""The float16 graph for GPUs, and TensorRT's rules over every kind of graph that is exported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edge_export.graph_cuda import for_cuda, without_cuda_kernel
from edge_export.graph_fp16 import to_fp16
from edge_export.tensorrt_lint import lint
from onnx import TensorProto, helper, numpy_helper

DEMO = Path(__file__).parents[2] / "edge" / "bundles" / "demo" / "vision.onnx"
Exported = Callable[..., tuple[Any, Path]]

# What other tests export as well.
KINDS: list[dict[str, Any]] = [
    {"kind": "gaussian"},
    {"kind": "hidden"},
    {"kind": "layerwise", "skip_tokens": 1, "connector": "mlp4", "begin": True, "suppress": True, "strength": 2.0},
    {"kind": "gaussian_legacy", "skip_tokens": 1, "tied_head": False, "shared_trunk": False, "strength": 2.0},
    {"kind": "gaussian", "rows": "none", "with_mask": False},
]


@pytest.mark.parametrize("options", KINDS, ids=lambda o: o["kind"])
def test_every_kind_of_graph(exported: Exported, options: dict[str, Any]) -> None:
    """Float32 as well as float16 keep TensorRT's rules; the numbers stay, the types are those of the interface."""
    from edge_export.onnx_graph import open_session

    _, folder = exported(**options)
    model = onnx.load(folder / "vision.onnx")
    assert lint(model) == []
    half = to_fp16(model)
    assert lint(half) == []
    assert len(half.SerializeToString()) < 0.65 * len(model.SerializeToString())
    types = {node.op_type: 0 for node in half.graph.node}
    assert types.keys() == {node.op_type for node in model.graph.node} | {"Cast"}
    path = folder.parent / "half.onnx"
    onnx.save(half, path)
    one, two = open_session(folder / "vision.onnx", 1), open_session(path, 1)
    pixels = np.random.default_rng(1).standard_normal((1, 3, 64, 64), np.float32)
    feed = {"pixels": pixels, "bias_switch": np.ones(1, np.float32)}
    feed = {node.name: feed[node.name] for node in one.get_inputs()}
    for port, want, got in zip(one.get_outputs(), one.run(None, feed), two.run(None, feed), strict=True):
        assert got.dtype == np.float32
        shown = want > np.finfo(np.float32).min
        np.testing.assert_array_equal(shown, got > np.finfo(np.float32).min)
        error = ((got - want)[shown] ** 2).sum() / (want[shown] ** 2).sum()
        assert error < 1e-4, port.name
        assert error > 0 or port.name == "mask"  # something was rounded
    # ONNX Runtime's CUDA provider has kernels for all of it.
    assert without_cuda_kernel(model) == []
    assert without_cuda_kernel(half) == []


def test_a_traced_graph_in_older_forms(exported: Exported) -> None:
    """Its late operators are spelt in older ones, and every number it gives stays, bit for bit."""
    import onnxruntime
    from edge_export.families.lana.vision_graph import VisionGraph
    from traces import to_onnx

    model, _ = exported(kind="gaussian")
    traced = to_onnx(VisionGraph(model, with_mask=True, sequence_length=60))
    late = {line.split()[0] for line in without_cuda_kernel(traced)}
    assert late == {"ArgMax", "Equal", "Pad", "ReduceMax", "ReduceMin"}
    older = for_cuda(traced)
    assert without_cuda_kernel(older) == []
    assert lint(older) == []
    pixels = np.random.default_rng(1).standard_normal((1, 3, 64, 64), np.float32)
    feed = {"pixels": pixels, "bias_switch": np.ones(1, np.float32)}
    want, got = (
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        for one in (traced, older)
    )
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(other, one)


def test_the_demo_model_is_for_gpus_too() -> None:
    """All of it has CUDA kernels; widened as it is for TensorRT, it keeps TensorRT's rules and says the same."""
    import onnxruntime

    from edge.vision.stored import computes_in_integers, with_floats

    data = DEMO.read_bytes()
    model = onnx.load_from_string(data)
    assert without_cuda_kernel(model) == []
    assert not computes_in_integers(DEMO)
    problems = lint(model)
    assert problems
    assert all(problem.endswith("a constant of int8 that nothing dequantizes") for problem in problems)
    widened = with_floats(data)
    assert lint(onnx.load_from_string(widened)) == []
    feed = {
        "pixels": np.random.default_rng(1).standard_normal((1, 3, 256, 256), np.float32),
        "bias_switch": np.ones(1, np.float32),
    }
    want, got = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, feed) for one in (data, widened)
    )
    for one, other in zip(want, got, strict=True):
        np.testing.assert_array_equal(other, one)


def test_int8_graphs_are_told(exported: Exported) -> None:
    _, folder = exported(quantize="int8", gpu_graph=True)
    problems = "\n".join(lint(onnx.load(folder / "vision.onnx")))
    assert "DynamicQuantizeLinear" in problems
    assert "MatMulInteger" in problems
    assert "an unsigned zero point" in problems or "uint8 instead of int8" in problems
    # The same bundle's second graph is the one for GPUs.
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["graphs"] == {"vision": "vision.onnx", "vision_fp16": "vision.fp16.onnx"}
    assert "vision.fp16.onnx" in manifest["files"]
    half = onnx.load(folder / "vision.fp16.onnx")
    assert lint(half) == []
    assert without_cuda_kernel(half) == []
    assert {output.name for output in half.graph.output} >= {"prefix_keys", "first_logits", "mask"}
    assert "prefix_embeddings" not in {output.name for output in half.graph.output}
    assert "in float16 too" in (folder / "MODEL_CARD.md").read_text()
    from edge.bundle import Bundle

    assert Bundle.open(folder).manifest.vision_fp16_file == "vision.fp16.onnx"


def test_an_int8_graph_for_tensorrt(exported: Exported) -> None:
    """Products in int8 by explicit, symmetric quantization; everything else is the float16 graph."""
    from edge_export.onnx_graph import open_session

    from edge.bundle import Bundle

    _, folder = exported(gpu_graph=True, tensorrt_int8=True)
    assert Bundle.open(folder).manifest.vision_tensorrt_file == "vision.tensorrt.onnx"
    small = onnx.load(folder / "vision.tensorrt.onnx")
    assert lint(small) == []
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    operators = Counter(node.op_type for node in small.graph.node)
    assert operators["QuantizeLinear"] > 5
    assert operators["DequantizeLinear"] > operators["QuantizeLinear"]
    for node in small.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert weights[node.input[1]].dtype == np.float16
            assert weights[node.input[2]].dtype == np.int8
            assert not weights[node.input[2]].any()
    half, exact = onnx.load(folder / "vision.fp16.onnx"), folder / "vision.onnx"
    assert {node.op_type for node in half.graph.node} == operators.keys() - {"QuantizeLinear", "DequantizeLinear"}
    pixels = np.random.default_rng(1).standard_normal((1, 3, 64, 64), np.float32)
    one, two = open_session(exact, 1), open_session(folder / "vision.tensorrt.onnx", 1)
    feed = {"pixels": pixels, "bias_switch": np.ones(1, np.float32)}
    names = ["prefix_keys", "prefix_values", "first_logits"]
    for want, got in zip(one.run(names, feed), two.run(names, feed), strict=True):
        assert got.dtype == np.float32
        assert 1e-6 < ((got - want) ** 2).sum() / (want**2).sum() < 0.05
    assert "products in int8 too" in (folder / "MODEL_CARD.md").read_text()


def test_int8_for_tensorrt_stands_beside_float16(exported: Exported) -> None:
    from edge_export.errors import UsageError

    with pytest.raises(UsageError, match="it needs --gpu-graph"):
        exported(tensorrt_int8=True)


def test_scales_beyond_half_keep_their_product() -> None:
    from edge_export.graph_static import StaticPlan
    from edge_export.graph_tensorrt import with_symmetric_int8

    model = plain(graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], W))
    half = to_fp16(model)
    for limit, quantized in ((1.0, 1), (1e-7, 0), (1e9, 0)):
        plan = StaticPlan(ranges={"x": (-limit, limit)}, errors={"w": 0.0})
        small, taken = with_symmetric_int8(half, plan)
        assert taken == quantized
        assert [node.op_type for node in small.graph.node].count("QuantizeLinear") == quantized
    assert with_symmetric_int8(half, StaticPlan(ranges={"x": (-1.0, 1.0)}, errors={"w": 1.0}))[1] == 0


def graph(nodes: list[Any], weights: dict[str, np.ndarray], kind: int = TensorProto.FLOAT, size: Any = 4) -> Any:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])


def plain(model: Any) -> Any:
    del model.opset_import[1:]
    return model


def branch(operator: str) -> Any:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(operator, ["x"], ["b"])], operator, [], [out])


W = {"w": np.ones((4, 4), np.float32)}
SCALE = {"s": np.array(0.1, np.float32)}


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda: graph([helper.make_node("MatMul", ["x", "w"], ["y"])], W), "the domain com.microsoft"),
        (
            lambda: graph([helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")], W),
            "an operator of com.microsoft",
        ),
        (
            lambda: plain(graph([helper.make_node("MatMul", ["x", "w"], ["y"])], W, size="n")),
            "no fixed shape",
        ),
        (
            lambda: plain(graph([helper.make_node("MatMul", ["x", "w"], ["y"])], W, TensorProto.FLOAT16)),
            "mixed types: float and float16",
        ),
        (
            lambda: plain(
                graph(
                    [
                        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
                    ],
                    SCALE | {"z": np.array(128, np.uint8)},
                )
            ),
            "an unsigned zero point",
        ),
        (
            lambda: plain(
                graph(
                    [
                        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
                    ],
                    SCALE | {"z": np.array(3, np.int8)},
                )
            ),
            "a zero point other than 0",
        ),
        (
            lambda: plain(
                graph(
                    [
                        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
                        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
                        helper.make_node(
                            "If",
                            ["c"],
                            ["y"],
                            then_branch=branch("Identity"),
                            else_branch=branch("Neg"),
                        ),
                    ],
                    {},
                )
            ),
            "a branch",
        ),
        (
            lambda: plain(
                graph(
                    [helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("MatMul", ["x", "f"], ["y"])],
                    {"w": np.ones((4, 4), np.int8)},
                )
            ),
            "Cast f: a constant of int8 that nothing dequantizes",
        ),
        (
            lambda: plain(graph([helper.make_node("Dropout", ["x"], ["y"])], {})),
            "an operator of training",
        ),
    ],
    ids=["domain", "foreign", "shape", "mixed", "unsigned", "zero point", "if", "stored", "dropout"],
)  # fmt: skip
def test_lint(made: Callable[[], Any], problem: str) -> None:
    assert problem in "\n".join(lint(made()))


def test_symmetric_quantization_is_taken() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    assert lint(plain(graph(nodes, SCALE | W | {"z": np.array(0, np.int8)}))) == []


def test_a_weight_beyond_half_stays_float() -> None:
    model = plain(
        graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], {"w": np.full((4, 4), 1e6, np.float32)})
    )
    assert not [node for node in to_fp16(model).graph.node if node.op_type == "Cast"]


# ---- forms that ONNX Runtime's CUDA provider has had for long


def small(node: Any, shape: list[int], kind: int, weights: dict[str, np.ndarray], rank: int | None = None) -> Any:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(
        [node] if not isinstance(node, list) else node,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", kind, [None] * (len(shape) if rank is None else rank))],
        tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def runs(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda array: np.asarray(session.run(None, {"x": array})[0])


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("shape", [[1, 1, 32, 32], [1, 4, 37, 37], [2, 3, 1, 1], [1, 2, 13, 7]])
@pytest.mark.parametrize("keep", [0, 1])
def test_extrema(operator: str, shape: list[int], keep: int) -> None:
    node = helper.make_node(operator, ["x", "a"], ["y"], keepdims=keep)
    model = small(node, shape, TensorProto.FLOAT, {"a": np.array([-1, 2], np.int64)}, 4 if keep else 2)
    older = for_cuda(model)
    assert [line.split(":")[0] for line in without_cuda_kernel(model)] == [f"{operator} y"]
    assert without_cuda_kernel(older) == []
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    run, run_older = runs(model), runs(older)
    for place in range(0, array[0, 0].size, 5):  # wherever the extremum is, it is found
        array.reshape(-1)[place] = (9.0 if operator == "ReduceMax" else -9.0) + place
        want, got = run(array), run_older(array)
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_the_largest_of_several(chosen: int) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=1),
        helper.make_node("Equal", ["i", "k"], ["y"]),
    ]
    model = small(nodes, [1, 3, 8, 8], TensorProto.BOOL, {"k": np.array(chosen, np.int64)})
    older = for_cuda(model)
    assert len(without_cuda_kernel(model)) == 2
    assert without_cuda_kernel(older) == []
    array = np.random.default_rng(0).integers(0, 3, (1, 3, 8, 8)).astype(np.float32)  # many equals
    want = runs(model)(array)
    assert 0 < want.sum() < want.size
    np.testing.assert_array_equal(runs(older)(array), want)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [0, 3, 0, 0], [1, 0, 2, 5]])
@pytest.mark.parametrize("value", [None, -2.5])
def test_padding(pads: list[int], value: float | None) -> None:
    names = ["x", "p", *(["v"] if value is not None else [])]
    weights = {"p": np.array(pads, np.int64)} | ({"v": np.array(value, np.float32)} if value is not None else {})
    model = small(helper.make_node("Pad", names, ["y"]), [3, 4], TensorProto.FLOAT, weights)
    older = for_cuda(model)
    assert len(without_cuda_kernel(model)) == 1
    assert without_cuda_kernel(older) == []
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(runs(older)(array), runs(model)(array))


def test_rows() -> None:
    places = np.array([[[2], [0]], [[1], [2]]], np.int64)
    model = small(helper.make_node("GatherND", ["x", "p"], ["y"]), [3, 4], TensorProto.FLOAT, {"p": places}, 3)
    older = for_cuda(model)
    assert len(without_cuda_kernel(model)) == 1
    assert [node.op_type for node in older.graph.node] == ["Gather"]
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(runs(older)(array), runs(model)(array))


def test_what_has_no_older_form_is_told() -> None:
    for node, weights in (
        (helper.make_node("ReduceMax", ["x", "a"], ["y"]), {"a": np.array([0], np.int64)}),
        (helper.make_node("Pad", ["x", "p"], ["y"], mode="wrap"), {"p": np.array([0, 1, 0, 1], np.int64)}),
        (helper.make_node("Resize", ["x", "", "s"], ["y"]), {"s": np.array([1, 2], np.float32)}),
        (helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft"), W),
    ):
        model = small(node, [3, 4], TensorProto.FLOAT, weights)
        if node.domain:
            model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
            assert "an operator of com.microsoft" in without_cuda_kernel(model)[0]
            continue
        assert "no CUDA kernel for version" in without_cuda_kernel(for_cuda(model))[0]


def test_a_graph_with_parts_for_the_cpu_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edge_export.gpu_graph as gpu_graph
    from edge_export.errors import ExportError

    model = plain(graph([helper.make_node("Cos", ["x"], ["y"], name="m")], {}))
    monkeypatch.setitem(gpu_graph.without_cuda_kernel.__globals__["KERNELS"], "Cos", ())
    with pytest.raises(ExportError, match="to the CPU: Cos m: no CUDA kernel for version 7"):
        gpu_graph.write_gpu_graph(model, tmp_path / "half.onnx", [], tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_who_exports_may_set_the_limit_of_the_comparison(tmp_path: Path) -> None:
    from edge_export.errors import ExportError
    from edge_export.gpu_graph import write_gpu_graph

    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 4), np.float32)}
    model = plain(graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], weights))
    feeds = [{"x": rng.standard_normal((1, 4), np.float32)}]
    half = tmp_path / "half.onnx"
    assert "on 1 pictures" in write_gpu_graph(model, half, feeds, tmp_path, 1)
    with pytest.raises(ExportError, match="differs from float32"):
        write_gpu_graph(model, half, feeds, tmp_path, 1, largest_error=1e-30)


# ---- TensorRT for RTX, which parses and compiles without a GPU


@pytest.fixture(scope="session")
def rtx() -> Callable[[Path], tuple[int, str]]:
    """Compiles a graph ahead of time in a process of its own; the exit code and what it said."""
    import os
    import subprocess
    import sys
    from importlib.util import find_spec

    place = os.environ.get("EDGE_TEST_TENSORRT_RTX")
    if not place and find_spec("tensorrt_rtx") is None:
        pytest.skip("no TensorRT for RTX here (pip install tensorrt-rtx, or EDGE_TEST_TENSORRT_RTX for its folder)")
    program = Path(__file__).parents[1] / "helpers" / "rtx_build.py"

    def run(graph: Path) -> tuple[int, str]:
        call = [sys.executable, "-P", str(program), str(graph), *([place] if place else [])]
        done = subprocess.run(call, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("options", KINDS, ids=lambda o: o["kind"])
def test_tensorrt_takes_it(
    rtx: Callable[[Path], tuple[int, str]], exported: Exported, tmp_path: Path, options: dict[str, Any]
) -> None:
    _, folder = exported(**options)
    half = tmp_path / "half.onnx"
    onnx.save(to_fp16(onnx.load(folder / "vision.onnx")), half)
    for graph in (folder / "vision.onnx", half):
        code, said = rtx(graph)
        assert (code, "compiled: " in said) == (0, True), said


def test_tensorrt_takes_explicit_int8(rtx: Callable[[Path], tuple[int, str]], exported: Exported) -> None:
    _, folder = exported(gpu_graph=True, tensorrt_int8=True)
    code, said = rtx(folder / "vision.tensorrt.onnx")
    assert (code, "compiled: " in said) == (0, True), said


def test_tensorrt_takes_the_demo_model(rtx: Callable[[Path], tuple[int, str]]) -> None:
    code, said = rtx(DEMO)
    assert (code, "compiled: " in said) == (0, True), said


def test_tensorrt_refuses_int8(rtx: Callable[[Path], tuple[int, str]], exported: Exported) -> None:
    """As the lint says."""
    _, folder = exported(quantize="int8", gpu_graph=True)
    code, said = rtx(folder / "vision.onnx")
    assert (code, "TensorRT does not take vision.onnx" in said) == (1, True), said
    assert rtx(folder / "vision.fp16.onnx")[0] == 0


def test_tensorrt_refuses_a_constant_of_int8_that_is_cast(
    rtx: Callable[[Path], tuple[int, str]], tmp_path: Path
) -> None:
    """Where another operator reads it too, it is not widened; as the lint says."""
    held = np.arange(16, dtype=np.int8).reshape(4, 4)
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("MatMul", ["x", "f"], ["y"])]
    path = tmp_path / "vision.onnx"
    onnx.save(plain(graph(nodes, {"w": held})), path)
    assert rtx(path)[0] == 0
    nodes += [helper.make_node("Neg", ["w"], ["n"]), helper.make_node("Cast", ["n"], ["z"], to=1)]
    nodes += [helper.make_node("Add", ["y", "z"], ["v"])]
    made = plain(graph(nodes, {"w": held}))
    made.graph.output[0].name = "v"
    onnx.save(made, path)
    assert "that nothing dequantizes" in "\n".join(lint(made))
    code, said = rtx(path)
    assert code == 1, said
