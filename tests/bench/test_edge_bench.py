# SPDX-License-Identifier: Apache-2.0
"""``edge-bench`` as a process: what it writes is complete and agrees with itself and with the bundle's files."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from bench_harness import STAGES, bench, bytes_from_files, check_bandwidth, check_times
from edge_bench import cli, reference
from edge_bench.reference import random_weights
from handmade import make_bundle, seal
from safetensors.numpy import save_file


def other_weights(bundle: Path, quantize: str, **decoder: Any) -> Path:
    """Replace a bundle's decoder weights by random ones, and fields of its decoder spec."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]
    manifest["decoder"].update(decoder)
    manifest["precision"] = "int8" if quantize == "int8" else "fp32"
    save_file(random_weights(manifest["decoder"], quantize), bundle / "decoder.safetensors")
    seal(bundle, manifest)
    return bundle


@pytest.fixture(scope="module", params=["fp32", "int8 with a begin token", "untied head"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    if request.param == "fp32":
        return make_bundle(folder)
    if request.param == "untied head":
        return other_weights(make_bundle(folder), "none", tied_head=False)
    return other_weights(make_bundle(folder, generation={"begin_ids": [0, 1, 2]}), "int8")


def check(result: dict[str, Any], folder: Path, tokens: int) -> None:
    """The schema, and every figure that follows from others."""
    assert result["headline"] == "reports"
    assert result["decoder"] is None
    assert result["call"]["tokens"] == tokens
    close = pytest.approx

    assert list(result["stages"]) == STAGES
    runs = result["reports"]["runs"]
    assert len(runs) == result["call"]["repeat"]
    for stage, values in result["stages"].items():
        assert set(values) == {"p50", "p95", "p99"}
        assert 0 <= values["p50"] <= values["p95"] <= values["p99"]
        assert values["p50"] == close(sorted(run[stage] for run in runs)[len(runs) // 2], rel=1e-5)
    for run in runs:
        check_times(run)

    assert result["bytes_per_token"] == bytes_from_files(folder, tokens)
    assert result["bytes_per_token"] == sum(result["reports"]["bytes"][k] for k in ("weights", "cache"))
    assert result["ms_per_token"] == close(result["stages"]["decode"]["p50"] / (tokens - 1), rel=1e-5)
    assert result["tokens_per_s"] == close(1e3 / result["ms_per_token"], rel=1e-5)
    assert result["read_gbps"] == close(
        result["bytes_per_token"] / result["tokens_per_pass"] / result["ms_per_token"] / 1e6, rel=1e-5
    )
    assert result["call"]["draft"] == result["model"]["draft"]
    part = result["reports"]
    assert len(result["bandwidth"]["between"]) >= 2 * len(runs)
    check_bandwidth(result["read_bandwidth_gbps"], result["bandwidth"], part["beside_gbps"])
    shares = [
        result["bytes_per_token"] * (tokens - 1) / result["tokens_per_pass"] / run["decode"] / 1e6 / beside
        for run, beside in zip(runs, part["beside_gbps"], strict=True)
    ]
    assert part["share_of_bandwidth_runs"] == close(shares, rel=1e-5)
    assert result["share_of_bandwidth"] == close(sorted(shares)[len(shares) // 2], rel=1e-5)
    assert result["bandwidth"]["threads"] == result["call"]["threads"]
    assert 0 < result["rss_mb"] <= result["rss_peak_mb"]

    manifest = folder / "manifest.json"
    assert result["model"]["bundle_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert result["model"]["precision"] == json.loads(manifest.read_text())["precision"]
    assert result["machine"]["isa"] in result["machine"]["isa_supported"]
    assert {"edge", "numpy"} <= set(result["machine"]["versions"])
    cold = result["reports"]["cold_start"]
    assert cold, result["notes"]  # which say why there is none
    assert 0 < cold["overhead_ms"] < cold["wall_ms"]


def test_figures_agree(bundle: Path, timed: Any, small_film: Path) -> None:
    result, text = timed("--bundle", bundle, "--tokens", "20", "--film", small_film)
    check(result, bundle, 20)
    for word in ("ms/token", "tokens/s", "MB/token", "GB/s", "resident", "cold start", "vision", "p99"):
        assert word in text
    assert max(map(len, text.splitlines()[:20])) <= 110
    host = socket.gethostname()
    assert len(host) < 4 or host not in json.dumps(result)


def run_here(call: list[str], what: str) -> None:
    """A program for a process of its own in this one, which has imported PyTorch for other tests and may know a trace
    of the graph; test_reference_bundle has the process."""
    import traces
    from edge_export import pipeline

    assert call[:3] == [sys.executable, "-P", "-c"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "to_onnx", traces.to_onnx)
        patch.setattr(sys, "argv", ["-c", *call[4:]])
        with pytest.raises(SystemExit) as end:
            exec(call[3], {"__name__": "__main__"})
    assert end.value.code == 0, what


def test_both_parts_of_the_reference_shape(
    tmp_path: Path, small_film: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``--shape reference``, the shape made tiny: random checkpoint, real exporter, whole reports, decoder."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("edge_export.cli")
    spec = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp": 256}
    spec |= {"vocab": 320, "max_positions": 192}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reference, "SHAPE", "tiny")
    monkeypatch.setattr(reference, "PREFIX", 16)
    monkeypatch.setattr(reference, "CHECKPOINT_AND_BUNDLE_BYTES", 64 << 20)  # other tests may fill the disk
    monkeypatch.setattr(reference, "SPEC", {**reference.SPEC, **spec})
    monkeypatch.setattr(reference, "_child", run_here)
    path = tmp_path / "figures.json"
    call = ["--shape", "reference", "--film", str(small_film), "--json", str(path), "--repeat", "3"]
    assert cli.main([*call, "--threads", "1", "--buffer-mb", "16"]) == 0, capfd.readouterr().err
    result = json.loads(path.read_text())
    decoder = result.pop("decoder")
    (folder,) = (tmp_path / "cache" / "edge-report" / "bench").glob("bundle-*")
    check({**result, "decoder": None}, folder, 100)
    assert decoder["bytes_per_token"] == result["bytes_per_token"]
    out, err = capfd.readouterr()
    assert "whole reports" in out
    assert "decoder alone" in out
    assert "exporting a random checkpoint" in err
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    said: list[str] = []
    assert reference.reference_bundle("none", said.append) == folder  # from the cache: needs no exporter
    assert said == []


@pytest.mark.parametrize("bundle", ["fp32"], indirect=True)
def test_drafts_are_a_choice(bundle: Path, timed: Any, small_film: Path) -> None:
    result, _ = timed("--bundle", bundle, "--tokens", "20", "--film", small_film, "--no-draft")
    check(result, bundle, 20)
    assert result["call"]["draft"] is False
    assert result["tokens_per_pass"] == 1.0


def test_a_busy_machine_is_no_contradiction(bundle: Path, small_film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may get the processor for most of any stage, and the memory for most of a measurement."""
    from edge_bench import bandwidth, reports_part

    from edge.session import FilmSession

    fill = FilmSession._fill

    def slow(self: FilmSession, lane: int) -> Any:
        time.sleep(0.03)
        return fill(self, lane)

    monkeypatch.setattr(FilmSession, "_fill", slow)
    monkeypatch.setattr(reports_part, "cold_start", lambda *_: None)
    given = [0.0104, 0.0132, 0.0096, 0.0117]
    reach = bandwidth.Bandwidth(1, 1 << 20, before=[0.0123], after=[0.0144])
    values = iter(given)

    def measure() -> float:
        reach.between.append(next(values))
        return reach.between[-1]

    call = {"tokens": 5, "repeat": 2, "threads": 1, "say": print, "bandwidth": measure}
    part = reports_part.run_reports(bundle, small_film, **call).to_dict(1.0)
    for run in part["runs"]:
        assert run["prefill"] >= 30
        check_times(run)
    reach.same_size = [0.01]
    check_bandwidth(reach.gbps, reach.to_dict(), part["beside_gbps"])


def test_the_decoder_alone_with_drafts() -> None:
    """The oracle's drafts: the same text, and as many tokens per pass as its pattern says."""
    from edge_bench.decoder_part import run_decoder
    from edge_bench.oracle import PATTERN

    spec = {**reference.SPEC, "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp": 128}
    spec |= {"vocab": 320, "max_positions": 192}
    part = run_decoder(
        spec, lambda: reference.random_weights(spec), prefix=20, tokens=150, repeat=2, threads=1, name="x", draft=True
    )
    drafting = part.to_dict(1.0)["drafting"]
    right = sum(right for _, right in PATTERN)
    assert drafting["tokens_per_pass"] == pytest.approx((len(PATTERN) + right) / len(PATTERN), rel=0.3)
    assert 0 < drafting["accepted"] < drafting["drafted"]
    assert part.tokens_per_pass == 1.0
    assert "sketching" not in part.to_dict(1.0)  # too small
    assert "drafting" not in run_decoder(
        spec, lambda: reference.random_weights(spec), prefix=20, tokens=5, repeat=1, threads=1, name="x"
    ).to_dict(1.0)


def test_the_decoder_alone_with_its_sketch() -> None:
    from edge_bench.decoder_part import run_decoder

    spec = {**reference.SPEC, "layers": 2, "hidden": 256, "heads": 4, "kv_heads": 4, "head_dim": 64, "mlp": 8000}
    spec |= {"vocab": 320, "max_positions": 192}
    part = run_decoder(
        spec, lambda: reference.random_weights(spec), prefix=20, tokens=40, repeat=1, threads=1, name="x", draft=True
    ).to_dict(1.0)
    assert part["sketching"]["tokens_per_pass"] > 1.5
    assert 0 < part["sketching"]["accepted"] <= part["sketching"]["drafted"]
    assert part["tokens_per_pass"] == 1.0


def test_stop_ids_do_not_shorten_a_run(tmp_path: Path, timed: Any) -> None:
    """Also: the film that is drawn where none is given."""
    folder = make_bundle(tmp_path / "bundle", generation={"stop_ids": list(range(64)), "cut_at_sentence": True})
    result, _ = timed("--bundle", folder, "--tokens", "100")
    assert result["call"]["tokens"] == 100
    assert result["bytes_per_token"] == bytes_from_files(folder, 100)


def test_as_many_tokens_as_fit(tmp_path: Path, timed: Any, small_film: Path) -> None:
    folder = other_weights(make_bundle(tmp_path / "bundle"), "none", max_positions=48)
    result, _ = timed("--bundle", folder, "--film", small_film)
    assert result["call"]["tokens"] == 48 - result["model"]["prefix"]
    done = bench("--bundle", folder, "--tokens", "33", "--buffer-mb", "16")
    assert done.returncode == 1
    assert "at most 32" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--tokens", "1"], 1),
        (["--threads", "0"], 1),
        (["--quantize", "int8"], 1),
        (["--\x1b[2J"], 1),
        (["--decoder-only", "--shape", "demo"], 1),
        (["--bundle", "x", "--shape", "demo"], 1),
        (["--bundle", "no such folder", "--buffer-mb", "16"], 30),
        (["--bundle", "no such folder", "--json", "no such folder/figures.json"], 40),
    ],
)
def test_refusals_are_one_line(arguments: list[str], code: int) -> None:
    done = bench(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edge-bench: ")
    assert done.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_names_every_part(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f'"edge-bench {name}"' in cli.make_parser().format_help()
    with pytest.raises(SystemExit) as end:
        cli._main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: edge-bench {name} ")


def test_a_part_names_itself() -> None:
    done = bench("several", "--bogus")
    assert done.returncode == 1
    assert done.stderr.startswith("edge-bench several: usage: ")
    assert done.stderr.endswith("see edge-bench several --help\n")


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path, small_film: Path) -> None:
    """Nor is it a traceback; what was asked for as a file is there."""
    import os
    import subprocess

    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-P",
        "-m",
        "edge_bench.cli",
        "--bundle",
        make_bundle(tmp_path / "b"),
        "--film",
        small_film,
        "--repeat",
        "1",
    ]
    command += ["--tokens", "4", "--threads", "1", "--buffer-mb", "16", "--json", tmp_path / "figures.json"]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert (tmp_path / "figures.json").is_file()


def test_a_failed_run_leaves_the_old_figures(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    assert bench("--bundle", tmp_path, "--json", path, "--buffer-mb", "16").returncode == 30
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_starting_imports_nothing_heavy() -> None:
    import subprocess

    code = "import sys, edge_bench.cli as cli; cli.make_parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnxruntime", "torch", "edge._kernel"} & set(done.stdout.split())


def test_json_has_no_nan(tmp_path: Path) -> None:
    """What cannot be told is null: every reader takes the file."""
    from edge_bench.machine import describe

    text = json.dumps(describe("generic"), allow_nan=False)
    assert not any(math.isnan(v) for v in json.loads(text).values() if isinstance(v, float))
