# SPDX-License-Identifier: Apache-2.0
"""The engine with a device to decode on, and without one."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from stand_in import StandIn

import edge
import edge.cuda
from edge.errors import DeviceError


@pytest.fixture
def built_with_cuda(host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """As if the stand-in were this build's library. Its times mean nothing, so nothing is timed."""
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    return stand_in


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_auto_decodes_on_the_device(
    bundle: Path, film: np.ndarray, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge")
    want = edge.load(bundle, device="cpu", threads=1).report(film, max_new_tokens=12)
    engine = edge.load(bundle, device="auto", threads=1)
    assert engine.isa == "cuda"
    assert "decoding on host stand-in" in messages(caplog)
    pieces: list[str] = []
    got = engine.report(film, max_new_tokens=12, on_text=pieces.append)
    assert got.token_ids == want.token_ids
    assert "".join(pieces) == got.findings == want.findings
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
    assert got.software["isa"] == "cuda"
    assert [s.text for s in got.sentences] == [s.text for s in want.sentences]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("devices", 0, "no CUDA device can be used here"),
        ("capability", 61, "host stand-in has compute capability 6.1"),
        ("memory", 1 << 20, "not enough GPU memory"),
    ],
)
def test_auto_falls_back_and_says_so(
    bundle: Path, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture, name: str, value: int, reason: str
) -> None:
    caplog.set_level(logging.INFO, "edge")
    built_with_cuda.set(name, value)
    engine = edge.load(bundle, device="auto", threads=1)
    assert engine.isa != "cuda"
    assert f"decoding on the CPU: {reason}" in messages(caplog)
    (told,) = engine.fallback
    assert told.startswith(f"decoding on the CPU: {reason}")


@pytest.mark.parametrize(("name", "value"), [("fail_launch", 0), ("fail_launch", 40), ("fail_wait", 1)])
def test_a_device_that_fails_while_it_is_tried(
    bundle: Path, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture, name: str, value: int
) -> None:
    """While weights are loaded, while texts are compared: the CPU serves, unless the device was demanded."""
    from edge.decoder import Decoder

    caplog.set_level(logging.INFO, "edge")
    built_with_cuda.set(name, value)
    assert edge.load(bundle, device="auto", threads=1).isa != "cuda"
    assert "decoding on the CPU: " in messages(caplog)
    assert "the GPU failed" in messages(caplog)
    opened = edge.bundle.Bundle.open(bundle)
    weights = opened.weights()
    cpu = Decoder(opened.manifest.decoder, weights, threads=1)
    built_with_cuda.set(name, value)
    with pytest.raises(DeviceError, match=r"host stand-in failed while it was tried: .*the GPU failed") as error:
        edge.cuda.decoder_on_gpu(cpu, weights, [], required=True)
    assert error.value.exit_code == 82


def test_a_device_that_computes_something_else_is_not_used(
    bundle: Path, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "edge")
    forward = edge.cuda.CudaDecoder.forward
    monkeypatch.setattr(edge.cuda.CudaDecoder, "forward", lambda self, ids, bias=True: forward(self, ids, False))
    assert edge.load(bundle, device="auto", threads=1).isa != "cuda"
    assert "does not compute what the CPU computes" in messages(caplog)


def test_cuda_that_cannot_be_used_is_an_error(
    bundle: Path, built_with_cuda: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edge.engine

    class Vision(edge.engine.VisionSession):
        """The vision graph as if on a GPU: that part of --device cuda is tested elsewhere."""

        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **(options | {"device": "cpu"}))  # type: ignore[arg-type]

    monkeypatch.setattr(edge.engine, "VisionSession", Vision)
    engine = edge.load(bundle, device="cuda", threads=1)
    assert engine.isa == "cuda"
    built_with_cuda.set("devices", 0)
    with pytest.raises(DeviceError, match="no CUDA device can be used here") as error:
        edge.load(bundle, device="cuda", threads=1)
    assert 80 <= error.value.exit_code <= 99
    # So is a build without the library: a GPU that was demanded is not half of one.
    monkeypatch.setattr(edge.cuda, "library_path", lambda: bundle / edge.cuda.LIBRARY)
    with pytest.raises(DeviceError, match="this build has no CUDA decoding library") as error:
        edge.load(bundle, device="cuda", threads=1)
    assert error.value.exit_code == 82
    assert "EDGE_CUDA=ON" in error.value.hint


def test_beams_are_the_processor_s(
    bundle: Path, film: np.ndarray, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """A text that the device cannot write is written by the CPU, the next one by the device again."""
    caplog.set_level(logging.INFO, "edge")
    cpu = edge.load(bundle, device="cpu", threads=1)
    engine = edge.load(bundle, device="auto", threads=1)
    assert engine.isa == "cuda"
    other = film[::-1].copy()
    for picture, beams in ((film, 1), (film, 3), (other, 3), (other, 1)):
        want = cpu.report(picture, max_new_tokens=6, beams=beams, bias_rows="none")
        launched = built_with_cuda.get("launches")
        got = engine.report(picture, max_new_tokens=6, beams=beams, bias_rows="none")
        assert got.token_ids == want.token_ids
        assert [s.text for s in got.sentences] == [s.text for s in want.sentences]
        if beams == 1:
            assert built_with_cuda.get("launches") > launched
    assert messages(caplog).count("beams and rules on a text are the processor's") == 2


def test_a_model_whose_texts_need_rules(
    bundle: Path, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """No error, whatever was asked for: the GPU has the vision graph, and the log says who decodes."""
    from edge.decoder import Decoder

    caplog.set_level(logging.INFO, "edge")
    opened = edge.bundle.Bundle.open(bundle)
    spec, weights = opened.manifest.decoder, opened.weights()
    cpu = Decoder(spec, weights, threads=1)
    for rules in ({"no_repeat_ngram": 3}, {"min_new_tokens": 2}, {"beams": 4}, {"forced_end_id": 0}):
        assert edge.cuda.decoder_on_gpu(cpu, weights, [], required=True, rules=rules) is cpu
    assert messages(caplog).count("decoding on the CPU: the CUDA kernels have no beams and rules on a text") == 4
    assert edge.cuda.decoder_on_gpu(cpu, weights, [], required=True, rules={"length_penalty": 2.0}) is not cpu


def test_tuning(
    bundle: Path, film: np.ndarray, built_with_cuda: StandIn, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Both ways are timed and the faster one stays; the drafter is told what passes cost. The text is the same."""
    from edge.cuda import CudaDecoder

    caplog.set_level(logging.INFO, "edge")
    want = edge.load(bundle, device="auto", threads=1).report(film, max_new_tokens=8)
    monkeypatch.delenv("EDGE_CUDA_TUNE")
    monkeypatch.setattr("edge.cuda_check._TOKENS", 4)
    monkeypatch.setattr("edge.cuda_check._RUNS", 1)
    monkeypatch.setattr("edge.cuda_check._ROWS", (1, 4))
    real, seconds = CudaDecoder.generate, {"steps": 2.0, "persistent": 1.0}

    def timed(self: CudaDecoder, first: object, options: object, **more: object) -> object:
        result = real(self, first, options, **more)  # type: ignore[arg-type]
        rows = 1 + len(next(iter(more.get("draft_script", ())), ()))  # type: ignore[call-overload]
        return dataclasses.replace(result, decode_seconds=seconds[self.way] * (1 + rows / 10) * max(result.passes, 1))

    monkeypatch.setattr(CudaDecoder, "generate", timed)
    engine = edge.load(bundle, device="auto", threads=1)
    decoder = engine._decoder
    assert isinstance(decoder, CudaDecoder)
    assert decoder.way == "persistent"
    np.testing.assert_allclose(decoder.pass_costs[:4], [1, 1 + 0.1 / 1.1, 1 + 0.2 / 1.1, 1 + 0.3 / 1.1])
    assert len(decoder.pass_costs) == 16
    assert "texts are written by persistent: steps 2" in messages(caplog)
    assert engine.report(film, max_new_tokens=8).token_ids == want.token_ids
    monkeypatch.setenv("EDGE_CUDA_WAY", "steps")
    assert edge.load(bundle, device="auto", threads=1)._decoder.way == "steps"


def test_weights_in_half(bundle: Path, built_with_cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CUDA_WEIGHTS", "bf16")
    decoder = edge.load(bundle, device="auto", threads=1)._decoder
    assert isinstance(decoder, edge.cuda.CudaDecoder)
    assert decoder.weight_dtype == "bf16"


def test_the_cpu_is_not_asked_for_a_device(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.cuda, "cuda_device", lambda *_: pytest.fail("a device was looked for"))
    assert edge.load(shutil.copytree(bundle, bundle.parent / "copy"), device="cpu", threads=1).isa != "cuda"
