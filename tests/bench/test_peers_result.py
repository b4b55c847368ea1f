# SPDX-License-Identifier: Apache-2.0
"""From what was measured to JSON, marks, table and pictures; the command line around it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from edge_bench import cli
from edge_bench.peers import cli as peers_cli
from edge_bench.peers import llama_build
from edge_bench.peers.job import Missing
from edge_bench.peers.result import assemble, best_sum, fastest
from edge_bench.peers.session import Entry
from edge_bench.peers.table import render
from edge_bench.peers.variants import VARIANTS, bytes_per_token
from edge_bench.reference import SPEC

MS = {
    "ours-int8-kv_fp16": {
        "decode": [4.0, 5.0, 4.5],
        "vision_prefill": [500.0],
        "report": [900.0, 1000.0, 950.0],
        "report_drafted": [640.0],
    },
    "ours-int8-kv_int8": {"decode": [4.0]},
    "llama-q8_0-kv_fp16": {"decode": [7.0, 6.75, 6.0], "prefill": [800.0]},
    "llama-q4_0-kv_fp16": {"decode": [5.0], "prefill": [600.0]},
    "openvino-int8-kv_u8": {"decode": [9.0], "prefill": [300.0], "encoder": [80.0], "segmenter": [140.0]},
    "transformers-fp32-kv_fp32": {"decode": [48.0], "prefill": [1000.0], "encoder": [300.0], "segmenter": [460.0]},
    "shipped-fp32-kv_fp32": {"report": [6850.0]},
}


@pytest.fixture
def figures() -> dict[str, Any]:
    entries = []
    for variant in VARIANTS:
        entry = Entry(variant)
        entry.runs = {task: list(runs) for task, runs in MS.get(variant.name, {}).items()}
        if variant.peer == "ctranslate2":
            entry.skipped = "skipped: ctranslate2 not installed"
        if variant.name == "ours-int8-kv_fp16":
            entry.info = {"bytes_per_token": 164_142_148, "isa": "avx2", "versions": {"edge": "0.1.0"}}
        entries.append(entry)
    machine = {"cpu": "Some CPU", "usable_processors": 4, "os": "Some OS", "versions": {"python": "3.11"}}
    call = {"threads": 4, "prefix": 1024, "tokens": 100, "rounds": 3}
    made = assemble(entries, call=call, bandwidth={1: [20.0, 22.0, 21.0], 4: [40.0]}, machine=machine)
    return json.loads(json.dumps(made, allow_nan=False))  # as read back from the file


def test_bytes_per_token_are_those_of_the_geometry() -> None:
    """Weights and cache of the reference shape at 1074 keys, in MB."""
    assert bytes_per_token("fp32", "fp32", SPEC, 1074) / 1e6 == pytest.approx(573, rel=5e-3)
    assert bytes_per_token("f16", "fp16", SPEC, 1074) / 1e6 == pytest.approx(287, rel=5e-3)
    assert bytes_per_token("q8_0", "fp16", SPEC, 1074) / 1e6 == pytest.approx(171, rel=5e-3)
    assert bytes_per_token("q4_0", "q8_0", SPEC, 1074) / 1e6 == pytest.approx(91, rel=5e-3)


def test_medians_minima_and_what_a_peer_knows_itself(figures: dict[str, Any]) -> None:
    by_name = {peer["name"]: peer for peer in figures["peers"]}
    ours = by_name["ours-int8-kv_fp16"]
    assert ours["tasks"]["decode"] == {"median": 4.5, "min": 4.0, "runs": [4.0, 5.0, 4.5]}
    assert ours["bytes_per_token"] == 164_142_148
    assert figures["machine"]["versions"] == {"python": "3.11", "edge": "0.1.0"}
    assert figures["bandwidth"]["1"]["median"] == 21.0


def test_the_best_sum_takes_the_fastest_peer_of_every_stage_and_never_ours(figures: dict[str, Any]) -> None:
    together = figures["best_sum"]
    assert together["parts"]["segmenter"] == {"ms": 280.0, "times": 2, "peer": "openvino-int8-kv_u8"}
    assert together["parts"]["decode"] == {"ms": 500.0, "times": 100, "peer": "llama-q4_0-kv_fp16"}
    assert together["ms"] == 80 + 280 + 300 + 500
    for peer in figures["peers"]:
        if "segmenter" in peer["tasks"]:
            del peer["tasks"]["segmenter"]
    assert best_sum(figures) is None


def test_marks_compare_at_equal_bits(figures: dict[str, Any]) -> None:
    listed = {mark["what"]: mark for mark in figures["marks"]}
    against_llama = listed["decode, int8 with cache fp16: against llama.cpp q8_0 with fp16"]
    assert against_llama["ratio"] == pytest.approx(6.75 / 4.5)
    assert against_llama["by_round"] == pytest.approx(6.75 / 5.0)  # of 7 / 4, 6.75 / 5, 6 / 4.5
    assert against_llama["holds"] is True
    ahead = listed["decode, 8-bit weights: ahead of every peer"]
    assert (ahead["ours"], ahead["theirs"]) == ("ours-int8-kv_int8", "llama-q8_0-kv_fp16")
    assert fastest(figures, "decode", ours=False, bits="4") == (5.0, "llama-q4_0-kv_fp16")
    assert listed["decode, int4 with cache fp16: against llama.cpp q4_0 with fp16"]["holds"] is None
    whole = listed["whole report: against the best sum of peers"]
    assert whole["ratio"] == pytest.approx(1160 / 950)
    assert whole["by_round"] == pytest.approx(1160 / 900)  # all parts were timed in one round only
    assert whole["holds"] is False
    assert listed["whole report: against the reference as shipped"]["ratio"] == pytest.approx(6850 / 950)
    drafted = listed["whole report, drafts as right as the demo model's: against the best sum of peers"]
    assert drafted["ratio"] == pytest.approx(1160 / 640)
    assert drafted["holds"] is True


@pytest.mark.parametrize("markdown", [False, True])
def test_table(figures: dict[str, Any], markdown: bool) -> None:
    lines = render(figures, markdown=markdown).splitlines()
    row = next(line for line in lines if "edge-report" in line and "4.50" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")] if markdown else row.split()
    assert cells[1:7] == ["int8", "fp16", "164", "4.50", "4.00", "36.5"]
    assert "950" in cells
    text = "\n".join(lines)
    assert "ctranslate2-int8-kv_fp32: skipped: ctranslate2 not installed" in text
    assert "does not hold" in text
    assert "not measured" in text
    assert "Read bandwidth by threads, GB/s, in the same rounds: 1: 21.0, 4: 40.0." in text
    times = (
        [
            float(line.split("|")[5])
            for line in lines
            if line.startswith("|") and line.split("|")[5:6] and line.split("|")[5].strip().replace(".", "").isdigit()
        ]
        if markdown
        else []
    )
    assert times == sorted(times)


def test_the_rounds_of_several_sessions_are_those_of_one(figures: dict[str, Any], tmp_path: Path) -> None:
    other = json.loads(json.dumps(figures))
    for peer in other["peers"]:
        if peer["name"] == "llama-q8_0-kv_fp16":
            peer["tasks"] = {"decode": {"median": 20.0, "min": 20.0, "runs": [20.0, 20.0]}}
        if peer["name"] == "ctranslate2-int8-kv_fp32":
            peer |= {"skipped": "", "tasks": {"decode": {"median": 9.0, "min": 9.0, "runs": [9.0]}}}
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, content in zip(paths, (figures, other), strict=True):
        path.write_text(json.dumps(content))
    assert cli.main(["peers", "--from", *map(str, paths), "--out", str(tmp_path / "all")]) == 0
    whole = json.loads((tmp_path / "all.json").read_text())
    tasks = {peer["name"]: peer["tasks"] for peer in whole["peers"]}
    assert tasks["llama-q8_0-kv_fp16"]["decode"] == {"median": 7.0, "min": 6.0, "runs": [7.0, 6.75, 6.0, 20.0, 20.0]}
    assert tasks["llama-q8_0-kv_fp16"]["prefill"]["runs"] == [800.0]
    assert tasks["ctranslate2-int8-kv_fp32"]["decode"]["runs"] == [9.0]
    assert whole["call"]["rounds"] == 6
    assert whole["bandwidth"]["4"]["runs"] == [40.0, 40.0]
    (mark,) = (m for m in whole["marks"] if m["what"].startswith("decode, int8 with cache fp16"))
    assert (mark["ratio"], mark["holds"]) == (pytest.approx(7.0 / 4.5), True)
    assert mark["by_round"] == pytest.approx(7.0 / 4.0)  # of 7 / 4, 6.75 / 5, 6 / 4.5, 20 / 4, 20 / 5


def test_files_from_a_recorded_run(figures: dict[str, Any], tmp_path: Path) -> None:
    source, prefix = tmp_path / "recorded.json", tmp_path / "again"
    source.write_text(json.dumps(figures))
    assert cli.main(["peers", "--from", str(source), "--out", str(prefix)]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == figures
    assert (tmp_path / "again.md").read_text() == render(figures, markdown=True)


def test_pictures(figures: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from edge_bench import roofline
    from edge_bench.peers import plot

    for draw in (plot.draw, roofline.draw):
        data = draw(figures)
        assert data.startswith(b"\x89PNG")
        assert draw({**figures, "peers": figures["peers"][:1], "best_sum": None}).startswith(b"\x89PNG")
    assert len(roofline.points(figures)) == sum("decode" in tasks for tasks in MS.values())
    source, target = tmp_path / "recorded.json", tmp_path / "roofline.png"
    source.write_text(json.dumps(figures))
    assert cli.main(["roofline", str(source), "-o", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_pictures_are_left_out_with_a_word(
    figures: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    peers_cli.write(figures, str(tmp_path / "run"))
    assert 'pip install "edge-report[bench]"' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "run.md"]
    assert cli.main(["roofline", str(tmp_path / "run.json"), "-o", str(tmp_path / "r.png")]) == 1
    assert "matplotlib is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", '{"format": "edge-bench 1"}', "[1]"])
def test_other_files_are_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    assert cli.main(["peers", "--from", str(path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["peers", "--list"]) == 0
    assert capsys.readouterr().out.split() == [variant.name for variant in VARIANTS]
    with pytest.raises(SystemExit) as refused:
        cli.main(["peers", "--only", "nobody"])
    assert refused.value.code == 1
    assert "no peer is called 'nobody'" in capsys.readouterr().err


def test_llama_bench_is_looked_for_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_BENCH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="--llama-bench PATH or \\$LLAMA_BENCH, or build it with --build-llama"):
        llama_build.find(None, tmp_path)
    with pytest.raises(Missing, match="is not a program"):
        llama_build.find(str(tmp_path / "nothing"), tmp_path)
    built = llama_build.built_at(tmp_path)
    built.parent.mkdir(parents=True)
    built.write_text("#!/bin/sh\n")
    assert llama_build.find(None, tmp_path) == built
    own = tmp_path / "own"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("LLAMA_BENCH", str(own))
    assert llama_build.find(None, tmp_path) == own
    with pytest.raises(Missing, match="holds neither"):
        llama_build.build(tmp_path / "empty", tmp_path, 1)
