# SPDX-License-Identifier: Apache-2.0
"""What follows from the parts of a run on a GPU: goals, the projection, the text for people. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .projection import project, render

FORMAT = "edge-bench gpu 2"
GOALS = {
    "us_per_token fp16": 130.0, "us_per_token int8": 100.0, "report_ms": 15.0,
    "times PyTorch eager": 30.0, "times the best peer": 3.0,
}  # fmt: skip
"""Of an H100, at full size: at most the first three, at least the others, which are of the fp16 decoder."""
ON_THE_GPU = ("cuda", "tensorrt")
"""Where the vision graph of a report runs that counts for the goal."""


def complete(result: dict[str, Any]) -> dict[str, Any]:
    """The same result (in place) with what follows from its parts."""
    decoders, gpu = result["decoder"], result["gpu"] or {}
    best = min(decoders, key=lambda d: d["us_per_token"], default=None)
    texts: dict[tuple[str, str], set[str]] = {}
    for one in decoders:
        texts.setdefault((one["weights"], one["kv_dtype"]), set()).add(one.get("text", ""))
    peers = [
        peer | {"same_ids": _same(peer["ids"], result["peers"][0]["ids"])} if "ids" in peer else peer
        for peer in result["peers"]
    ]
    return result | {
        **{name: list(result[name]) for name in ("decoder", "reports", "notes")},  # which go on growing
        "peers": peers,
        "fastest_way": best["way"] if best else None,
        "ways_write_the_same": all(len(one) == 1 for one in texts.values()) if texts else None,
        "goals": GOALS,
        "reached": reached(decoders, result["peers"], result["reports"]),
        "projection": project(
            decoders,
            result["call"]["layers"],
            evidence_layers=result["call"]["evidence_layers"],
            gpu=gpu.get("name", ""),
            copy_gbps=gpu.get("copy_gbps", 0.0),
        ),
    }


def combine(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One result of several runs on the same machine, each of which had other parts."""
    if not results:
        return None
    whole: dict[str, Any] = dict(results[0])
    for other in results[1:]:
        for name in ("decoder", "peers", "reports", "notes"):
            whole[name] = [*whole[name], *other[name]]
        whole["peers_missing"] = whole["peers_missing"] | other["peers_missing"]
        whole["gpu"] = whole["gpu"] or other["gpu"]
    return complete(whole)


def reached(
    decoders: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What stands beside each of the goals; None where it was not measured."""

    def fastest(kept: str) -> float | None:
        return min((d["us_per_token"] for d in decoders if d["weights"] == kept), default=None)

    fp16 = fastest("fp16")
    eager = [peer["us_per_token"] for peer in peers if "eager" in peer["name"]]
    whole = [
        r["after_pixels_ms"]
        for r in reports
        if "after_pixels_ms" in r and r["model"].startswith("reference") and r["device"] in ON_THE_GPU
    ]
    return {
        "us_per_token fp16": fp16,
        "us_per_token int8": fastest("int8"),
        "report_ms": min(whole, default=None),
        "times PyTorch eager": round(eager[0] / fp16, 1) if eager and fp16 else None,
        "times the best peer": round(min(p["us_per_token"] for p in peers) / fp16, 1) if peers and fp16 else None,
    }


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two texts begin with alike: in float16 a near-tie may part them."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


def table(result: Mapping[str, Any]) -> str:
    """For people."""
    gpu = result["gpu"]
    lines = [
        f"{gpu['name']} (compute capability {gpu['capability']}, {gpu['processors']} multiprocessors, driver "
        f"{gpu['driver'] or 'unknown'}); device memory copied at {gpu['copy_gbps']:.0f} GB/s",
        f"decoder, {result['call']['prefix']} cached + {result['call']['tokens']} tokens, batch 1:",
    ]
    lines += [
        f"  {d['weights']:<5} cache {d['kv_dtype']:<5} {d['way']:<11} {d['us_per_token']:8.1f} us/token "
        f"{d['share_of_copy']:5.0%} of the copy bandwidth; drafted {_number(d.get('drafted', {}).get('us_per_token'))}"
        for d in result["decoder"]
    ]
    if result["ways_write_the_same"] is False:
        lines.append("  THE WAYS WRITE DIFFERENT TEXTS")
    lines += [
        f"  {peer['name']:<36} {peer['us_per_token']:8.1f} us/token, {peer['same_ids']} of {len(peer['ids'])} ids "
        "as the first peer's"
        for peer in result["peers"]
    ]
    lines += [f"  {name}: {why}" for name, why in result["peers_missing"].items()]
    for name, goal in result["goals"].items():
        bound = "at least" if name.startswith("times") else "at most"
        lines.append(f"  {name:<22} {_number(result['reached'][name]):>12}  (goal: {bound} {goal:g})")
    for report in result["reports"]:
        what = f"report, vision on {report['device']} ({report['model']}"
        if "stages_ms" not in report:
            lines.append(f"{what}): {report['failed']}")
            continue
        stages = ", ".join(f"{name} {ms:.2f}" for name, ms in report["stages_ms"].items())
        drafts = "with" if report["draft"] else "without"
        lines.append(f"{what}, {report['tokens']} tokens, {drafts} drafts), ms: {stages}")
    lines += [f"note: {note}" for note in result["notes"]]
    if result["projection"]:
        lines.append("projections, not measured:")
    return "\n".join([*lines, *render(result["projection"])]) + "\n"
