# SPDX-License-Identifier: Apache-2.0
"""The vision graph on a GPU, recorded as one CUDA graph: over a fake of ONNX Runtime's CUDA provider."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path

import fake_ort
import numpy as np
import pytest
from stand_in import StandIn

import edge
import edge.cuda
from edge.errors import BundleError, DeviceError
from edge.vision.backend import DeviceArray
from edge.vision.ort import OrtBackend

onnx = pytest.importorskip("onnx", reason="no onnx here")


@pytest.fixture
def calls() -> Counter[str]:
    return Counter()


@pytest.fixture
def cuda(request: pytest.FixtureRequest, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime as if it had CUDA; the parameter says where recording fails."""
    import onnxruntime

    for name, value in fake_ort.module(refuses=getattr(request, "param", ""), calls=calls).items():
        monkeypatch.setattr(onnxruntime, name, value)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "operator by operator" in record.getMessage()]


@pytest.mark.usefixtures("cuda")
def test_reports(
    bundle: Path, film: np.ndarray, host_library: Path, stand_in: StandIn, calls: Counter[str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """One recording, then replays at the same addresses; what a film before still needs of them moves to the host."""
    caplog.set_level(logging.INFO, "edge")
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    stand_in.set("any_pointer", 1)
    other = film[::-1].copy()
    want = edge.load(bundle, device="cpu", threads=1)
    engine = edge.load(bundle, device="cuda", threads=1)
    assert (engine.device, engine.isa) == ("cuda", "cuda")
    assert any("is recorded with the first film" in record.getMessage() for record in caplog.records)
    before = calls["sessions"]
    first, second = engine.open(film), engine.open(other)
    for session, picture in ((second, other), (first, film), (second, other)):
        assert session.report(max_new_tokens=6).token_ids == want.report(picture, max_new_tokens=6).token_ids
    assert isinstance(second._seen.keys, DeviceArray)
    assert second._seen.keys.address != 0
    assert first._seen.keys.address == 0
    assert (calls["recorded"], calls["replayed"], calls["sessions"]) == (1, 1, before)
    assert calls["plain"] == 3  # the CPU's reports
    assert not lines(caplog)


@pytest.mark.parametrize(
    ("cuda", "why"),
    [
        ("session", "nodes have not been partitioned"),
        ("values", "out of memory"),
        ("recording", "not permitted when stream is capturing"),
        ("replay", "the replay failed"),
    ],
    indirect=["cuda"],
)
@pytest.mark.usefixtures("cuda")
def test_what_refuses_is_told(bundle: Path, calls: Counter[str], caplog: pytest.LogCaptureFixture, why: str) -> None:
    """Films are done operator by operator then, from the one on that showed it; one line in the log."""
    caplog.set_level(logging.INFO, "edge")
    backend = OrtBackend(bundle / "vision.onnx", device="cuda", threads=1)
    plain = OrtBackend(bundle / "vision.onnx", device="cpu", threads=1)
    rng = np.random.default_rng(0)
    names = ["first_logits", "prefix_keys"]
    for _ in range(3):
        feed = {"pixels": rng.standard_normal((1, 3, 64, 64), np.float32), "bias_switch": np.ones(1, np.float32)}
        want = plain.run(feed, names)
        for got, expected in zip(backend.run(feed, names), want, strict=True):
            np.testing.assert_array_equal(got, expected)
        logits, keys = backend.run_there(feed, names, names[1:])
        np.testing.assert_array_equal(logits, want[0])
        np.testing.assert_array_equal(keys.host(), want[1])
    assert calls["plain"] > 0
    (line,) = lines(caplog)
    assert why in line


@pytest.mark.usefixtures("cuda")
def test_switched_off(
    bundle: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG, "edge")
    monkeypatch.setenv("EDGE_CUDA_CAPTURE", "off")
    backend = OrtBackend(bundle / "vision.onnx", device="cuda", threads=1)
    feed = {"pixels": np.zeros((1, 3, 64, 64), np.float32), "bias_switch": np.ones(1, np.float32)}
    backend.run(feed, ["first_logits"])
    assert calls == {"loaded": 1, "sessions": 1, "plain": 1}
    assert lines(caplog) == ["the vision graph runs operator by operator: $EDGE_CUDA_CAPTURE is off"]
    assert capsys.readouterr().out == ""
    assert "ONNX Runtime: Failed to load libcudnn.so.9" in caplog.text


@pytest.mark.usefixtures("cuda")
def test_open_shapes(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, calls: Counter[str]) -> None:
    caplog.set_level(logging.INFO, "edge")
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle")) / "vision.onnx"
    model = onnx.load(copy)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, copy)
    backend = OrtBackend(copy, device="cuda", threads=1)
    assert lines(caplog) == ["the vision graph runs operator by operator: its shapes are not fixed"]
    feed = {"pixels": np.zeros((1, 3, 64, 64), np.float32), "bias_switch": np.ones(1, np.float32)}
    backend.run(feed, ["first_logits"])
    assert calls["plain"] == 1


def test_a_silent_fallback_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver: ONNX Runtime takes the CPU for every session, also for the one that was to record."""
    import onnxruntime

    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers, enable_fallback: session(path, providers=fake_ort.NAMES[1:]),
    )
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: fake_ort.NAMES)
    with pytest.raises(DeviceError, match="cuda was asked for but ONNX Runtime fell back to CPUExecutionProvider"):
        OrtBackend(bundle / "vision.onnx", device="cuda", threads=1)


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("cuda", ["memory"], indirect=True)
def test_a_gpu_that_fails_is_no_broken_bundle(bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r"the GPU cannot take vision.onnx \(RuntimeError: CUDA failure 2") as error:
        OrtBackend(bundle / "vision.onnx", device="cuda", threads=1)
    assert error.value.exit_code == 82
    assert str(bundle) not in str(error.value)


@pytest.mark.usefixtures("cuda")
def test_a_broken_graph_is_no_failure_of_the_gpu(tmp_path: Path) -> None:
    (tmp_path / "vision.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"cannot load vision\.onnx"):
        OrtBackend(tmp_path / "vision.onnx", device="cuda", threads=1)
