# SPDX-License-Identifier: Apache-2.0
"""``--device auto``: what goes to a GPU, and what is said about the rest. Over the stand-in and a fake provider."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import fake_ort
import numpy as np
import pytest
from stand_in import StandIn

import edge
import edge.cuda
import edge.place
from edge.vision.backend import DeviceArray


@pytest.fixture
def gpu(
    request: pytest.FixtureRequest, host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> StandIn:
    """A GPU, this build's library for it, and an ONNX Runtime that has CUDA; the parameter says what that refuses."""
    import onnxruntime

    for name, value in fake_ort.module(refuses=getattr(request, "param", ""), calls=Counter()).items():
        monkeypatch.setattr(onnxruntime, name, value)
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    stand_in.set("any_pointer", 1)
    return stand_in


@pytest.mark.usefixtures("gpu")
def test_everything_goes_there(bundle: Path, film: np.ndarray) -> None:
    want = edge.load(bundle, device="cpu", threads=1)
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa, engine.fallback) == ("cuda", "cuda", ())
    assert (want.device, want.fallback) == ("cpu", ())
    session = engine.open(film)
    assert isinstance(session._seen.keys, DeviceArray)
    assert session.report(max_new_tokens=6).token_ids == want.report(film, max_new_tokens=6).token_ids


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("gpu", ["whole"], indirect=True)
def test_a_graph_with_parts_for_the_cpu_stays(bundle: Path, film: np.ndarray) -> None:
    """What ``--device cuda`` takes with a warning, ``auto`` does not take."""
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa) == ("cpu", "cuda")
    (told,) = engine.fallback
    assert told == (
        "the vision graph on the CPU: ONNX Runtime does not do all of vision.onnx on the GPU: "
        "RuntimeError: a node is on the CPU"
    )
    assert engine.report(film, max_new_tokens=6).token_ids
    assert edge.load(bundle, device="cuda", threads=1).device == "cuda"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["keys", "values", "first_logits", "key_bias", "mask"])
def test_a_graph_that_computes_something_else_stays(bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = edge.place.VisionSession.run

    def wrong(self: Any, pixels: np.ndarray, *, bias: bool) -> Any:
        seen = real(self, pixels, bias=bias)
        if self.device != "cuda":
            return seen
        array = getattr(seen, name).copy()
        array.reshape(-1)[: array.size // 2] = np.roll(array.reshape(-1)[: array.size // 2], 1)
        return dataclasses.replace(seen, **{name: 1 - array if name == "mask" else array})

    monkeypatch.setattr(edge.place.VisionSession, "run", wrong)
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa) == ("cpu", "cuda")
    assert f"it does not compute what the CPU computes ({name}: error" in engine.fallback[0]


def test_without_a_library_nothing_goes_there(
    bundle: Path, gpu: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(edge.cuda, "library_path", lambda: tmp_path / edge.cuda.LIBRARY)
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa == "cuda") == ("cpu", False)
    (told,) = engine.fallback
    assert told.startswith("decoding on the CPU: this build has no CUDA decoding library")


@pytest.mark.usefixtures("gpu")
def test_a_model_that_the_kernels_do_not_take(bundle: Path, film: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU has the graph then."""

    def refuse(*_: object, **__: object) -> None:
        raise edge.cuda.ModelNotForDevice("the CUDA kernels have no such norm")

    want = edge.load(bundle, device="cpu", threads=1).report(film, max_new_tokens=6)
    monkeypatch.setattr(edge.cuda.CudaDecoder, "__init__", refuse)
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa == "cuda") == ("cuda", False)
    assert engine.fallback == ("decoding on the CPU: the CUDA kernels have no such norm",)
    assert engine.report(film, max_new_tokens=6).token_ids == want.token_ids


def test_an_onnx_runtime_without_cuda(
    bundle: Path, host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    engine = edge.load(bundle, threads=1)
    assert (engine.device, engine.isa) == ("cpu", "cuda")
    (told,) = engine.fallback
    assert told.startswith("the vision graph on the CPU: this ONNX Runtime has no CUDA")


def test_hidden_keys_are_compared_as_such() -> None:
    from edge.vision import VisionOutput

    lowest = np.finfo(np.float32).min
    bias = np.zeros((2, 500), np.float32)
    bias[:, 100:] = 1.0
    bias[:, 300:] = lowest
    want = VisionOutput(None, None, None, bias, np.ones((4, 4), np.float32))
    assert edge.place.differences(want, want) == {"key_bias": 0.0, "mask": 0.0}
    for shift, error in ((3, 0.0), (20, np.inf)):
        other = bias.copy()
        other[:, 300 : 300 + shift] = 1.0
        got = dataclasses.replace(want, key_bias=other)
        assert edge.place.differences(got, want)["key_bias"] == error
