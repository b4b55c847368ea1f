# SPDX-License-Identifier: Apache-2.0
"""The float16 vision graph on a real GPU against the float32 one on the CPU: numbers, texts, and that it is recorded.

The same comparison runs everywhere with the float16 graph on the CPU, which is all that can be said without a GPU.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_in import ROOT, device_here

import edge
import edge.cuda
from edge.bundle import DEMO, Bundle
from edge.place import LARGEST_ERROR, LEAST_DICE, differences
from edge.vision import VisionSession

onnx = pytest.importorskip("onnx", reason="no onnx here")
pytest.importorskip("onnxruntime", reason="no ONNX Runtime here")
pytest.importorskip("pydicom", reason="no pydicom here")

from edge_export.graph_cuda import for_cuda  # noqa: E402
from edge_export.graph_fp16 import to_fp16  # noqa: E402
from edge_export.onnx_graph import without_check_outputs  # noqa: E402
from handmade import chest_picture, seal  # noqa: E402

sys.path.append(str(ROOT / "tests" / "helpers"))  # tiny models

EXACT = 1e-9
"""Squared error over squared values of a float32 graph: other orders of sums are far below it, TF32 is above it."""
CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="session", params=["demo", "random"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a float32 graph and its float16 one: the demo's, and a small one of random weights."""
    folder = tmp_path_factory.mktemp("halves") / request.param
    if request.param == "random":
        if not device_here():
            pytest.skip("no CUDA device here, and what the CPU makes of such graphs is tested with the exporter")
        pytest.importorskip("torch", reason="the exporter makes this bundle, and PyTorch is not installed")
        from tiny import tiny_bundle

        return Path(tiny_bundle(folder, kind="layerwise", skip_tokens=1, strength=2.0, gpu_graph=True))
    shutil.copytree(DEMO, folder)
    half = for_cuda(without_check_outputs(to_fp16(onnx.load(folder / "vision.onnx"))))
    onnx.save(half, folder / "vision.fp16.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"] = {"vision": "vision.onnx", "vision_fp16": "vision.fp16.onnx"}
    seal(folder, manifest)
    return folder


def needs_cuda() -> None:
    from edge.vision.ort import import_runtime

    if CUDA not in import_runtime().get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")


@pytest.fixture(params=["cpu", *(pytest.param(name, marks=pytest.mark.gpu) for name in ("cuda", "tensorrt"))])
def half(
    request: pytest.FixtureRequest, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    """A bundle whose float16 graph a device will run, and the device."""
    device = request.param
    if device == "cpu":
        folder = Path(shutil.copytree(both, tmp_path / "half"))
        (folder / "vision.fp16.onnx").replace(folder / "vision.onnx")
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["graphs"] = {"vision": "vision.onnx"}
        seal(folder, manifest)
        return folder, device
    library = request.getfixturevalue("device_library")  # skips where there is no device
    monkeypatch.setattr(edge.cuda, "library_path", lambda: library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(both.parent / "plans"))  # built once for all tests
    if device == "cuda":
        needs_cuda()
    else:
        pytest.importorskip("tensorrt")  # behind the driver: without one the import would end the process
    return both, device


def films(count: int = 3) -> list[np.ndarray]:
    picture = chest_picture(256)
    return [picture, picture[:, ::-1].copy(), np.roll(picture, 20, axis=0)][:count]


def pixels_of(bundle: Bundle) -> list[np.ndarray]:
    from edge.prepare import prepare

    return [prepare(film, bundle.manifest.image, force=True).pixels for film in films()]


def test_numbers(both: Path, half: tuple[Path, str]) -> None:
    folder, device = half
    opened = Bundle.open(both)
    exact = VisionSession(opened, device="cpu", runtime="ort")
    rounded = VisionSession(Bundle.open(folder), device=device, runtime="auto" if device == "tensorrt" else "ort")
    assert rounded.device == device
    for pixels in pixels_of(opened):
        found = differences(rounded.run(pixels, bias=True), exact.run(pixels, bias=True))
        assert found.keys() >= {"keys", "values", "key_bias", "first_logits", "mask"}
        assert found.pop("mask") <= 1 - LEAST_DICE
        assert max(found.values()) <= LARGEST_ERROR["fp16"], found
        assert found["keys"] > 0  # something was rounded


def test_texts(both: Path, half: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    """Ids of whole texts; on a device the graph was recorded with the first film and replayed for the others."""
    caplog.set_level(logging.INFO, "edge")
    folder, device = half
    want = edge.load(both, device="cpu", threads=2, vision="ort")
    caplog.clear()
    engine = edge.load(folder, device=device, threads=2, vision=None if device == "tensorrt" else "ort")
    assert engine.device == device
    for film in films():
        got = engine.report(film, force=True, max_new_tokens=24)
        assert got.token_ids == want.report(film, force=True, max_new_tokens=24).token_ids
    if device != "cpu":
        assert engine.isa == "cuda"
        assert engine._vision.stays
        assert "operator by operator" not in caplog.text
        backend: Any = engine._vision._backend
        assert (backend._captured if device == "cuda" else backend._graph) is not None
        assert device != "cuda" or "is recorded with the first film" in caplog.text


def providers(graph: Path, asked: list[Any], work: Path) -> set[str]:
    """Who runs the graph's nodes, from ONNX Runtime's own profile of a run."""
    from edge.vision.ort import import_runtime

    ort = import_runtime()
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(work / "profile")
    session = ort.InferenceSession(str(graph), options, providers=asked)
    session.run(None, {node.name: np.zeros(node.shape, np.float32) for node in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["provider"] for event in events if event.get("args", {}).get("provider")}


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_node_is_on_one_provider(both: Path, tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    graph = both / "vision.fp16.onnx"
    if name == "cpu":
        assert providers(graph, ["CPUExecutionProvider"], tmp_path) == {"CPUExecutionProvider"}
        return
    request.getfixturevalue("device_library")
    needs_cuda()
    assert providers(graph, [(CUDA, {"use_tf32": "0"}), "CPUExecutionProvider"], tmp_path) == {CUDA}


@pytest.mark.gpu
def test_float32_is_float32(both: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Without TF32, which would be seen here."""
    from edge.vision.ort import OrtBackend

    request.getfixturevalue("device_library")
    needs_cuda()
    path = tmp_path / "float32.onnx"
    onnx.save(for_cuda(without_check_outputs(onnx.load(both / "vision.onnx"))), path)
    there = OrtBackend(path, device="cuda", threads=1, whole=True)
    here = OrtBackend(path, device="cpu", threads=1)
    names = ["prefix_keys", "prefix_values", "first_logits"]
    for pixels in pixels_of(Bundle.open(both)):
        feed = {"pixels": pixels, "bias_switch": np.ones(1, np.float32)}
        for got, want in zip(there.run(feed, names), here.run(feed, names), strict=True):
            assert float(((got - want) ** 2).sum() / (want**2).sum()) <= EXACT
