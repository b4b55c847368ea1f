# SPDX-License-Identifier: Apache-2.0
"""edge-bench --device cuda, over the stand-in: every part runs, and the JSON has its shape. Its times mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edge_bench import reference
from edge_bench.gpu import reports, run, tiny_text
from edge_bench.gpu.projection import BARRIER_US, SHARE, barriers, project
from small import spec_of, weights_of
from stand_in import StandIn

import edge.cuda
from edge.errors import DeviceError, ProcessingError


@pytest.fixture
def built(host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    return stand_in


def test_shape(built: StandIn, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(layers=1, hidden=32, heads=2, kv_heads=2, mlp=64, vocab=60, max_positions=40)
    kinds = {"none": "fp32", "int8": "int8", "int4": "int4"}
    monkeypatch.setattr(reference, "SPEC", spec)
    monkeypatch.setattr(reference, "PREFIX", 20)
    monkeypatch.setattr(reference, "decoder_weights", lambda kind, say: weights_of(spec, kinds[kind]))
    monkeypatch.setattr(run, "COPIED", 1 << 16)
    monkeypatch.setattr(run, "KINDS", run.KINDS[:2])
    monkeypatch.setattr(run, "PASS_ROWS", (1, 4))
    said: list[str] = []
    result = run.run(tokens=4, repeat=1, peers=False, bundle=str(bundle), say=said.append)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["format"] == "edge-bench gpu 1"
    assert result["gpu"]["name"] == "host stand-in"
    assert [(d["weights"], d["kv_dtype"], d["way"]) for d in result["decoder"]] == [
        (kept, kv, way) for kept, _, kv in run.KINDS for way in ("steps", "persistent")
    ]
    for decoder in result["decoder"]:
        assert decoder["us_per_token"] > 0
        assert list(decoder["pass_us"]) == ["1", "4"]
        assert decoder["drafted"]["tokens_per_pass"] >= 1
    fp16, int8 = (result["decoder"][i]["bytes_per_token"] for i in (0, 2))
    assert fp16 > int8
    assert result["fastest_way"] in run.WAYS
    # No GPU for the vision graph here: told, and the rest is there all the same.
    assert [report["device"] for report in result["reports"]] == ["cuda", "tensorrt"]
    assert all("failed" in report for report in result["reports"])
    assert list(result["reached"]) == list(result["goals"])
    assert result["reached"]["us_per_token fp16"] == min(d["us_per_token"] for d in result["decoder"][:2])
    assert result["reached"]["report_ms"] is None
    text = run.table(result)
    assert "report_ms              not measured  (goal: at most 15)" in text
    assert "projections, not measured" in text
    assert text.count("projected:") == 3
    assert said


def test_what_does_not_fit_is_left_out(built: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that fails or has no time is told, and the others are there."""
    monkeypatch.setattr(run, "COPIED", 1 << 16)
    figures = {"us_per_token": 100.0, "share_of_copy": 0.5, "bytes_per_token": 1000, "drafted": {"us_per_token": 50.0}}

    def decoder(kept: str, stored: str, kv: str, way: str, *_: object) -> dict[str, Any]:
        if way == "persistent":
            raise DeviceError("does not fit")
        return {"weights": kept, "kv_dtype": kv, "way": way, **figures}

    monkeypatch.setattr(run, "_decoder", decoder)
    result = run.run(tokens=4, repeat=1, full_size=True, seconds=1, say=lambda line: None)
    assert [d["way"] for d in result["decoder"]] == ["steps"] * 4
    assert result["notes"][0] == "decoder, fp16 weights, fp16 cache, persistent: device: does not fit"
    assert result["peers_missing"] == {"all": "no time was left"}
    assert [(r["device"], r["model"], r["failed"]) for r in result["reports"]] == [
        (device, model, "no time was left") for device in ("cuda", "tensorrt") for model in ("full size", "demo")
    ]
    assert "note: decoder, int4 weights" in run.table(result)
    monkeypatch.setattr(run, "WAYS", ("persistent",))
    with pytest.raises(ProcessingError, match="does not fit"):
        run.run(tokens=4, repeat=1, say=lambda line: None)


def test_goals() -> None:
    decoders = [{"weights": w, "us_per_token": us} for w, us in (("fp16", 140.0), ("fp16", 120.0), ("int8", 90.0))]
    peers = [{"name": "PyTorch eager", "us_per_token": 4800.0}, {"name": "another", "us_per_token": 360.0}]
    reports = [{"model": "demo", "after_pixels_ms": 3.0}, {"model": "reference-random", "after_pixels_ms": 14.0}]
    assert run.reached(decoders, peers, [*reports, {"model": "reference-random", "failed": "x"}]) == {
        "us_per_token fp16": 120.0, "us_per_token int8": 90.0, "report_ms": 14.0, "times PyTorch eager": 40.0,
        "times the best peer": 3.0,
    }  # fmt: skip


def test_reports_by_the_child(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of reports of exactly as many tokens; here the vision graph is the processor's."""
    found = reports.measure("cpu", str(bundle), tokens=5, repeat=2)
    assert (found["device"], found["model"], found["tokens"]) == ("cpu", "handmade", 5)
    assert found["after_pixels_ms"] == pytest.approx(
        found["stages_ms"]["vision"] + found["stages_ms"]["decode"], abs=0.01
    )
    found = reports.measure("cuda", str(bundle), tokens=5, repeat=2)
    assert found["failed"].startswith("device: ")


def test_without_a_device(built: StandIn) -> None:
    built.set("devices", 0)
    with pytest.raises(DeviceError, match="no CUDA device can be used here"):
        run.run(tokens=6, repeat=1, say=lambda line: None)


def test_projection() -> None:
    rows = project(287_000_000, 12, way="steps")
    assert [row["card"] for row in rows] == ["NVIDIA L4", "NVIDIA RTX A2000", "NVIDIA Jetson AGX Orin"]
    assert barriers(12, way="persistent") == 61
    for row in rows:
        assert row["projected"] is True
        assert row["share_is_measured"] is False
        want = 287e6 / (row["published_gbps"] * SHARE) / 1e3 + 63 * BARRIER_US
        assert row["us_per_token"] == pytest.approx(want, abs=0.1)
    assert project(1, 1, way="steps", share=0.5)[0]["share_is_measured"]


def test_tiny_text(built: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What compute-sanitizer is given does run, and looks at what it says."""
    small: dict[str, Any] = {"hidden": 32, "heads": 2, "kv_heads": 2, "mlp": 64, "layers": 2, "vocab": 60}
    monkeypatch.setattr(tiny_text, "SPEC", tiny_text.SPEC | small)
    monkeypatch.setattr(tiny_text, "KINDS", tiny_text.KINDS[1:2])
    assert tiny_text.main() == 0
    assert "texts agree" in capsys.readouterr().out
