# SPDX-License-Identifier: Apache-2.0
"""The engine with a device to decode on, and without one."""

from __future__ import annotations

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
    """As if the stand-in were this build's library."""
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
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
    assert edge.load(bundle, device="cuda", threads=1).isa == "cuda"
    built_with_cuda.set("devices", 0)
    with pytest.raises(DeviceError, match="no CUDA device can be used here") as error:
        edge.load(bundle, device="cuda", threads=1)
    assert 80 <= error.value.exit_code <= 99
    # Without the library the GPU has the vision graph to itself, as before there was one.
    monkeypatch.setattr(edge.cuda, "library_path", lambda: bundle / edge.cuda.LIBRARY)
    assert edge.load(bundle, device="cuda", threads=1).isa != "cuda"


def test_the_cpu_is_not_asked_for_a_device(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.cuda, "cuda_device", lambda *_: pytest.fail("a device was looked for"))
    assert edge.load(shutil.copytree(bundle, bundle.parent / "copy"), device="cpu", threads=1).isa != "cuda"
