# SPDX-License-Identifier: Apache-2.0
"""TensorRT without TensorRT: the cache of plans, the names that are used, and the engine over a fake of it."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from stand_in import ROOT, StandIn

import edge
import edge.cuda
from edge.cuda import CudaDevice
from edge.errors import BundleError, DeviceError, MissingRuntime
from edge.vision.plans import PlanCache
from edge.vision.tensorrt import plan_key

onnx = pytest.importorskip("onnx", reason="no onnx here")

DEVICE = CudaDevice("NVIDIA X", (9, 0), 1 << 30, 1 << 30, "00" * 16, 132)
KEY = plan_key("ab" * 32, DEVICE, "11.4.0")


# ---- plans


def test_a_plan_is_kept_for_what_it_was_built_for(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans")
    assert cache.get(KEY) is None
    assert cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"
    assert PlanCache(tmp_path / "plans").get(KEY) == b"code"
    others = [
        plan_key("cd" * 32, DEVICE, "11.4.0"),
        plan_key("ab" * 32, DEVICE, "11.4.1"),
        plan_key("ab" * 32, CudaDevice("NVIDIA Y", (9, 0), 1, 1, "00" * 16, 132), "11.4.0"),
        plan_key("ab" * 32, CudaDevice("NVIDIA X", (8, 9), 1, 1, "00" * 16, 132), "11.4.0"),
        plan_key("ab" * 32, CudaDevice("NVIDIA X", (9, 0), 1, 1, "01" * 16, 132), "11.4.0"),
        KEY | {"options": "others"},
    ]
    for other in others:
        assert cache.get(other) is None
        # Not even under its name: a plan carries what it was built for.
        shutil.copy(cache.path(KEY), cache.path(other))
        assert cache.get(other) is None
    assert len({cache.path(key) for key in (KEY, *others)}) == 7


def test_plans_of_others_are_not_read(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans")
    cache.put(KEY, b"code")
    path = cache.path(KEY)
    assert path.stat().st_mode & 0o077 == 0
    good = path.read_bytes()
    for bad in (b"", good[:-1], good[:40], good[:-1] + b"x", b"x" + good[1:], good.replace(b"NVIDIA X", b"NVIDIA Z")):
        path.write_bytes(bad)
        assert cache.get(KEY) is None
    path.write_bytes(good)
    path.chmod(0o666)
    assert cache.get(KEY) is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get(KEY) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get(KEY) is None
    path.unlink()
    if os.geteuid() == 0:
        path.write_bytes(good)
        os.chown(path, 12345, 12345)
        assert cache.get(KEY) is None


def test_folders_of_others_are_not_used(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(DeviceError, match="not this user's alone"):
        PlanCache(open_to_all)
    (tmp_path / "link").symlink_to(tmp_path / "plans")
    (tmp_path / "plans").mkdir()
    with pytest.raises(DeviceError, match="not this user's alone"):
        PlanCache(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be made"):
        PlanCache(tmp_path / "file" / "plans")


def test_a_plan_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PlanCache(tmp_path / "plans")
    cache.put(KEY, b"old code")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert not cache.put(KEY, b"new code")
        assert cache.get(KEY) == b"old code"
        assert [path.name for path in cache.folder.iterdir()] == [cache.path(KEY).name]


# ---- the engine


@pytest.fixture
def on_stand_in(host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """A stand-in for the device, and a fake of TensorRT on it."""
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    monkeypatch.setattr(fake_tensorrt, "library", ctypes.CDLL(str(host_library)))
    fake_tensorrt.calls.clear()
    return stand_in


def test_reports(bundle: Path, film: np.ndarray, on_stand_in: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    """A plan is built once; pixels go to it and keys from it to the decoder on the device, without the host."""
    caplog.set_level(logging.INFO, "edge")
    import gc

    want = edge.load(bundle, device="cpu", threads=1)
    gc.collect()
    before = on_stand_in.get("allocations")
    engine = edge.load(bundle, device="tensorrt", threads=1)
    messages = [record.getMessage() for record in caplog.records]
    assert any("building the TensorRT plan of vision.onnx for host stand-in" in line for line in messages)
    assert "TensorRT plan: 100 %" in messages
    assert (engine.device, engine.isa) == ("tensorrt", "cuda")
    asked: list[Any] = []
    real = type(engine._decoder._kernel).set_prefix_on_device
    engine._decoder._kernel.__class__.set_prefix_on_device = lambda self, *a: (asked.append(a), real(self, *a))[1]
    try:
        first = engine.open(film)
        reports = [first.report(max_new_tokens=8), engine.report(film[::-1].copy(), max_new_tokens=8)]
        # Another film has been through the engine's buffers since: this one was moved to the host before.
        reports.append(first.report(max_new_tokens=8))
    finally:
        engine._decoder._kernel.__class__.set_prefix_on_device = real
    assert len(asked) == 2
    assert reports[0].token_ids == reports[2].token_ids == want.report(film, max_new_tokens=8).token_ids
    assert reports[1].token_ids == want.report(film[::-1].copy(), max_new_tokens=8).token_ids
    assert reports[0].software["vision"] == "tensorrt"
    # The first film as it is, and recorded; the second one by a replay.
    assert (fake_tensorrt.calls["started"], fake_tensorrt.calls["runs"]) == (2, 2)
    assert "operator by operator" not in caplog.text
    again = edge.load(bundle, device="tensorrt", threads=1)
    assert fake_tensorrt.calls["builds"] == 1
    del engine, again, first, reports
    gc.collect()
    assert on_stand_in.get("allocations") == before


@pytest.mark.parametrize("off", [True, False])
def test_what_cannot_be_recorded(
    bundle: Path, film: np.ndarray, on_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, off: bool,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "edge")
    if off:
        monkeypatch.setenv("EDGE_CUDA_CAPTURE", "off")
    else:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(records=False))
    engine = edge.load(bundle, device="tensorrt", threads=1)
    want = edge.load(bundle, device="cpu", threads=1)
    for picture in (film, film[::-1].copy(), film):
        assert engine.report(picture, max_new_tokens=4).token_ids == want.report(picture, max_new_tokens=4).token_ids
    assert fake_tensorrt.calls["runs"] == 3
    why = "EDGE_CUDA_CAPTURE is off" if off else "what was to be recorded could not be started"
    told = [record.getMessage() for record in caplog.records if "operator by operator" in record.getMessage()]
    assert len(told) == 1
    assert why in told[0]


@pytest.mark.parametrize("change", ["version", "uuid"])
def test_another_machine_builds_again(
    bundle: Path,
    on_stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    edge.load(bundle, device="tensorrt", threads=1)
    if change == "version":
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module("10.16.1"))
    else:
        on_stand_in.set(change, 86)
    edge.load(bundle, device="tensorrt", threads=1)
    assert fake_tensorrt.calls["builds"] == 2


def test_a_plan_that_does_not_load_is_built_again(
    bundle: Path,
    on_stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key holds, but TensorRT says no: another driver, say."""
    edge.load(bundle, device="tensorrt", threads=1)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(gpu="two"))
    edge.load(bundle, device="tensorrt", threads=1)
    edge.load(bundle, device="tensorrt", threads=1)
    assert fake_tensorrt.calls["builds"] == 2


def test_a_plan_in_a_bundle_is_not_looked_at(bundle: Path, on_stand_in: StandIn, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    edge.load(copy, device="tensorrt", threads=1)
    plan = next((tmp_path / "cache").rglob("*.plan"))
    shutil.move(plan, copy / plan.name)
    edge.load(copy, device="tensorrt", threads=1)
    assert fake_tensorrt.calls["builds"] == 2


def test_refusals(
    bundle: Path,
    on_stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with pytest.raises(DeviceError, match="needs no ONNX Runtime"):
        edge.load(bundle, device="tensorrt", vision="ort")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module("10.11.0"))
    with pytest.raises(MissingRuntime, match=r"10\.11 is too old, 10\.12 is needed"):
        edge.load(bundle, device="tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingRuntime, match="TensorRT is not installed: pip install"):
        edge.load(bundle, device="tensorrt")
    # Without a driver TensorRT is not even imported.
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module())
    fake_tensorrt.calls.clear()
    on_stand_in.set("devices", 0)
    with pytest.raises(DeviceError, match="no CUDA device can be used here"):
        edge.load(bundle, device="tensorrt")
    assert not fake_tensorrt.calls


def test_a_graph_that_tensorrt_does_not_take(bundle: Path, on_stand_in: StandIn, tmp_path: Path) -> None:
    from handmade import seal

    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    good = (copy / "vision.onnx").read_bytes()
    model = onnx.load_from_string(good)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, copy / "vision.onnx")
    manifest = json.loads((copy / "manifest.json").read_text())
    seal(copy, manifest)
    with pytest.raises(BundleError, match=r"does not take vision.onnx \(no such operator\); .*--gpu-graph"):
        edge.load(copy, device="tensorrt")
    # The float16 graph is taken where there is one, and only by GPUs.
    (copy / "vision.fp16.onnx").write_bytes(good)
    manifest["graphs"]["vision_fp16"] = "vision.fp16.onnx"
    seal(copy, manifest)
    assert edge.load(copy, device="tensorrt", threads=1).device == "tensorrt"
    # And before it that with products in int8, which is for TensorRT alone.
    (copy / "vision.fp16.onnx").write_bytes(model.SerializeToString())
    (copy / "vision.tensorrt.onnx").write_bytes(good)
    manifest["graphs"]["vision_tensorrt"] = "vision.tensorrt.onnx"
    seal(copy, manifest)
    assert edge.load(copy, device="tensorrt", threads=1).device == "tensorrt"
    # Two keys may not name one file.
    manifest["graphs"]["vision_fp16"] = "vision.onnx"
    seal(copy, manifest)
    with pytest.raises(BundleError, match="must be different files"):
        edge.load(copy, device="cpu")


# ---- the real thing, as far as it can be had without a GPU


OBJECTS = {"trt", "_trt", "builder", "network", "parser", "config", "runtime", "engine", "context", "_context"}
"""Our names of what is TensorRT's."""
ENDS = {"Builder", "DataType", "INPUT", "Runtime", "desc", "num_errors"}
"""Names that the linker keeps as the end of a longer one (``get_error_desc``): no byte of 0 stands before them."""


def used_names() -> set[str]:
    """Attributes of TensorRT's objects, and of what their methods give back, in our source."""
    source = (ROOT / "edge" / "vision" / "tensorrt.py").read_text()
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            chain: list[str] = []
            base: ast.expr = node
            while isinstance(base, (ast.Attribute, ast.Call, ast.Subscript)):
                if isinstance(base, ast.Attribute):
                    chain.append(base.attr)
                base = base.func if isinstance(base, ast.Call) else base.value
            if isinstance(base, ast.Name):
                chain.append(base.id)
            start = next((at for at, name in enumerate(chain) if name in OBJECTS), 0)
            names |= set(chain[:start]) - {"__version__", "__init__"}
    return names | {"log", "phase_start", "step_complete", "phase_finish"}  # methods of ours that it calls


def bindings() -> list[Path]:
    """Folders with TensorRT's Python bindings, none of which is imported: without a driver that ends the process."""
    places = [Path(place) for place in os.environ.get("EDGE_TEST_TENSORRT_BINDINGS", "").split(os.pathsep) if place]
    places = [place for place in places if list(place.glob("tensorrt*.so"))]  # what .ci/run could fetch
    for name in ("tensorrt_bindings", "tensorrt"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and list(Path(spec.origin).parent.glob("tensorrt*.so")):
            places.append(Path(spec.origin).parent)
    return places


def test_the_names_are_those_of_the_bindings() -> None:
    """Each name that we use is a string of the compiled bindings, from its first letter to its last."""
    names = used_names()
    assert {"STRONGLY_TYPED", "execute_async_v3", "build_serialized_network", "TF32", "OnnxParser"} <= names
    assert {"ILogger", "IProgressMonitor", "desc", "num_io_tensors", "progress_monitor", "Runtime"} <= names
    assert names >= ENDS
    # The fake has them all, and so tests them.
    have = fake_tensorrt.module()
    assert {
        name for name in names if name[0].isupper() and name not in ("STRONGLY_TYPED", "TF32", "FLOAT", "INPUT")
    } <= set(dir(have))
    places = bindings()
    if not places:
        pytest.skip("no TensorRT bindings here (EDGE_TEST_TENSORRT_BINDINGS names their folders)")
    for place in places:
        library = next(place.glob("tensorrt*.so")).read_bytes()
        assert missing_names(names, library) == [], place
        # Not any stretch of letters will do.
        parts = ["Parser", "TF3", "create_networ", "execute_async_v"]
        assert missing_names(set(parts), library) == parts


def missing_names(names: set[str], library: bytes) -> list[str]:
    def there(name: str) -> bool:
        return (b"" if name in ENDS else b"\0") + name.encode() + b"\0" in library

    return sorted(name for name in names if not there(name))
