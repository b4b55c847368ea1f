# SPDX-License-Identifier: Apache-2.0
"""One run: the engines of one model by turns, and what their figures come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from .. import machine
from ..peers.job import Job
from ..peers.session import Entry, Session
from ..peers.variants import Variant
from ..stats import median, rounded
from .inputs import SINGLE, kind_of
from .shapes import SHAPES

FORMAT = "edge-bench cross 1"
OURS = "ours"
TASKS = ("greedy", "beams")
ASKED = 2.0
"""How many times faster than the faster of PyTorch and optimum, both in float32, a report should be."""
VARIANTS = (
    Variant(OURS, "edge-report", "fp32", "", (*TASKS, SINGLE)),
    Variant(OURS, "edge-report", "int8", "", TASKS),
    Variant("transformers", "PyTorch, transformers", "fp32", "", TASKS),
    Variant("optimum", "optimum, ONNX Runtime", "fp32", "", TASKS),
)


def measure(
    shape: str,
    *,
    threads: int,
    tokens: int,
    rounds: int,
    limit: float,
    say: Callable[[str], None],
    tasks: Sequence[str] = TASKS,
) -> dict[str, Any]:
    """Load the engines, let them take turns, and gather the figures."""

    def job(variant: Variant) -> Job:
        return Job(
            peer=f"{__package__}.{variant.peer}_peer",
            weights=variant.weights,
            kv=variant.kv,
            threads=threads,
            tokens=tokens,
            tasks=variant.tasks,
            shape=shape,
        )

    busy = machine.busy_processors()
    variants = [
        replace(variant, tasks=tuple(task for task in variant.tasks if kind_of(task) in tasks)) for variant in VARIANTS
    ]
    with Session(variants, job, limit=limit, say=say) as session:
        session.start()
        for index in range(rounds):
            say(f"{shape}: round {index + 1} of {rounds}")
            session.round()
        entries = session.entries
    isa = next((entry.info["isa"] for entry in entries if "isa" in entry.info), None)
    call = {"shape": shape, "threads": threads, "tokens": tokens, "rounds": rounds, "beams": 4}
    return assemble(entries, call=call, machine={**machine.describe(isa), "busy_processors": busy})


def assemble(entries: Iterable[Entry], *, call: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a session."""
    versions: dict[str, str] = {}
    peers = []
    for entry in entries:
        info = dict(entry.info)
        versions |= info.pop("versions", {})
        tasks = {
            task: {"median": rounded(median(runs)), "min": rounded(min(runs)), "runs": [rounded(v) for v in runs]}
            for task, runs in entry.runs.items()
        }
        variant = entry.variant
        peers.append(
            {
                "name": f"{variant.peer}-{variant.weights}",
                "peer": variant.peer,
                "title": variant.title,
                "weights": variant.weights,
                "skipped": entry.skipped,
                "tasks": tasks,
                "info": info,
            }
        )
    result = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": dict(call),
        "what": SHAPES[call["shape"]]["what"],
        "peers": peers,
        "machine": {**machine, "versions": {**machine.get("versions", {}), **versions}},
    }
    result["marks"] = marks(peers)
    return result


def marks(peers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the faster of the others: how many times their time is ours, and whether the texts are the same."""
    listed = [peer for peer in peers if peer["tasks"]]
    found = []
    for ours in (peer for peer in listed if peer["peer"] == OURS):
        for task, times in ours["tasks"].items():
            theirs = kind_of(task)
            others = [p for p in listed if p["peer"] != OURS and theirs in p["tasks"]]
            if not others:
                continue
            best = min(others, key=lambda p: float(p["tasks"][theirs]["median"]))
            ratio = best["tasks"][theirs]["median"] / times["median"]
            texts = [ours["info"].get("texts", {}).get(task), best["info"].get("texts", {}).get(theirs)]
            found.append(
                {
                    "task": task,
                    "ours": ours["name"],
                    "theirs": best["name"],
                    "asked": ASKED,
                    "ratio": rounded(ratio),
                    "holds": ratio >= ASKED,
                    "same_text": texts[0] == texts[1] if ours["weights"] == "fp32" else None,
                }
            )
    return found
