# SPDX-License-Identifier: Apache-2.0
"""The configuration: defaults, and every error at once."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from node_parts import Setup, to_toml

from edge.node.config import Config, Deliver
from edge.node.configfile import ConfigError, parse_config, read_config


def problems(tables: dict[str, Any], folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(tables, folder)
    return caught.value.problems


def test_defaults_are_those_of_a_careful_node(setup: Setup) -> None:
    config = read_config(setup.write())
    assert config.node.modalities == ("MOD1",)
    assert config.node.accept == ("CR", "DX", "SC")
    assert config.health.host == "127.0.0.1"
    assert config.queue.max_films == 500
    assert config.deliver[0].objects == ("sr",)
    assert config.objects == ("sr",)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "tensorrt"])
def test_devices_are_those_of_the_engine(setup: Setup, device: str) -> None:
    assert read_config(setup.write(report={"device": device})).report.device == device


def test_the_full_example_of_the_documentation_is_right(tmp_path: Path, bundle: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "node.md").read_text()
    example = text.split("```toml\n")[2].split("```")[0]
    for name in ("bundle", "results"):
        (tmp_path / name).mkdir()
    for name in ("node.crt", "node.key", "hospital-ca.pem", "token"):
        (tmp_path / name).write_text("x")
    example = example.replace("/srv/models/chest", "bundle").replace("/srv/results", "results")
    path = tmp_path / "node.toml"
    path.write_text(example.replace("/etc/edge-node/", ""))
    config = read_config(path)
    assert {peer.kind for peer in config.deliver} == {"dicom", "stow", "folder"}


def test_the_documentation_has_every_setting_and_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "node.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `[")}
    places = {name: f"[{name}]" for name in ("node", "queue", "report", "retry", "health", "trace")}
    for name, place in {**places, "deliver": "[[deliver]]"}.items():
        kind = Deliver if name == "deliver" else type(getattr(Config(), name))
        for setting in fields(kind):
            found = re.search(rf"`{setting.name}`( \(([^)]*)\))?", rows[place])
            assert found, f"{place} {setting.name}"
            if isinstance(setting.default, (int, float)) and found[2]:
                assert found[2].startswith(f"{setting.default:g}" if setting.default < 1e5 else str(setting.default))


def test_what_is_no_configuration_is_told_what_one_is(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(b"x" * 2_000_000)
    for path in (tmp_path, tmp_path / "none.toml", tmp_path / "film.dcm"):
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        (problem,) = caught.value.problems
        assert "TOML file (docs/node.md)" in problem


def test_every_error_is_told_at_once(setup: Setup) -> None:
    tables = setup.tables(
        node={"ae_title": "A\\B", "port": "104", "modalities": [], "accpet": ["CR"], "networks": ["10.0.0.0/99"]},
        queue={"max_films": 0},
        report={"bundle": "missing", "device": "tpu", "threads": True},
        retry={"first_s": 10, "longest_s": 5},
        health={"port": 70000},
        deliver=[
            {"name": "a b", "kind": "dicom", "host": "h", "port": 1, "ae_title": "X"},
            {"name": "x", "kind": "ftp"},
            {"name": "y", "kind": "stow", "url": "ftp://server"},
            {"name": "y", "kind": "dicom", "host": "h"},
            {"name": "z", "kind": "folder", "path": str(setup.out), "objects": ["pdf"]},
            {"name": "t", "kind": "stow", "url": "http://server/studies", "token_file": __file__},
            {"name": "u", "kind": "folder", "path": "u" * 300},
            {"name": "v", "kind": "stow", "url": "https://server/studies", "token_file": "~nobody-at-all/t"},
        ],
    )
    tables["nodes"] = {}
    found = problems(tables, setup.folder)
    for words in (
        "'nodes' is unknown; did you mean node?",
        "[node] ae_title",
        "[node] port",
        "[node] modalities",
        "'accpet' is unknown; did you mean accept?",
        "[node] networks",
        "[queue] max_films",
        "[report] bundle",
        "[report] device",
        "[report] threads",
        "first_s: is longer",
        "[health] port",
        "number 1: name",
        "x: kind",
        "y: url",
        "y: port is missing",
        "y: ae_title is missing",
        "'y' is used twice",
        "z: objects",
        "t: token_file",
        "File name too long",
        "v: token_file: ~ leads to no home folder",
    ):
        assert any(words in line for line in found), (words, found)
    assert len(found) == 22


def test_no_networks_at_all_are_not_all_networks(setup: Setup) -> None:
    assert problems(setup.tables(node={"networks": []}), setup.folder) == [
        "[node] networks: must be a list of networks, not empty"
    ]


@pytest.mark.parametrize(
    "tables", [{}, {"deliver": []}, {"deliver": {}}, {"deliver": [1]}, {"node": 1, "deliver": "x"}]
)
def test_what_is_missing_or_no_table(tables: dict[str, Any], tmp_path: Path) -> None:
    found = problems(tables, tmp_path)
    assert any("[[deliver]]" in line for line in found)
    assert any("modalities is missing" in line for line in found)


@pytest.mark.parametrize("data", [b"", b"[", b"\xff\xfe", b"a = " + b"[" * 5000, b"x" * (2 << 20)])
def test_files_that_are_no_configuration(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_config(path)
    with pytest.raises(ConfigError):
        read_config(tmp_path / "nowhere.toml")


def test_results_must_not_go_into_the_spool(setup: Setup) -> None:
    (setup.spool / "out").mkdir(parents=True)
    inside = [{"name": "files", "kind": "folder", "path": str(setup.spool / "out")}]
    assert any("the spool" in line for line in problems(setup.tables(deliver=inside), setup.folder))


def test_certificates_belong_together(setup: Setup) -> None:
    key = setup.folder / "key.pem"
    key.write_text("x")
    for tls in ({"key": str(key)}, {"cert": "missing.pem", "key": str(key)}, {"pem": 1}, 3):
        assert any("[node] tls" in line for line in problems(setup.tables(node={"tls": tls}), setup.folder))


def test_relative_paths_are_relative_to_the_file(setup: Setup) -> None:
    tables = setup.tables(node={"spool": "spool"})
    path = setup.folder / "node.toml"
    path.write_text(to_toml(tables))
    assert read_config(path).node.spool == setup.folder / "spool"
