# SPDX-License-Identifier: Apache-2.0
"""``edge-bench cross`` and ``edge-bench several``: what their figures come to, and that they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_bench import several
from edge_bench.cross import run, shapes, table
from edge_bench.peers.session import Entry

from edge.bundle import Bundle
from edge.errors import ProcessingError

MACHINE = {"cpu": "a processor", "versions": {"numpy": "2"}}
CALL = {"shape": "swinv2-bert", "threads": 2, "tokens": 100, "rounds": 3, "beams": 4}


def entries() -> list[Entry]:
    times = {
        "ours-fp32": (700, 900),
        "ours-int8": (300, 500),
        "transformers-fp32": (1500, 2100),
        "optimum-fp32": (900, 2700),
    }
    found = []
    for variant in run.VARIANTS:
        greedy, beams = times[f"{variant.peer}-{variant.weights}"]
        texts = {"greedy": "a", "beams": "b" if variant.weights == "fp32" else "c"}
        entry = Entry(variant, info={"versions": {variant.peer: "1"}, "texts": texts})
        entry.runs = {"greedy": [greedy - 50, greedy, greedy + 90], "beams": [beams, beams + 1, beams - 1]}
        if run.SINGLE in variant.tasks:
            entry.runs[run.SINGLE] = [1000, 800, 1200]
            texts[run.SINGLE] = "a"
        found.append(entry)
    return found


def test_marks_are_against_the_faster_of_the_others() -> None:
    figures = run.assemble(entries(), call=CALL, machine=MACHINE)
    marks = {(m["ours"], m["task"]): m for m in figures["marks"]}
    assert marks["ours-fp32", "greedy"]["theirs"] == "optimum-fp32"
    assert marks["ours-fp32", "greedy"]["ratio"] == pytest.approx(900 / 700, rel=1e-6)
    assert marks["ours-fp32", "greedy"]["holds"] is False
    assert marks["ours-fp32", "beams"]["theirs"] == "transformers-fp32"
    assert marks["ours-fp32", run.SINGLE]["theirs"] == "optimum-fp32"
    assert marks["ours-fp32", run.SINGLE]["ratio"] == pytest.approx(0.9)
    assert marks["ours-fp32", run.SINGLE]["same_text"] is True
    assert marks["ours-int8", "greedy"]["ratio"] == 3.0
    assert marks["ours-int8", "beams"]["holds"] is True
    assert marks["ours-fp32", "beams"]["same_text"] is True
    assert marks["ours-int8", "beams"]["same_text"] is None
    assert figures["machine"]["versions"] == {"numpy": "2", "ours": "1", "transformers": "1", "optimum": "1"}
    assert json.loads(json.dumps(figures)) == figures


def test_a_shape_becomes_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    decoder = {"vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    encoder = {"image_size": 56, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = {"encoder": ("dinov2", encoder), "decoder": ("gpt2", decoder), "size": 56}
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = shapes.bundle("tiny", "none")
    assert Bundle.open(made).manifest.family == "dinov2-gpt2"
    assert shapes.bundle("tiny", "none") == made
    assert capsys.readouterr().out == ""
    (shapes.folder("tiny") / "config.json").write_text("{}")
    with pytest.raises(ProcessingError, match="tiny: edge-export ended with code 31"):
        shapes.bundle("tiny", "int8")


def test_peers_that_do_not_run() -> None:
    """Without others there is nothing to compare with, and the table says why."""
    listed = entries()
    for entry in listed[2:]:
        entry.runs, entry.skipped = {}, "skipped: torch not installed"
    figures = run.assemble(listed, call=CALL, machine=MACHINE)
    assert figures["marks"] == []
    for markdown in (True, False):
        text = table.render(figures, markdown=markdown)
        assert "optimum-fp32: skipped: torch not installed" in text
        assert "edge-report" in text
    assert "| edge-report | int8 | 300 | 250 |  |  | 500 | 499 |" in table.render(figures, markdown=True)


def test_every_shape_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, shape in shapes.SHAPES.items():
        assert shape["what"]
        assert shapes.home(name).is_relative_to(tmp_path)


def test_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups of the demo model's texts, whose ids are compared."""
    monkeypatch.setattr(several, "COUNTS", (1, 2))
    monkeypatch.setattr(several, "FILMS", 2)
    path = tmp_path / "several.json"
    assert several.main(["--rounds", "1", "--threads", "1", "--json", str(path)]) == 0
    assert "texts are the same" in capsys.readouterr().out
    figures: dict[str, Any] = json.loads(path.read_text())
    assert list(figures["groups"]) == [f"{d}, {n} at once" for d in ("drafts", "no drafts") for n in (1, 2)]
    assert all(entry["tokens_per_s"]["median"] > 0 for entry in figures["groups"].values())


def test_variations() -> None:
    pixels = np.random.default_rng(0).integers(100, 900, (30, 20)).astype(np.uint16)
    films = several.variations(pixels)
    assert len(films) == several.FILMS
    assert len({film.tobytes() for film in films}) == several.FILMS
    assert all(film.dtype == np.uint16 and film.max() == 4095 for film in films)


@pytest.mark.parametrize("words", [[], ["--shape", "vit-llama"], ["--shape", "swinv2-bert", "--tokens", "1"]])
def test_wrong_usage(words: list[str]) -> None:
    from edge_bench.cli import main

    with pytest.raises(SystemExit) as end:
        main(["cross", *words])
    assert end.value.code == 1
