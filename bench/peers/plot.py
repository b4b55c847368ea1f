# SPDX-License-Identifier: Apache-2.0
"""The figures of all peers as one picture: decode time per token, and what a whole report is made of."""

from __future__ import annotations

import io
from typing import Any

from .result import SEGMENTERS, SHIPPED, Figures, fastest
from .variants import OURS

OWN, OTHER = "#1f6fb4", "#b8b8b8"
STAGES = {"encoder": "#4c9a6a", "segmenter": "#8cc29f", "prefill": "#d9a441", "decode": "#6a6f9c"}


def draw(figures: Figures) -> bytes:
    """A PNG.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 9), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _decoders(above, figures)
    _reports(below, figures)
    call = figures["call"]
    lengths = f"{call['prefix']} + {call['tokens']} positions"
    figure.suptitle(f"{figures['machine']['cpu']}, {call['threads']} threads, {lengths}, batch 1")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _decoders(axes: Any, figures: Figures) -> None:
    measured = [peer for peer in figures["peers"] if "decode" in peer["tasks"]]
    measured.sort(key=lambda peer: -peer["tasks"]["decode"]["median"])
    names = [f"{peer['title']} {peer['weights']}, cache {peer['kv']}" for peer in measured]
    times = [peer["tasks"]["decode"]["median"] for peer in measured]
    bars = axes.barh(names, times, color=[OWN if peer["peer"] == OURS else OTHER for peer in measured])
    axes.bar_label(bars, [f"{t:.1f}" for t in times], padding=3, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.08)
    axes.set_xlabel("decode, ms per token (median)")


def _reports(axes: Any, figures: Figures) -> None:
    """Stacked stages of what a report costs; whole bars where only the whole was timed."""
    from matplotlib.patches import Patch

    times = {"encoder": 1, "segmenter": SEGMENTERS, "prefill": 1, "decode": figures["call"]["tokens"]}
    stacks: list[tuple[str, dict[str, float]]] = []
    for peer in figures["peers"]:
        tasks = peer["tasks"]
        if peer["peer"] == SHIPPED and "report" in tasks:
            stacks.append((peer["title"], {"whole": tasks["report"]["median"]}))
        elif all(task in tasks for task in times):
            label = f"{peer['title']} {peer['weights']}"
            stacks.append((label, {task: tasks[task]["median"] * n for task, n in times.items()}))
    if figures["best_sum"] is not None:
        parts = figures["best_sum"]["parts"]
        stacks.append(("the fastest peer of every stage", {task: part["ms"] for task, part in parts.items()}))
    own = fastest(figures, "report", ours=True)
    if own is not None:
        stacks.append((own[1].replace(OURS, "edge-report"), {"whole": own[0]}))
    stacks.sort(key=lambda stack: -sum(stack[1].values()))
    for name, stack in stacks:
        start = 0.0
        for task, ms in stack.items():
            colour = STAGES.get(task, OWN if name.startswith("edge-report") else OTHER)
            axes.barh(name, ms, left=start, color=colour)
            start += ms
        axes.text(start, name, f" {start:.0f}", va="center", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.08)
    axes.set_xlabel("a report of one film, ms: pixels to the last token")
    axes.legend(
        handles=[Patch(color=colour, label=task) for task, colour in STAGES.items()], fontsize=8, loc="upper right"
    )
