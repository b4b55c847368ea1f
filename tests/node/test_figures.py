# SPDX-License-Identifier: Apache-2.0
"""Metrics, trace, health page, schedule: what a hospital watches the node by."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from edge.errors import InputError, NetworkError, OutputError
from edge.node.health import Health
from edge.node.metrics import Metrics
from edge.node.schedule import Schedule, back_off
from edge.node.trace import Trace, find

_VALUE = r'"(?:[^"\\\n]|\\.)*"'
_LINE = re.compile(rf"[a-z_]+(\{{[a-z_]+={_VALUE}(,[a-z_]+={_VALUE})*\}})? -?[0-9.e+-]+")


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics()
    for value in range(1, 101):
        metrics.observe("vision", value / 100)
    metrics.count("received")
    metrics.refused("0xA700")
    metrics.failed("report", 'odd "kind"\\')
    metrics.gauges["edge_node_queue_films"] = lambda: 3
    text = metrics.text()
    for line in text.splitlines():
        assert line.startswith("# ") or _LINE.fullmatch(line), line
    assert 'edge_node_stage_seconds{stage="vision",quantile="0.5"} 0.51' in text
    assert 'edge_node_stage_seconds{stage="vision",quantile="0.95"} 0.96' in text
    assert 'edge_node_stage_seconds{stage="vision",quantile="0.99"} 1\n' in text
    assert 'edge_node_stage_seconds_count{stage="vision"} 100' in text
    assert "edge_node_queue_films 3" in text


def make_trace(folder: Path, **changes: object) -> Trace:
    options = {"max_bytes": 1 << 20, "keep": 2, "bundle": "ab" * 32, **changes}
    return Trace(folder / "trace.jsonl", folder / "trace.key", **options)


def test_the_trace_names_films_by_a_keyed_hash(tmp_path: Path) -> None:
    trace = make_trace(tmp_path)
    key = (tmp_path / "trace.key").read_bytes()
    assert len(key) == 32
    assert trace.name_of("1.2.3") == hmac.new(key, b"1.2.3", hashlib.sha256).hexdigest()
    assert make_trace(tmp_path).name_of("1.2.3") == trace.name_of("1.2.3")  # the key stays
    (tmp_path / "other").mkdir()
    assert make_trace(tmp_path / "other").name_of("1.2.3") != trace.name_of("1.2.3")
    os.chmod(tmp_path / "trace.key", 0o644)
    with pytest.raises(OutputError, match="chmod"):
        make_trace(tmp_path)


def test_the_trace_turns_over_and_survives_a_full_disk(tmp_path: Path) -> None:
    trace = make_trace(tmp_path, max_bytes=2000)
    for number in range(40):
        trace.write("reported", number=number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["trace.jsonl", "trace.jsonl.1", "trace.jsonl.2", "trace.key"]
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert lines[-1]["number"] == 39
    full = Trace(Path("/dev/full"), tmp_path / "trace.key", max_bytes=1000, keep=2, bundle="ab" * 32)
    full.write("reported")
    full.write("reported")


def test_a_film_is_found_in_all_files_of_the_trace(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has not been started"):
        list(find(tmp_path / "trace.jsonl", tmp_path / "trace.key", "1.2.3"))
    assert not list(tmp_path.iterdir())
    trace = make_trace(tmp_path, max_bytes=1000, keep=12)
    runs = [trace.write("skipped", film=trace.name_of(f"1.2.{number % 2}"), number=number) for number in range(30)]
    assert len(list(tmp_path.glob("trace.jsonl.*"))) > 9
    lines = [json.loads(line) for line in find(tmp_path / "trace.jsonl", tmp_path / "trace.key", "1.2.1")]
    kept = [line["number"] for line in lines]
    assert kept == list(range(kept[0], 30, 2))
    assert [line["run"] for line in lines] == runs[kept[0] :: 2]


def test_a_back_off_grows_differs_and_has_an_end() -> None:
    waits = [[back_off(tries, 1.0, 60.0) for _ in range(50)] for tries in (1, 2, 3, 50)]
    for series, whole in zip(waits, (1, 2, 4, 60), strict=True):
        assert all(whole / 2 <= wait <= whole for wait in series)
        assert len(set(series)) > 40


def test_the_schedule_keeps_order_and_puts_off() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.put("later", 0.15)
    schedule.put("first")
    schedule.put("second")
    assert [schedule.take(), schedule.take()] == ["first", "second"]
    assert schedule.take(0.01) is None
    began = time.monotonic()
    assert schedule.take() == "later"
    assert time.monotonic() - began < 0.5
    threading.Timer(0.05, schedule.close).start()
    assert schedule.take() is None


def test_the_health_page_answers_and_is_bounded() -> None:
    state = {"problem": ""}
    health = Health("127.0.0.1", 0, lambda: "", lambda: state["problem"], lambda: "m 1\n")
    health.start()
    try:
        url = f"http://127.0.0.1:{health.port}"
        assert urllib.request.urlopen(f"{url}/ready", timeout=5).read() == b"ok\n"
        assert urllib.request.urlopen(f"{url}/metrics", timeout=5).read() == b"m 1\n"
        head = urllib.request.Request(f"{url}/live", method="HEAD")
        with urllib.request.urlopen(head, timeout=5) as answer:
            assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "3", b"")
        state["problem"] = "no room: disk"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/ready", timeout=5)
        assert (caught.value.code, caught.value.read()) == (503, b"no room: disk\n")
        silent = [socket.create_connection(("127.0.0.1", health.port), timeout=5) for _ in range(24)]
        time.sleep(0.1)
        assert sum("edge" not in thread.name for thread in threading.enumerate()) < 30
        for peer in silent:
            peer.close()
        time.sleep(0.05)
        assert urllib.request.urlopen(f"{url}/live", timeout=5).status == 200
        with pytest.raises(NetworkError):
            Health("127.0.0.1", health.port, lambda: "", lambda: "", lambda: "")
    finally:
        health.close()
