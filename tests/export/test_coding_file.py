# SPDX-License-Identifier: Apache-2.0
"""A bundle's table of coded findings, by the command: into a bundle that is there, and into a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("edge_export")

from edge_export.cli import main
from edge_export.coding import name_coding, read_coding, write_coding
from edge_export.phantom.cli import main as phantom

import edge
from edge.bundle import DEMO, Bundle


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    assert phantom(["coding", "--out", str(path)]) == 0
    return path


def test_a_bundle_gets_a_table(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In place of the one it has; the model stays as it is."""
    data = json.loads(table.read_text())
    data["findings"]["pacemaker"]["phrases"].append("icd")
    table.write_text(json.dumps(data))
    out = tmp_path / "bundle"
    assert main([str(DEMO), "--coding", str(table), "--out", str(out), "-q"]) == 0
    old, new = Bundle.open(DEMO), Bundle.open(out)
    assert new.coding_table() != old.coding_table()
    assert (out / "coding.json").read_bytes() == table.read_bytes()
    for name in set(old.manifest.files) - {"coding.json"}:
        assert new.manifest.files[name] == old.manifest.files[name]
    assert new.manifest.labels == old.manifest.labels
    assert main([str(out), "--coding", str(table), "--out", str(out), "-q"]) == 40
    assert main([str(out), "--coding", str(table), "--out", str(out), "-q", "--force"]) == 0
    assert Bundle.open(out).sha256 == new.sha256
    capsys.readouterr()


def test_a_manifest_gets_a_table(table: Path, tmp_path: Path) -> None:
    """One without label names gets those of the table; without a table nothing changes."""
    data = read_coding(table)
    manifest: dict[str, Any] = {"labels": []}
    name_coding(manifest, None)
    write_coding(tmp_path, None)
    assert manifest == {"labels": []}
    name_coding(manifest, data)
    write_coding(tmp_path, data)
    assert manifest == {"labels": list(json.loads(data)["labels"]), "coding": "coding.json"}
    assert (tmp_path / "coding.json").read_bytes() == data
    with pytest.raises(edge.UsageError, match="not one of the manifest's labels"):
        name_coding({"labels": ["other"]}, data)


@pytest.mark.slow
def test_the_command_on_a_checkpoint(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--random", "tiny", str(tmp_path / "tiny.safetensors"), "--coding", str(table)]
    assert main([*call, "--out", str(tmp_path / "bundle"), "-q"]) == 0, capsys.readouterr().err
    assert Bundle.open(tmp_path / "bundle").coding_table() is not None
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "words"),
    [("{}", "no JSON object with labels"), ('{"labels": {"cardiomegaly": {}}}', "coding"), (None, "cannot be read")],
)
def test_a_bad_table_writes_nothing(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    assert main([str(DEMO), "--coding", str(path), "--out", str(tmp_path / "bundle"), "-q"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "bundle").exists()


def test_labels_that_the_bundle_does_not_have(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text(table.read_text().replace('"pacemaker": {\n   "finding"', '"pacer": {\n   "finding"'))
    assert main([str(DEMO), "--coding", str(table), "--out", str(tmp_path / "bundle"), "-q"]) == 1
    assert "'pacer' is not one of the manifest's labels" in capsys.readouterr().err
