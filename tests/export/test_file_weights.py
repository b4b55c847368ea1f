# SPDX-License-Identifier: Apache-2.0
"""Large graphs in OpenVINO: weights lie in the graph's file and not in memory, and what was compiled is kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.errors import BundleError
from edge.vision import ov
from edge.vision.stored import raw_data

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
CONFIG = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x[4, 512] through an int8 weight with its scale, and a float32 one; what is small stays where it is."""
    rng = np.random.default_rng(0)
    held = {
        "small": rng.standard_normal(512).astype(np.float32),
        "w": rng.integers(-127, 128, (512, 768), np.int8),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
        "v": rng.standard_normal((768, 300)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Add", ["x", "small"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wide"]),
        helper.make_node("MatMul", ["a", "wide"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [4, 512]), ("y", [4, 300]))]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    model = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    path = tmp_path_factory.mktemp("graph") / "weights of a graph.onnx"
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def resident_kb(path: Path) -> int:
    """Of all mappings of a file."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line[0].isupper():  # a mapping; what is said of it begins with capitals
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_same_numbers_without_the_weights_in_memory(graph: Path) -> None:
    x = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    plain = openvino.Core().compile_model(str(graph), "CPU", CONFIG)
    backend = ov.OpenVinoBackend(graph, threads=1)
    for _ in range(2):
        (got,) = backend.run({"x": x}, ["y"])
        np.testing.assert_array_equal(got, plain(x)[0])
        assert resident_kb(graph) == 0


def test_the_file_is_what_the_model_holds(graph: Path) -> None:
    from edge.vision.ov_weights import FileWeights

    model = openvino.Core().read_model(str(graph))
    weights = FileWeights(graph)
    begin, end = raw_data(graph.read_bytes())["v"]
    assert end - begin == 768 * 300 * 4
    # A float32 weight can be used in its place only where that is a multiple of four.
    assert weights.give_to(openvino, model) == 512 * 768 + (0 if begin % 4 else end - begin)
    held = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    assert resident_kb(graph) >= 512 * 768 // 1024
    weights.let_go()
    assert resident_kb(graph) == 0
    assert held["w"].data.sum() == numpy_helper.to_array(onnx.load(graph).graph.initializer[1]).sum()
    assert resident_kb(graph) >= 512 * 768 // 1024  # it was read from the file


def test_weights_that_were_read_otherwise_stay(graph: Path, tmp_path: Path) -> None:
    """The bytes decide, not the name."""
    from edge.vision.ov_weights import FileWeights

    data = bytearray(graph.read_bytes())
    begin, _ = raw_data(bytes(data))["w"]
    data[begin] ^= 1
    other = tmp_path / "other.onnx"
    other.write_bytes(data)
    model = openvino.Core().read_model(str(graph))
    given = FileWeights(other).give_to(openvino, model)
    assert given == (0 if raw_data(bytes(data))["v"][0] % 4 else 768 * 300 * 4)


# ---- compiled graphs that are kept


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ov, "LARGE", 1)
    return tmp_path / "edge-report" / "openvino"


def outputs(graph: Path, sha256: str = "ab" * 32, threads: int = 1) -> np.ndarray:
    x = np.random.default_rng(2).standard_normal((4, 512)).astype(np.float32)
    backend = ov.OpenVinoBackend(graph, threads=threads, graph=sha256)
    backend.run({"x": x}, ["y"])
    return backend.run({"x": x}, ["y"])[0]


def never(*_: object) -> None:
    raise AssertionError("compiled again")


def test_a_compiled_graph_is_kept(graph: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = outputs(graph)
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    compile_ = ov._compile
    monkeypatch.setattr(ov, "_compile", never)
    np.testing.assert_array_equal(outputs(graph), fresh)
    np.testing.assert_array_equal(outputs(graph, threads=2), fresh)
    assert resident_kb(kept) == 0
    # Not for another graph, nor when it is damaged, nor when others may write to it.
    data = kept.read_bytes()
    for sha256, spoil in (
        ("cd" * 32, lambda: None),
        ("ab" * 32, lambda: kept.write_bytes(data[:-1])),
        ("ab" * 32, lambda: kept.chmod(0o666)),
    ):
        spoil()
        with pytest.raises(BundleError):
            outputs(graph, sha256)
    monkeypatch.setattr(ov, "_compile", compile_)
    np.testing.assert_array_equal(outputs(graph), fresh)
    assert kept.stat().st_mode & 0o077 == 0  # kept anew
    for name in (".old.partial", ".new.partial"):
        (cache / name).touch()
    os.utime(cache / ".old.partial", (1000, 1000))  # left where the power went
    for i in range(3):
        outputs(graph, f"{i:02}" * 32)
    assert len(list(cache.glob("*.plan"))) == 3
    assert [path.name for path in cache.glob(".*")] == [".new.partial"]


def test_what_is_no_compiled_graph(graph: Path, cache: Path) -> None:
    """Kept by us and whole, but of no use to this OpenVINO."""
    fresh = outputs(graph)
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    begin = good.index(b"}\n") + 1
    start = -(-(begin + 32) // 4096) * 4096
    wrong = b"x" * 5000
    kept.write_bytes(good[: start - 32] + hashlib.sha256(wrong).digest() + wrong)
    np.testing.assert_array_equal(outputs(graph), fresh)
    assert kept.read_bytes()[start:] != wrong


def test_nothing_is_kept_where_it_cannot_be(graph: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = outputs(graph)
    (kept,) = cache.iterdir()
    cache.chmod(0o777)
    kept.write_bytes(b"")
    np.testing.assert_array_equal(outputs(graph), fresh)
    assert kept.read_bytes() == b""
    monkeypatch.setenv("XDG_CACHE_HOME", str(graph))  # a file
    np.testing.assert_array_equal(outputs(graph), fresh)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "other"))
    monkeypatch.setenv("EDGE_VISION_CACHE", "off")
    np.testing.assert_array_equal(outputs(graph), fresh)
    assert not (cache / "other").exists()
