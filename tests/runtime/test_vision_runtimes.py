# SPDX-License-Identifier: Apache-2.0
"""The runtimes of the vision graph: chosen by name, quiet towards the outside, equal in what they yield."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.bundle import Bundle
from edge.errors import BundleError, DeviceError, ProcessingError, UsageError
from edge.vision import VisionSession


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def noise(bundle: Bundle) -> np.ndarray:
    image = bundle.manifest.image
    return np.random.default_rng(0).standard_normal((1, 3, image["height"], image["width"]), np.float32)


def test_unknown_runtime(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="auto, ort, openvino, not 'tflite'"):
        edge.load(pristine, vision="tflite")
    monkeypatch.setenv("EDGE_VISION_RUNTIME", "nonsense")
    with pytest.raises(UsageError, match=r"'nonsense' \(from \$EDGE_VISION_RUNTIME\)"):
        edge.load(pristine)
    edge.load(pristine, vision="ort")
    monkeypatch.setenv("EDGE_VISION_RUNTIME", "")
    edge.load(pristine)


@pytest.mark.parametrize("stub", ["raise ImportError('none')", "pass"])
def test_without_openvino(tmp_path: Path, pristine: Path, stub: str) -> None:
    """Asked for by name it is missed; `auto` goes on without it."""
    (tmp_path / "openvino.py").write_text(stub)
    out = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import edge\n"
        f"edge.load({str(pristine)!r}, vision='auto')\n"
        f"try: edge.load({str(pristine)!r}, vision='openvino')\n"
        "except edge.MissingRuntime as error: print(error.exit_code, error)"
    )
    assert out.startswith("81 OpenVINO is ")
    assert 'pip install "edge-report[openvino]"' in out


def test_nothing_is_kept_or_sent(tmp_path: Path, pristine: Path) -> None:
    """ONNX Runtime's telemetry begins on import with a device id and a database in the user's cache folder."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    cache.mkdir()
    code = (
        "import sys; from edge.cli.report import main; import edge\n"
        f"main([{str(pristine / 'no-such-film.png')!r}, '--bundle', {str(pristine)!r}])\n"
        f"import edge.engine, numpy as np; e = edge.load({str(pristine)!r}); e.report(np.eye(64, dtype='uint8'))\n"
        "assert 'onnxruntime' in sys.modules"
    )
    run(code, HOME=str(home), XDG_CACHE_HOME=str(cache), ORT_DISABLE_TELEMETRY="")
    assert not [path for path in (*home.rglob("*"), *cache.rglob("*")) if path.is_file()]


def test_numpy_is_there_before_a_second_thread_wants_it(pristine: Path) -> None:
    """Imported for the first time by two threads at once, NumPy breaks now and then."""
    out = run(
        "import sys, edge.engine\n"
        "assert 'numpy' not in sys.modules\n"
        "class Seen(Exception): pass\n"
        "def session(*_, **__):\n"
        "    module = sys.modules.get('numpy')\n"
        "    print(module is not None and not module.__spec__._initializing)\n"
        "    raise Seen\n"
        "edge.engine.VisionSession = session\n"
        f"try: edge.engine.load({str(pristine)!r})\n"
        "except Seen: pass"
    )
    assert out == "True\n"


# ---- OpenVINO


def test_same_numbers(pristine: Path) -> None:
    pytest.importorskip("openvino")
    bundle = Bundle.open(pristine)
    one, two = (VisionSession(bundle, runtime=name) for name in ("ort", "openvino"))
    assert (one.runtime, two.runtime, two.device) == ("ort", "openvino", "cpu")
    for bias in (True, False):
        want, got = one.run(noise(bundle), bias=bias), two.run(noise(bundle), bias=bias)
        for name in ("keys", "values", "first_logits", "key_bias"):
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-4, atol=1e-5)
        assert np.array_equal(got.mask, want.mask)


def test_results_are_of_their_own(pristine: Path) -> None:
    """A second film does not overwrite what the first one gave."""
    pytest.importorskip("openvino")
    bundle = Bundle.open(pristine)
    session = VisionSession(bundle, runtime="openvino")
    first = session.run(noise(bundle), bias=True)
    kept = first.keys.copy()
    session.run(-noise(bundle), bias=True)
    assert np.array_equal(first.keys, kept)


def test_openvino_refuses(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(DeviceError, match="openvino runs on the CPU"):
        edge.load(bundle, vision="openvino", device="cuda")
    opened = Bundle.open(bundle)
    session = VisionSession(opened, runtime="openvino")
    with pytest.raises(ProcessingError, match="the vision graph failed"):
        session.run(noise(opened)[:, :, :-1], bias=True)
    with pytest.raises(ProcessingError, match="not finite"):
        session.run(noise(opened) * np.float32(np.inf), bias=True)
    (bundle / "vision.onnx").write_bytes(b"\x3a\x04abcd")
    with pytest.raises(BundleError):
        VisionSession(opened, runtime="openvino")


def test_report_tells_the_runtime(pristine: Path, picture: Path) -> None:
    pytest.importorskip("openvino")
    reports = [edge.load(pristine, vision=name, threads=1).report(picture) for name in ("ort", "openvino")]
    assert [report.software["vision"] for report in reports] == ["ort", "openvino"]
    assert reports[0].token_ids == reports[1].token_ids


def test_an_idle_engine_holds_no_processor(pristine: Path) -> None:
    pytest.importorskip("openvino")
    bundle = Bundle.open(pristine)
    session = VisionSession(bundle, runtime="openvino", threads=2)
    session.run(noise(bundle), bias=True)
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize(
    ("floats", "installed", "avx512", "chosen"),
    [
        (True, True, True, "openvino"),
        (False, True, True, "auto"),
        (True, False, True, "auto"),
        (True, True, False, "auto"),
    ],
)
def test_the_rule_for_float32_encoders(
    floats: bool, installed: bool, avx512: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.vision import choice

    monkeypatch.setattr(choice, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(choice, "has_avx512", lambda: avx512)
    assert choice.choose_runtime("auto", "cpu", static=False, float_encoder=floats) == chosen
    assert choice.choose_runtime("auto", "cuda", static=False, float_encoder=floats) == "auto"
    assert choice.choose_runtime("ort", "cpu", static=False, float_encoder=floats) == "ort"


@pytest.mark.parametrize(
    ("runtime", "device", "static", "installed", "bf16", "chosen"),
    [
        ("auto", "cpu", True, True, True, "openvino"),
        ("auto", "auto", True, True, True, "openvino"),
        ("auto", "cpu", False, True, True, "auto"),
        ("auto", "cpu", True, False, True, "auto"),
        ("auto", "cpu", True, True, False, "auto"),
        ("auto", "cuda", True, True, True, "auto"),
        ("auto", "tensorrt", True, True, True, "auto"),
        ("ort", "cpu", True, True, True, "ort"),
        ("openvino", "cpu", False, True, False, "openvino"),
    ],
)
def test_the_rule_of_auto(
    runtime: str, device: str, static: bool, installed: bool, bf16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.vision import choice

    monkeypatch.setattr(choice, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(choice, "has_bf16", lambda: bf16)
    assert choice.choose_runtime(runtime, device, static=static) == chosen
