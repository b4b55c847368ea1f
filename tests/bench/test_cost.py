# SPDX-License-Identifier: Apache-2.0
"""The table of what formats cost, on small shapes and a few phantoms."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_bench import reference
from edge_bench.cost import cli, forcing
from edge_bench.cost.formats import all_formats
from edge_bench.cost.table import marks, render
from safetensors.numpy import save_file

from edge.bundle import DEMO
from edge.weights import map_safetensors

pytest.importorskip("edge_export")
SMALL = {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 2, "head_dim": 32, "mlp": 128, "vocab": 96}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**reference.SPEC, **SMALL, "max_positions": 96}
    monkeypatch.setattr(reference, "SPEC", spec)
    monkeypatch.setattr(reference, "PREFIX", 16)
    monkeypatch.setattr(reference, "decoder_weights", lambda quantize, say: reference.random_weights(spec, quantize))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo bundle with its decoder widened to float32."""
    folder = Path(shutil.copytree(DEMO, tmp_path_factory.mktemp("cost") / "wide"))
    arrays: dict[str, Any] = {}
    stored = map_safetensors(DEMO / "decoder.safetensors")
    for name, array in stored.items():
        if array.dtype == np.int8:
            arrays[name] = array * stored[f"{name}.scale"][:, None]
        elif not name.endswith(".scale"):
            arrays[name] = array.copy()
    (folder / "decoder.safetensors").unlink()
    save_file(arrays, folder / "decoder.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "decoder.safetensors").read_bytes()
    manifest["precision"] = "fp32"
    manifest["files"]["decoder.safetensors"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.usefixtures("small")
def test_the_table(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--bundle", str(wide), "--films", "2", "--forced-films", "2", "--rows", "40", "--rounds", "1"]
    target = tmp_path / "cost.json"
    assert cli.main([*call, "--threads", "1", "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    rows = {(row["weights"], row["cache"]): row for row in result["rows"]}
    assert {("fp32", "fp32"), ("int8", "fp16"), ("int4", "fp16"), ("int4-head", "fp16")} <= set(rows)
    truth = rows["fp32", "fp32"]
    assert truth["logit_nmse"] == 0
    assert truth["same_token"] == truth["labels_agree"] == truth["same_ids"] == 1
    falling = [rows[weights, "fp16"] for weights in ("fp32", "int8", "int4", "int4-head")]
    errors = [row["logit_nmse"] for row in falling]
    assert 0 < errors[0] < errors[1] < errors[2] < errors[3] < 1
    sizes = [row["weights_mb"] for row in falling]
    assert sizes[0] > sizes[1] >= sizes[2] >= sizes[3]  # rounded, and this model is small
    for row in rows.values():
        assert row["ms_per_token"] > 0
        assert 0 <= row["labels_agree"] <= 1
        assert 0 < row["macro_f1"] < 1
    assert rows["int8", "fp16"]["same_ids"] == 1  # what was widened and rounded again is as it was
    text = capsys.readouterr().out
    assert text == render(result)
    assert "int8: at least" in text


FEW = ["--films", "2", "--forced-films", "1", "--rows", "1", "--rounds", "1", "--threads", "1"]


@pytest.mark.usefixtures("small")
def test_an_int8_model_is_widened(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for folder in (DEMO, wide):
        assert cli.main(["--bundle", str(folder), *FEW, "--json", str(tmp_path / "cost.json")]) == 0
        result = json.loads((tmp_path / "cost.json").read_text())
        found.append([(row["labels_agree"], row["macro_f1"], row["same_ids"]) for row in result["rows"]])
        text = capsys.readouterr().out
        assert ("these, widened" in text) == (folder is DEMO)
        assert ("int8: at least" in text) == (folder is wide)
        assert "int4: at least" in text
    assert found[0] == found[1]


@pytest.mark.usefixtures("small")
def test_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "int4"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"precision": "int4"}))
    assert cli.main(["--bundle", str(folder), *FEW]) == 1
    assert "give an fp32 or an int8 bundle" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_without_a_bundle() -> None:
    rows = forcing.run_forcing(all_formats(), films=1, rows=8, rounds=1, threads=1, seed=0, say=lambda _: None)
    assert [row["logit_nmse"] == 0 for row in rows].count(True) == 1


def test_marks() -> None:
    rows = [{"weights": "int8", "labels_agree": 0.995}, {"weights": "int8", "labels_agree": 0.9899}]
    assert [line.rsplit(" ", 1)[1] for line in marks({"rows": rows})] == ["MISSED"]
    rows[1]["labels_agree"] = 0.99
    assert [line.rsplit(" ", 1)[1] for line in marks({"rows": rows})] == ["kept"]
