# SPDX-License-Identifier: Apache-2.0
"""The figures of all peers as a text for people, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .result import Figures

HEAD = ("engine", "weights", "cache", "MB/token", "ms/token", "min", "GB/s", "prefill", "encoder", "segmenter")
HEAD += ("vision+prefill", "report", "report, drafted")
LEFT = 3
"""Columns of words; the others hold numbers."""


def rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """One row of cells per peer that was measured, the fastest decoders first."""
    measured = [peer for peer in figures["peers"] if peer["tasks"]]

    def decode(peer: Figures) -> float:
        return float(peer["tasks"].get("decode", {}).get("median", float("inf")))

    for peer in sorted(measured, key=decode):
        tasks = peer["tasks"]

        def cell(task: str, form: str = "{:.0f}", which: str = "median", tasks: Figures = tasks) -> str:
            return form.format(tasks[task][which]) if task in tasks else ""

        traffic = rate = ""
        if "decode" in tasks:
            traffic = f"{peer['bytes_per_token'] / 1e6:.0f}"
            rate = f"{peer['bytes_per_token'] / tasks['decode']['median'] / 1e6:.1f}"
        yield (
            peer["title"],
            peer["weights"],
            peer["kv"],
            traffic,
            cell("decode", "{:.2f}"),
            cell("decode", "{:.2f}", "min"),
            rate,
            *(cell(task) for task in ("prefill", "encoder", "segmenter", "vision_prefill", "report", "report_drafted")),
        )


def render(figures: Figures, *, markdown: bool) -> str:
    """The whole text."""
    lines = [*_heading(figures), "", *table(HEAD, list(rows(figures)), LEFT, markdown)]
    together = figures["best_sum"]
    if together is not None:
        parts = ", ".join(
            f"{part['times']} x {task} {part['ms']:.0f} ({part['peer']})" for task, part in together["parts"].items()
        )
        lines += ["", f"The best sum of peers: {together['ms']:.0f} ms: {parts}."]
    lines += ["", *table(("mark", "asked", "reached", "by round", ""), list(_marks(figures)), 1, markdown)]
    words = [f"{peer['name']}: {peer['skipped']}" for peer in figures["peers"] if peer["skipped"]]
    for peer in figures["peers"]:
        words += [f"{peer['name']}: without {task}: {why}" for task, why in peer["left_out"].items()]
    if words:
        lines += ["", *(f"- {word}" if markdown else word for word in words)]
    return "\n".join(lines) + "\n"


def _heading(figures: Figures) -> Iterator[str]:
    call, machine = figures["call"], figures["machine"]
    yield (
        f"{machine['cpu']}, {machine['usable_processors']} processors, {machine['os']}; {call['threads']} threads, "
        f"{call['prefix']} cached positions and {call['tokens']} new tokens, batch 1, random weights; medians of "
        f"{call['rounds']} interleaved rounds, ms."
    )
    speeds = ", ".join(f"{n}: {entry['median']:.1f}" for n, entry in figures["bandwidth"].items())
    yield f"Read bandwidth by threads, GB/s, in the same rounds: {speeds}."
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + "."


def _marks(figures: Figures) -> Iterator[tuple[str, ...]]:
    for mark in figures["marks"]:
        asked = f"{mark['asked']:.1f}x"
        if mark["ratio"] is None:
            yield mark["what"], asked, "", "", "not measured"
        else:
            word = "holds" if mark["holds"] else "does not hold"
            yield mark["what"], asked, f"{mark['ratio']:.2f}x", f"{mark['by_round']:.2f}x", word


def table(head: Sequence[str], body: Sequence[Sequence[str]], left: int, markdown: bool) -> Iterator[str]:
    if markdown:
        yield "| " + " | ".join(head) + " |"
        yield "|" + "|".join(" --- " if i < left else " ---: " for i in range(len(head))) + "|"
        for row in body:
            yield "| " + " | ".join(row) + " |"
        return
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    for row in (head, *body):
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(cells).rstrip()
