# SPDX-License-Identifier: Apache-2.0
"""The figures as a text for people, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..peers.table import table
from .inputs import SINGLE

HEAD = ("engine", "weights", "greedy ms", "min", "one token per pass ms", "min", "beams ms", "min")
TASKS = ("greedy", SINGLE, "beams")
NAMES = {SINGLE: "greedy, one token per pass"}


def render(figures: Mapping[str, Any], *, markdown: bool) -> str:
    """One model."""
    lines = [*_heading(figures), "", *table(HEAD, list(_rows(figures)), 2, markdown), ""]
    lines += table(("ours", "against", "task", "reached", "asked", ""), list(_marks(figures)), 3, markdown)
    words = [f"{peer['name']}: {peer['skipped']}" for peer in figures["peers"] if peer["skipped"]]
    if words:
        lines += ["", *(f"- {word}" if markdown else word for word in words)]
    return "\n".join(lines) + "\n"


def _heading(figures: Mapping[str, Any]) -> Iterator[str]:
    call, machine = figures["call"], figures["machine"]
    yield (
        f"{call['shape']}: {figures['what']}; random weights, whole reports of {call['tokens']} tokens, greedy and "
        f"with {call['beams']} beams. {machine['cpu']}, {call['threads']} threads; medians of {call['rounds']} rounds, "
        "by turns. Ours begin with the array of a film, the others with its pixels as a tensor. A float32 "
        "decoder of ours drafts its greedy texts by a copy of itself in 8 bits; nothing else is drafted."
    )
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + "."


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for peer in figures["peers"]:
        if not peer["tasks"]:
            continue
        cells = [
            f"{peer['tasks'][task][which]:.0f}" if task in peer["tasks"] else ""
            for task in TASKS
            for which in ("median", "min")
        ]
        vision = ", vision in OpenVINO" if peer["info"].get("vision") == "openvino" else ""
        yield (peer["title"] + vision, peer["weights"], *cells)


def _marks(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for mark in figures["marks"]:
        same = {True: ", same ids", False: ", other ids", None: ""}[mark["same_text"]]
        yield (
            mark["ours"],
            mark["theirs"],
            NAMES.get(mark["task"], mark["task"]),
            f"{mark['ratio']:.2f}x",
            f"{mark['asked']:.1f}x",
            ("holds" if mark["holds"] else "does not hold") + same,
        )
