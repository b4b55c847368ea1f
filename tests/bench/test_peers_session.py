# SPDX-License-Identifier: Apache-2.0
"""Peers take turns in processes of their own; whoever cannot run is skipped with a word, the others go on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_bench.peers.job import Job, Missing, made_once, require, time_once, time_steps
from edge_bench.peers.session import Session
from edge_bench.peers.variants import VARIANTS, Variant, choose

PEERS = """
import os, sys, time, threading
from pathlib import Path
from edge_bench.peers.job import Missing

class Steady:
    def __init__(self, job):
        self.info = {"versions": {"steady": "1"}, "pid": os.getpid()}
        if "encoder" in job.tasks:
            self.info["left_out"] = {"encoder": "quantizer not installed"}
        self.job, self.turns = job, 0

    def run(self, task):
        print("noise of a peer")
        self.turns += 1
        with open(os.path.join(self.job.cache, "order"), "a") as log:
            log.write(f"{self.job.weights}-{task} ")
        if self.job.weights == "dies" and self.turns == 2:
            sys.exit("out of memory, it says")
        if self.job.weights == "hangs" and self.turns == 2:
            time.sleep(60)
        if self.job.weights == "raises" and self.turns == 2:
            raise ValueError("no such kernel")
        return 1000.0 * self.turns

def load(job):
    if job.weights == "missing":
        raise Missing("steady not installed: pip install steady")
    if job.weights == "broken":
        raise OSError("libsteady.so is of another version")
    if job.weights == "crashes":
        os._exit(7)
    return Steady(job)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "peer.py").write_text(PEERS)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return tmp_path


def variant(weights: str, *tasks: str) -> Variant:
    return Variant("fakes.peer", "Fake", weights, "fp32", tasks or ("decode",))


def run(folder: Path, variants: list[Variant], rounds: int, limit: float = 30.0) -> tuple[Session, list[str]]:
    said: list[str] = []

    def job(v: Variant) -> Job:
        return Job(v.peer, v.weights, v.kv, threads=1, cache=str(folder), tasks=v.tasks)

    with Session(variants, job, limit=limit, say=said.append) as session:
        session.start()
        for _ in range(rounds):
            session.round()
    return session, said


def test_turns_are_interleaved(folder: Path) -> None:
    session, said = run(folder, [variant("fp32", "decode", "prefill"), variant("int8")], rounds=3)
    assert (folder / "order").read_text().split() == ["fp32-decode", "fp32-prefill", "int8-decode"] * 3
    first, second = session.entries
    assert first.runs == {"decode": [1000.0, 3000.0, 5000.0], "prefill": [2000.0, 4000.0, 6000.0]}
    assert second.runs == {"decode": [1000.0, 2000.0, 3000.0]}
    assert first.info["versions"] == {"steady": "1"}
    assert not any(entry.skipped for entry in session.entries)
    assert all("ready" in line for line in said)


def test_what_cannot_run_is_skipped_with_a_word_and_the_others_go_on(folder: Path) -> None:
    kinds = ["missing", "broken", "crashes", "dies", "raises", "fp32"]
    session, said = run(folder, [variant(kind) for kind in kinds], rounds=3)
    why = {entry.variant.weights: entry.skipped for entry in session.entries}
    assert why["missing"] == "skipped: steady not installed: pip install steady"
    assert why["broken"] == "failed: OSError: libsteady.so is of another version"
    assert why["crashes"] == "failed: its process ended with code 7"
    assert why["dies"] == "given up in decode: its process ended with code 1: out of memory, it says"
    assert why["raises"] == "failed in decode: ValueError: no such kernel"
    assert why["fp32"] == ""
    runs = {entry.variant.weights: len(entry.runs.get("decode", [])) for entry in session.entries}
    assert runs == {"missing": 0, "broken": 0, "crashes": 0, "dies": 1, "raises": 1, "fp32": 3}
    assert all(any(why[kind] in line for line in said) for kind in kinds if why[kind])


def test_a_task_that_a_peer_cannot_run_is_left_out_alone(folder: Path) -> None:
    session, said = run(folder, [variant("fp32", "decode", "encoder")], rounds=2)
    (entry,) = session.entries
    assert len(entry.runs.pop("decode")) == 2
    assert entry.runs == {}
    assert entry.left_out == {"encoder": "quantizer not installed"}
    assert not entry.skipped
    assert said[-1] == "fakes.peer-fp32-kv_fp32: without encoder: quantizer not installed"


def test_a_peer_that_hangs_is_given_up(folder: Path) -> None:
    begin = time.monotonic()
    session, _ = run(folder, [variant("hangs"), variant("fp32")], rounds=3, limit=2.0)
    assert session.entries[0].skipped == "given up in decode: no answer within 2 s"
    assert len(session.entries[1].runs["decode"]) == 3
    assert time.monotonic() - begin < 30


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_whoever_is_not_asked_is_stopped_and_nobody_is_left(folder: Path) -> None:
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def settled(pid: int) -> str:
        for _ in range(100):
            if state(pid) == "T":
                break
            time.sleep(0.02)
        return state(pid)

    with Session(
        [variant("fp32"), variant("int8")],
        lambda v: Job(v.peer, v.weights, v.kv, 1, cache=str(folder)),
        limit=30,
        say=lambda _: None,
    ) as session:
        session.start()
        pids = [entry.info["pid"] for entry in session.entries]
        assert [settled(pid) for pid in pids] == ["T", "T"]
        session.round()
        assert [settled(pid) for pid in pids] == ["T", "T"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_choose() -> None:
    assert choose(None) == list(VARIANTS)
    assert {v.peer for v in choose("llama,ours-int8")} == {"llama", "ours"}
    assert [v.name for v in choose("ours-int8")] == ["ours-int8-kv_fp16", "ours-int8-kv_int8"]
    assert [v.name for v in choose("llama-q8_0-kv_fp16")] == ["llama-q8_0-kv_fp16"]
    assert len({v.name for v in VARIANTS}) == len(VARIANTS)
    with pytest.raises(ValueError, match="no peer is called 'vllm'"):
        choose("vllm")


def test_what_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(Missing, match=r'no_such_package not installed: pip install "edge-report\[bench\]"'):
        require("json", "no_such_package")


def test_timing_helpers(tmp_path: Path) -> None:
    seen: list[int] = []
    job = Job("x", "fp32", "fp32", 1, tokens=12)
    assert time_steps(seen.append, job) >= 0
    assert seen == list(range(12))
    seen.clear()
    time_steps(lambda i: (seen.append(i), time.sleep(0.02)), Job("x", "fp32", "fp32", 1, tokens=500, seconds=0.05))
    assert 4 < len(seen) < 20
    assert time_once(lambda: time.sleep(0.01), job) >= 10

    def half(path: Path) -> None:
        path.write_text("half")
        raise KeyError

    with pytest.raises(KeyError):
        made_once(tmp_path / "a" / "file", half)
    assert list((tmp_path / "a").iterdir()) == []
    made = made_once(tmp_path / "a" / "file", lambda path: path.write_text("whole"))  # type: ignore[arg-type,return-value]
    assert made_once(made, half).read_text() == "whole"
