# SPDX-License-Identifier: Apache-2.0
"""What a session measured, as JSON: figures of every peer, the best sum of them, and the marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..stats import median, rounded
from ..traffic import mean_keys
from .gpt2 import SPEC
from .session import Entry
from .variants import CLASSES, OURS, bytes_per_token

FORMAT = "edge-bench peers 1"
SHIPPED = "shipped"
SEGMENTERS = 2
"""The model runs two; a peer times one."""
Figures = Mapping[str, Any]


def assemble(
    entries: Iterable[Entry],
    *,
    call: Mapping[str, Any],
    bandwidth: Mapping[int, Sequence[float]],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """The result of a session.

    Parameters
    ----------
    call : mapping
        ``threads``, ``prefix``, ``tokens``, ``rounds``.
    bandwidth : mapping of int to list of float
        GB/s read by so many threads, one value per round.
    """
    keys = mean_keys(call["prefix"], 0, call["tokens"])
    peers = []
    versions: dict[str, str] = {}
    for entry in entries:
        variant = entry.variant
        info = dict(entry.info)
        versions |= info.pop("versions", {})
        known = info.pop("bytes_per_token", None)
        peers.append(
            {
                "name": variant.name,
                "peer": variant.peer,
                "title": variant.title,
                "weights": variant.weights,
                "kv": variant.kv,
                "skipped": entry.skipped,
                "left_out": entry.left_out,
                "bytes_per_token": known or bytes_per_token(variant.weights, variant.kv, SPEC, keys),
                "tasks": {task: _summary(runs) for task, runs in entry.runs.items()},
                "info": info,
            }
        )
    result = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": dict(call),
        "bandwidth": {str(n): _summary(values) for n, values in bandwidth.items()},
        "peers": peers,
        "machine": {**machine, "versions": {**machine.get("versions", {}), **versions}},
    }
    result["best_sum"] = best_sum(result)
    result["marks"] = marks(result)
    return result


def _summary(runs: Sequence[float]) -> dict[str, Any]:
    return {"median": rounded(median(runs)), "min": rounded(min(runs)), "runs": [rounded(v) for v in runs]}


def value(figures: Figures, name: str, task: str) -> float | None:
    """Median milliseconds of a task; None where it was not measured."""
    for peer in figures["peers"]:
        if peer["name"] == name and task in peer["tasks"]:
            return float(peer["tasks"][task]["median"])
    return None


def fastest(figures: Figures, task: str, *, ours: bool, bits: str | None = None) -> tuple[float, str] | None:
    """Least median of a task and whose it is, among ours or among the peers."""
    found = [
        (float(peer["tasks"][task]["median"]), str(peer["name"]))
        for peer in figures["peers"]
        if task in peer["tasks"]
        and (peer["peer"] == OURS) == ours
        and peer["peer"] != SHIPPED
        and (bits is None or CLASSES[peer["weights"]] == bits)
    ]
    return min(found, default=None)


def best_sum(figures: Figures) -> dict[str, Any] | None:
    """A report put together from the fastest peer of every stage; None where a stage was not measured."""
    stages = {"encoder": 1, "segmenter": SEGMENTERS, "prefill": 1, "decode": int(figures["call"]["tokens"])}
    parts = {}
    for task, times in stages.items():
        best = fastest(figures, task, ours=False)
        if best is None:
            return None
        parts[task] = {"ms": rounded(best[0] * times), "times": times, "peer": best[1]}
    return {"ms": rounded(sum(part["ms"] for part in parts.values())), "parts": parts}


def marks(figures: Figures) -> list[dict[str, Any]]:
    """What was aimed at, and what was reached: how many times the peer's time is ours.

    ``ratio`` is of medians over all rounds. ``by_round`` is the median over the rounds of the ratio in each of them,
    which a machine that drifts from round to round troubles less.
    """
    listed = []
    runs = {(peer["name"], task): found["runs"] for peer in figures["peers"] for task, found in peer["tasks"].items()}

    def mark(
        what: str,
        asked: float,
        ours: tuple[float, str] | None,
        theirs: tuple[float, str] | None,
        task: str,
        their_runs: Sequence[float] | None = None,
    ) -> None:
        entry: dict[str, Any] = {"what": what, "asked": asked, "ratio": None, "by_round": None, "holds": None}
        if ours is not None and theirs is not None:
            ratio = theirs[0] / ours[0]
            mine, others = runs[ours[1], task], their_runs or runs[theirs[1], task]
            entry |= {"ours_ms": ours[0], "ours": ours[1], "theirs_ms": theirs[0], "theirs": theirs[1]}
            entry |= {"ratio": rounded(ratio), "holds": ratio >= asked}
            entry["by_round"] = rounded(median([b / a for a, b in zip(mine, others, strict=False)]))
        listed.append(entry)

    def pair(name: str, task: str) -> tuple[float, str] | None:
        found = value(figures, name, task)
        return None if found is None else (found, name)

    for ours, theirs in (
        ("int8-kv_fp16", "q8_0-kv_fp16"),
        ("int8-kv_int8", "q8_0-kv_q8_0"),
        ("int4-kv_fp16", "q4_0-kv_fp16"),
        ("int4-kv_int8", "q4_0-kv_q8_0"),
        ("int4-head-kv_fp16", "q4_0-kv_fp16"),
        ("int4-head-kv_int8", "q4_0-kv_q8_0"),
    ):
        what = f"decode, {ours.replace('-kv_', ' with cache ')}: against llama.cpp {theirs.replace('-kv_', ' with ')}"
        mark(what, 1.4, pair(f"{OURS}-{ours}", "decode"), pair(f"llama-{theirs}", "decode"), "decode")
    for bits in ("32", "8", "4"):
        best = (fastest(figures, "decode", ours=mine, bits=bits) for mine in (True, False))
        mark(f"decode, {bits}-bit weights: ahead of every peer", 1.0, *best, "decode")
    report, drafted = (fastest(figures, task, ours=True) for task in ("report", "report_drafted"))
    shipped, shipped_runs = pair("shipped-fp32-kv_fp32", "report"), runs.get(("shipped-fp32-kv_fp32", "report"))
    together, peers, peers_runs = best_sum(figures), None, None
    if together is not None:
        peers = together["ms"], "the fastest peer of every stage"
        lists = [[ms * part["times"] for ms in runs[part["peer"], t]] for t, part in together["parts"].items()]
        peers_runs = [sum(parts) for parts in zip(*lists, strict=False)]
    with_drafts = "whole report, drafts as right as the demo model's"
    mark("whole report: against the best sum of peers", 1.6, report, peers, "report", peers_runs)
    mark("whole report: against the reference as shipped", 10.0, report, shipped, "report", shipped_runs)
    mark(f"{with_drafts}: against the best sum of peers", 1.6, drafted, peers, "report_drafted", peers_runs)
    mark(f"{with_drafts}: against the reference", 10.0, drafted, shipped, "report_drafted", shipped_runs)
    return listed


def joined(sessions: Sequence[Figures]) -> dict[str, Any]:
    """The rounds of several sessions as those of one; what a session has left out, the others may have.

    Machine, versions and time are the last one's.
    """
    last = sessions[-1]
    peers: dict[str, dict[str, Any]] = {}
    for session in sessions:
        for peer in session["peers"]:
            tasks = dict(peers.get(peer["name"], {"tasks": {}})["tasks"])
            for task, new in peer["tasks"].items():
                before = tasks[task]["runs"] if task in tasks else []
                tasks[task] = _summary([*before, *new["runs"]])
            peers[peer["name"]] = {**peer, "tasks": tasks}
    bandwidth = {n: _summary([v for s in sessions for v in s["bandwidth"][n]["runs"]]) for n in last["bandwidth"]}
    rounds = sum(int(session["call"]["rounds"]) for session in sessions)
    result = {**last, "call": {**last["call"], "rounds": rounds}, "bandwidth": bandwidth, "peers": list(peers.values())}
    result["best_sum"] = best_sum(result)
    result["marks"] = marks(result)
    return result
