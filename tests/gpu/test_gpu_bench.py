# SPDX-License-Identifier: Apache-2.0
"""edge-bench --device cuda, over the stand-in: every part runs, and the JSON has its shape. Its times mean nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from edge_bench import reference
from edge_bench.gpu import decoder as decoder_part
from edge_bench.gpu import device, reports, run, summary, tiny_text, worker
from edge_bench.gpu.projection import SHARE, WAIT_US, fit, project, render, waits
from small import spec_of, weights_of
from stand_in import StandIn

import edge.cuda
from edge.errors import DeviceError, ProcessingError


@pytest.fixture
def built(host_library: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in in place of this build's library, and what would be a child's work done here."""

    def ask(module: str, options: Mapping[str, Any], limit: float) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        if limit < 1:
            return {"failed": "no time was left"}
        for part in worker.found(module, json.loads(json.dumps(options))):
            merged |= json.loads(json.dumps(part, allow_nan=False))
        return merged

    monkeypatch.setattr(edge.cuda, "library_path", lambda: host_library)
    monkeypatch.setattr(run, "ask", ask)
    monkeypatch.setattr(device, "COPIED", 1 << 16)
    monkeypatch.setenv("EDGE_CUDA_TUNE", "off")
    return stand_in


def test_shape(built: StandIn, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(layers=1, hidden=32, heads=2, kv_heads=2, mlp=64, vocab=60, max_positions=40)
    kinds = {"none": "fp32", "int8": "int8", "int4": "int4"}
    monkeypatch.setattr(reference, "SPEC", spec)
    monkeypatch.setattr(reference, "PREFIX", 20)
    monkeypatch.setattr(reference, "decoder_weights", lambda kind, say: weights_of(spec, kinds[kind]))
    monkeypatch.setattr(run, "KINDS", run.KINDS[:2])
    monkeypatch.setattr(decoder_part, "PASS_ROWS", (1, 4))
    said: list[str] = []
    saved: list[dict[str, Any]] = []
    result = run.run(
        tokens=4, repeat=1, parts=["decoder", "reports"], bundle=str(bundle), say=said.append, save=saved.append
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["format"] == "edge-bench gpu 2"
    assert result["gpu"]["name"] == "host stand-in"
    # Recorded steps of every format before the kernel that can wait for itself.
    assert [(d["weights"], d["kv_dtype"], d["way"]) for d in result["decoder"]] == [
        (kept, kv, way) for way in ("steps", "persistent") for kept, _, kv in run.KINDS
    ]
    for decoder in result["decoder"]:
        assert decoder["us_per_token"] > 0
        assert list(decoder["pass_us"]) == ["1", "4"]
        assert decoder["drafted"]["tokens_per_pass"] >= 1
        assert decoder["drafted"]["same_text"] is True
        assert decoder["agrees_with_cpu"] is True
    stages = ["us_per_token", "mhz", "qkv", "attend", "attn_out", "mlp_in", "mlp_out", "head"]
    assert [list(d.get("stages", ())) for d in result["decoder"]] == [[], [], stages, stages]
    assert result["ways_write_the_same"] is True
    fp16, int8 = (result["decoder"][i]["bytes_per_token"] for i in (0, 1))
    assert fp16 > int8
    assert result["fastest_way"] in run.WAYS
    # No GPU for the vision graph here: told; the processor computes it, and the device decodes.
    assert [report["device"] for report in result["reports"]] == ["cuda", "tensorrt", "auto"]
    assert ["failed" in report for report in result["reports"]] == [True, True, False]
    assert (result["reports"][2]["vision"], result["reports"][2]["decoder"]) == ("cpu", "cuda")
    assert list(result["reached"]) == list(result["goals"])
    assert result["reached"]["us_per_token fp16"] == min(result["decoder"][i]["us_per_token"] for i in (0, 2))
    assert result["reached"]["report_ms"] is None
    text = summary.table(result)
    assert "report_ms              not measured  (goal: at most 15)" in text
    assert "projections, not measured" in text
    assert text.count("projected:") == 3
    assert said
    # After every part what is known is handed over.
    counts = [(len(one["decoder"]), len(one["reports"])) for one in saved]
    assert counts == [(0, 0), *((n, 0) for n in range(1, 5)), (4, 1), (4, 2), (4, 3)]


def test_what_does_not_fit_is_left_out(built: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that fails or has no time is told, and the others are there."""
    figures = {"us_per_token": 100.0, "share_of_copy": 0.5, "bytes_per_token": 1000}

    def measure(kept: str, stored: str, kv: str, way: str, **_: object) -> Any:
        if way == "persistent":
            raise DeviceError("does not fit")
        yield {"weights": kept, "kv_dtype": kv, "way": way, **figures}
        if kept == "int8":
            raise RuntimeError("an error\nthat sticks")
        yield {"drafted": {"us_per_token": 50.0}}

    monkeypatch.setattr(decoder_part, "measure", measure)
    monkeypatch.setattr(reference, "decoder_weights", lambda kind, say: {})
    result = run.run(tokens=4, repeat=1, parts=["decoder"], say=lambda line: None)
    assert [d["way"] for d in result["decoder"]] == ["steps"] * 4
    assert ["drafted" in d for d in result["decoder"]] == [
        True,
        False,
        False,
        True,
    ]  # what was measured before is there
    assert result["notes"][0] == "decoder, int8 weights, fp16 cache, steps: RuntimeError: an error that sticks"
    assert result["notes"][2] == "decoder, fp16 weights, fp16 cache, persistent: device: does not fit"
    assert "note: decoder, int4 weights" in summary.table(result)
    monkeypatch.setattr(run, "WAYS", ("persistent",))
    with pytest.raises(ProcessingError, match="does not fit"):
        run.run(tokens=4, repeat=1, parts=["decoder"], say=lambda line: None)


def test_no_time_is_left(built: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "decoder_weights", lambda kind, say: {})
    clock = iter([0.0, 0.5, *(90.0,) * 99])
    monkeypatch.setattr(run, "perf_counter", lambda: next(clock))
    result = run.run(tokens=4, repeat=1, full_size=True, seconds=60, parts=["reports", "peers"], say=lambda line: None)
    assert [(r["device"], r["model"], r["draft"], r["failed"]) for r in result["reports"]] == [
        (place, model, draft, "no time was left")
        for model, draft in (("full size", False), ("demo", True))
        for place in ("cuda", "tensorrt", "auto")
    ]
    assert result["peers_missing"] == dict.fromkeys(("pytorch", "onnxruntime"), "no time was left")


def test_goals() -> None:
    decoders = [{"weights": w, "us_per_token": us} for w, us in (("fp16", 140.0), ("fp16", 120.0), ("int8", 90.0))]
    peers = [{"name": "PyTorch eager", "us_per_token": 4800.0}, {"name": "another", "us_per_token": 360.0}]
    full = {"model": "reference-random", "device": "cuda"}
    reports = [
        {"model": "demo", "device": "cuda", "after_pixels_ms": 3.0}, full | {"after_pixels_ms": 14.0},
        full | {"device": "auto", "after_pixels_ms": 9.0}, full | {"failed": "x"},
    ]  # fmt: skip
    assert summary.reached(decoders, peers, reports) == {
        "us_per_token fp16": 120.0, "us_per_token int8": 90.0, "report_ms": 14.0, "times PyTorch eager": 40.0,
        "times the best peer": 3.0,
    }  # fmt: skip


def test_parts_of_several_runs() -> None:
    """What other calls measured on the same machine makes one result."""
    call = {"layers": 12, "evidence_layers": 6}
    nothing: dict[str, Any] = {"decoder": [], "peers": [], "reports": [], "notes": [], "peers_missing": {}}
    decoder = {"weights": "fp16", "kv_dtype": "fp16", "way": "steps", "us_per_token": 120.0, "bytes_per_token": 1e8}
    first = nothing | {"call": call, "gpu": {"name": "x", "copy_gbps": 3000.0}, "decoder": [decoder], "notes": ["a"]}
    peer = {"name": "PyTorch eager", "us_per_token": 4800.0}
    second = nothing | {"call": call, "gpu": None, "peers": [peer], "notes": ["b"], "peers_missing": {"c": "d"}}
    whole = summary.combine([first, second])
    assert whole is not None
    assert whole["reached"]["times PyTorch eager"] == 40.0
    assert (whole["notes"], whole["peers_missing"], whole["gpu"]["name"]) == (["a", "b"], {"c": "d"}, "x")
    assert summary.combine([]) is None


def test_ways_that_differ_are_told() -> None:
    one = {"weights": "fp16", "kv_dtype": "fp16", "us_per_token": 120.0, "bytes_per_token": 1e8, "text": "a"}
    result = {
        "call": {"layers": 12, "evidence_layers": 6}, "gpu": None, "peers": [], "reports": [],
        "notes": [], "decoder": [one | {"way": "steps"}, one | {"way": "persistent", "text": "b"}],
    }  # fmt: skip
    assert summary.complete(result)["ways_write_the_same"] is False


def test_reports_by_the_child(bundle: Path) -> None:
    """Stages of reports of exactly as many tokens; here the vision graph is the processor's."""
    found = reports.measure("cpu", str(bundle), tokens=5, repeat=2, draft=False)
    assert (found["device"], found["model"], found["tokens"], found["draft"]) == ("cpu", "handmade", 5, False)
    stages = found["stages_ms"]
    assert min(stages[name] for name in ("vision", "first_token", "decode")) > 0
    assert found["after_pixels_ms"] == pytest.approx(
        stages["vision"] + stages["first_token"] + stages["decode"], abs=0.01
    )
    [found] = worker.found("reports", {"where": "cuda", "bundle": str(bundle), "tokens": 5, "repeat": 2})
    assert found["failed"].startswith("device: ")


def test_without_a_device(built: StandIn) -> None:
    built.set("devices", 0)
    with pytest.raises(DeviceError, match="no CUDA device can be used here"):
        run.run(tokens=6, repeat=1, say=lambda line: None)


def decoders(way: str, *kinds: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"way": way, "bytes_per_token": read, "us_per_token": us} for read, us in kinds]


def test_projection() -> None:
    """Bandwidth and waits are what the measured formats say, where two of the same way do."""
    assert waits(12, way="persistent", evidence_layers=6) == 61
    assert waits(12, way="steps", evidence_layers=6) == 69

    def us(read: float) -> float:
        return read / 2000e3 + 61 * 0.8

    kinds = [(read, us(read)) for read in (287e6, 162e6, 80e6)]
    found = fit(kinds, 61)
    assert found is not None
    assert (found.gbps, found.wait_us, found.kinds) == (pytest.approx(2000), pytest.approx(0.8), 3)
    # Formats of another way say nothing about this one.
    measured = [*decoders("persistent", *kinds), *decoders("steps", (287e6, 900.0), (80e6, 400.0))]
    rows = project(measured, 12, evidence_layers=6, gpu="NVIDIA H100 80GB HBM3", copy_gbps=2900.0)
    assert [row["card"] for row in rows] == ["NVIDIA L4", "NVIDIA RTX A2000", "NVIDIA Jetson AGX Orin"]
    for row in rows:
        assert (row["projected"], row["fitted"], row["fitted_kinds"], row["share_of"]) == (True, True, 3, "published")
        assert row["us_per_token"] == pytest.approx(
            80e6 / (row["published_gbps"] * 2000 / 3350) / 1e3 + 61 * 0.8, abs=0.1
        )
    assert all("fitted to 3 formats" in line for line in render(rows))
    [row, *_] = project(measured, 12, evidence_layers=6, gpu="another", copy_gbps=2500.0)
    assert (row["share_of"], row["share_of_bandwidth"]) == ("copied", 0.8)


@pytest.mark.parametrize(
    "kinds",
    [
        [(80e6, 100.0)],  # one format
        [(80e6, 100.0), (80e6, 90.0)],  # one number of bytes
        [(287e6, 100.0), (80e6, 110.0)],  # less time for more bytes
        [(287e6, 300.0), (80e6, 10.0)],  # waits of less than nothing
    ],
)
def test_projection_that_is_assumed_says_so(kinds: list[tuple[float, float]]) -> None:
    rows = project(decoders("steps", *kinds), 12, evidence_layers=6, gpu="NVIDIA H100 80GB HBM3", copy_gbps=2900.0)
    read = min(kinds, key=lambda kind: kind[1])[0]
    for row, line in zip(rows, render(rows), strict=True):
        assert (row["fitted"], row["share_of_bandwidth"], row["wait_us"]) == (False, SHARE, WAIT_US)
        assert row["us_per_token"] == pytest.approx(
            read / (row["published_gbps"] * SHARE) / 1e3 + 69 * WAIT_US, abs=0.1
        )
        assert "ASSUMED" in line
    assert project([], 12, evidence_layers=6) == []


def test_the_sanitizer_sees_every_kind() -> None:
    """Each type of matrix and of cache has kernels of its own."""
    kept = {kept if stored == "none" else stored for stored, kept, _ in tiny_text.KINDS}
    assert kept == {"fp32", "fp16", "bf16", "int8", "int4"}
    assert {kv for _, _, kv in tiny_text.KINDS} == {"fp32", "fp16", "int8"}


def test_tiny_text(built: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What compute-sanitizer is given does run, and looks at what it says."""
    small: dict[str, Any] = {"hidden": 32, "heads": 2, "kv_heads": 2, "mlp": 64, "layers": 2, "vocab": 60}
    monkeypatch.setattr(tiny_text, "SPEC", tiny_text.SPEC | small)
    monkeypatch.setattr(tiny_text, "KINDS", [kind for kind in tiny_text.KINDS if kind[1] == "bf16"])
    assert tiny_text.main() == 0
    assert "texts agree" in capsys.readouterr().out
