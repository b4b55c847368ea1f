# SPDX-License-Identifier: Apache-2.0
"""A film's whole way: from a modality to every kind of receiver."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from node_parts import Process, Setup, needs_dcmtk, reported_films, storescu, wait_for

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")


@needs_dcmtk
def test_a_film_becomes_a_report_in_the_archive(setup, pacs, films: list[Path]) -> None:
    archive = pacs()
    folder = {"name": "files", "kind": "folder", "path": str(setup.out), "objects": ["sr", "fhir", "json", "text"]}
    node = Process(setup, setup.write(deliver=[setup.to_pacs(archive.port), folder]))
    try:
        node.ready()
        echo = ["echoscu", "-aet", "MOD1", "-aec", "EDGE", "127.0.0.1", str(setup.port)]
        assert subprocess.run(echo, timeout=30).returncode == 0
        assert storescu(setup.port, *films[:3]).returncode == 0
        wait_for(lambda: len(archive.objects()) == 3 and len(list(setup.out.iterdir())) == 12)
        wait_for(lambda: setup.metric("edge_node_undelivered_results") == 0)
        assert sorted(reported_films(archive.objects())) == [f"1.2.826.0.1.3680043.8.498.{i}" for i in (1, 2, 3)]
        # The same films once more: known, and nothing new comes of them.
        assert storescu(setup.port, *films[:3]).returncode == 0
        assert setup.metric('edge_node_events_total{kind="duplicate"}') == 3
        assert setup.metric('edge_node_stage_seconds_count{stage="received_to_delivered"}') == 6
        assert len(archive.objects()) == 3
        assert setup.get("/live") == (200, "ok\n")
        assert setup.get("/elsewhere")[0] == 404
        metrics = setup.get("/metrics")[1]
    finally:
        code = node.terminate()
    assert code == 0
    lines = [json.loads(line) for line in (setup.spool / "trace.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["reported"] * 3
    assert len({line["run"] for line in lines}) == len({line["film"] for line in lines}) == 3
    assert {"dicom", "vision", "decode", "total", "wait"} <= set(lines[0]["timings_ms"])
    assert lines[0]["software"]["isa"]
    assert len(lines[0]["software_sha256"]) == len(lines[0]["bundle_sha256"]) == 64
    assert stat.S_IMODE(os.stat(setup.spool / "trace.key").st_mode) == 0o600
    said = node.log.read_text() + (setup.spool / "trace.jsonl").read_text() + metrics
    assert "SECRET" not in said
    assert "1.2.826.0.1.3680043.8.498" not in said  # no UID of a film leaves but in its objects
    assert "Traceback" not in said
    assert not list((setup.spool / "queue").iterdir())
    assert not [path for path in setup.spool.rglob("*") if path.stat().st_mode & 0o077 and path.is_file()]


def test_the_configuration_is_checked_by_the_command(setup: Setup) -> None:
    command = [sys.executable, "-P", "-m", "edge.node.cli"]
    good = subprocess.run([*command, str(setup.write()), "--check"], capture_output=True, text=True, timeout=120)
    assert (good.returncode, good.stdout) == (0, f"{setup.folder / 'node.toml'}: no errors\n")
    assert not setup.spool.exists()
    bad = setup.write(node={"port": 0, "modalities": []}, report={"bundle": "nowhere"})
    done = subprocess.run([*command, str(bad)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("to", "code", "words"), [("/dev/full", 40, "No space left"), ("pipe", 141, "")])
def test_an_answer_that_nobody_can_read_is_no_internal_error(setup: Setup, to: str, code: int, words: str) -> None:
    command = [sys.executable, "-P", "-m", "edge.node.cli", str(setup.write()), "--check"]
    read, write = os.pipe() if to == "pipe" else (-1, os.open(to, os.O_WRONLY))
    if read >= 0:
        os.close(read)
    try:
        result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write)
    assert result.returncode == code
    assert words in result.stderr
    assert "internal" not in result.stderr
    assert len(result.stderr.splitlines()) == (1 if words else 0)


def test_the_first_steps_of_the_documentation_work(setup: Setup) -> None:
    """As printed, but for the ports."""
    import shlex

    root = Path(__file__).parents[2]
    text = (root / "docs" / "node.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    commands = text.split("```sh\n")[1].split("```")[0].splitlines()
    host = 'host = "127.0.0.1"\n'
    assert example.count(host) == 1
    example = example.replace(host, f"{host}port = {setup.port}\n")
    path = setup.folder / "node.toml"
    path.write_text(f"{example}\n[health]\nport = {setup.health}\n")
    results = setup.folder / "results"
    results.mkdir()
    node = [sys.executable, "-P", "-m", "edge.node.cli", str(path)]
    check = subprocess.run([*node, "--check"], capture_output=True, text=True, timeout=120)
    assert (check.returncode, check.stdout) == (0, f"{path}: no errors\n")
    running = Process(setup, path)
    try:
        running.ready()
        assert len(commands) == 2
        for command in commands:
            program, *words = shlex.split(command.replace("11112", str(setup.port)))
            assert program == "python"
            assert subprocess.run([sys.executable, "-P", *words], cwd=root, timeout=60).returncode == 0
        wait_for(lambda: len(list(results.iterdir())) == 2, 60)
        wait_for(lambda: "a film of CR_ROOM1 was reported, " in running.log.read_text(), 60)
        assert subprocess.run([sys.executable, "-P", *words], cwd=root, timeout=60).returncode == 0
        wait_for(lambda: "a film of CR_ROOM1 came again" in running.log.read_text(), 60)
    finally:
        assert running.terminate() == 0


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"node": {"host": "1.2.3.4"}}, "[node] host: 1.2.3.4: "),
        ({"node": {"host": "no-such-host.invalid"}}, "[node] host: no-such-host.invalid: "),
        ({"node": {"host": "a" * 80}}, "[node] host: aaa"),
        ({"health": {"host": "1.2.3.4"}}, "[health] host: 1.2.3.4: "),
        ({"node": {"spool": "/proc/x"}}, "[node] spool: /proc "),
        ({"node": {"spool": "/" + "a" * 300}}, "[node] spool: /aaa"),
        ({"trace": {"path": "/nowhere/trace.jsonl"}}, "[trace] path: /nowhere/trace.jsonl "),
    ],
)
def test_what_keeps_a_node_from_starting_is_found_by_the_check(
    setup: Setup, changes: dict[str, dict[str, str]], place: str
) -> None:
    from edge.node.configfile import parse_config
    from edge.node.node import check

    config = parse_config(setup.tables(**changes), setup.folder)
    (line,) = check(config)
    assert line.startswith(place)
    assert not setup.spool.exists()


def test_the_check_tells_all_of_it_at_once_and_leaves_nothing(setup: Setup) -> None:
    from edge.node.configfile import parse_config
    from edge.node.node import check

    good = parse_config(setup.tables(), setup.folder)
    setup.spool.mkdir()
    assert check(good) == []
    assert list(setup.spool.iterdir()) == []
    (setup.spool / "trace.key").write_bytes(bytes(32))
    (setup.spool / "trace.key").chmod(0o644)
    bad = parse_config(setup.tables(node={"host": "1.2.3.4"}, health={"host": "1.2.3.4"}), setup.folder)
    assert [line.split(":")[0] for line in check(bad)] == ["[node] host", "[node] spool", "[health] host"]


@pytest.mark.parametrize("host", ["a" * 80, "no-such-host.invalid"])
def test_a_host_that_is_none_is_a_network_error(setup: Setup, host: str) -> None:
    from edge.errors import NetworkError
    from edge.node.configfile import parse_config
    from edge.node.health import Health
    from edge.node.node import Node

    with pytest.raises(NetworkError, match="port"):
        Node(parse_config(setup.tables(node={"host": host}), setup.folder))
    with pytest.raises(NetworkError, match="port"):
        Health(host, setup.health, lambda: "", lambda: "", lambda: "")


@needs_dcmtk
def test_coded_findings_reach_the_archive(tmp_path: Path, start, setup, pacs, films: list[Path]) -> None:
    """As objects beside the text reports, of a bundle that says how its findings are coded."""
    from handmade import CODING, make_bundle
    from pydicom import dcmread

    archive = pacs()
    bundle = make_bundle(tmp_path / "coded", coding=CODING)
    peer = setup.to_pacs(archive.port, objects=["sr", "sr-tid1500"])
    start(deliver=[peer], report={"bundle": str(bundle)})
    assert storescu(setup.port, films[0]).returncode == 0
    wait_for(lambda: len(archive.objects()) == 2 and setup.metric("edge_node_undelivered_results") == 0)
    classes = {str(dcmread(path, force=True).SOPClassUID).rsplit(".", 1)[-1] for path in archive.objects()}
    assert classes == {"11", "34"}  # Basic Text, Comprehensive 3D
    assert len(set(reported_films(archive.objects()))) == 1


def test_objects_that_the_model_cannot_make_are_told(setup: Setup, films: list[Path]) -> None:
    from edge.bundle import Bundle
    from edge.node.configfile import parse_config
    from edge.node.node import check, never_made

    folder = {"name": "files", "kind": "folder", "path": str(setup.out), "objects": ["sr", "sr-tid1500", "seg"]}
    config = parse_config(setup.tables(deliver=[folder]), setup.folder)
    (line,) = check(config)
    assert line == (
        "[[deliver]] files: objects: there will be no sr-tid1500: this bundle does not say how its findings are coded"
    )
    assert never_made(config, Bundle.open(None).manifest) == []  # the demo bundle can make all


def test_stopping_leaves_what_is_not_done_on_disk(start, films: list[Path]) -> None:
    from test_hostile import send

    first = start()
    first.node.worker.stop()
    assert [send(first, film) for film in films[:3]] == [0, 0, 0]
    assert first.close()
    second = start()
    second.settle()
    assert len(list(second.setup.out.iterdir())) == 3


def test_what_a_person_left_in_the_spool_stops_nothing(start, films: list[Path]) -> None:
    from test_hostile import send, works

    first = start()
    first.node.worker.stop()
    assert [send(first, film) for film in films[:4]] == [0] * 4
    folders = [film.path for film in first.spool.films()]
    first.close()
    (folders[0] / "job.json").write_text('{"received": "yesterday"}')
    (folders[1] / "job.json").write_text("[" * 100000)
    (folders[2] / "film.dcm").unlink()
    (first.spool.queue / "notes.txt").write_text("x")
    (first.spool.queue / "empty").mkdir()
    (first.spool.out / "empty").mkdir()
    second = start()
    second.settle()
    assert len(list(second.setup.out.iterdir())) == 3
    assert second.spool.counts()["dead"] == 2
    works(second, films[5])
