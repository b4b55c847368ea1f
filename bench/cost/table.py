# SPDX-License-Identifier: Apache-2.0
"""The figures as one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARKS = {"int8": 0.99, "int4": 0.98, "int4-head": 0.98}
"""Least share of labels that must agree with fp32."""

_COLUMNS = (
    ("weights", "weights_mb", "{:.1f}"),
    ("cache MB", "cache_mb", "{:.1f}"),
    ("ms/token", "ms_per_token", "{:.2f}"),
    ("logit NMSE", "logit_nmse", "{:.1e}"),
    ("same token", "same_token", "{:.1%}"),
    ("labels agree", "labels_agree", "{:.2%}"),
    ("macro-F1", "macro_f1", "{:.4f}"),
    ("same ids", "same_ids", "{:.1%}"),
)


def render(result: Mapping[str, Any]) -> str:
    """The text of a result of ``edge-bench cost``; a Markdown table."""
    call, machine = result["call"], result["machine"]
    titles = ["weights", "cache", "MB weights", *(title for title, _, _ in _COLUMNS[1:])]
    lines = [
        f"{machine['cpu']}, kernel {machine['isa']}, {call['threads']} threads",
        "",
        "| " + " | ".join(titles) + " |",
        "| " + " | ".join("---" for _ in titles) + " |",
    ]
    for row in result["rows"]:
        cells = [row["weights"], row["cache"]]
        cells += [form.format(row[key]) if row.get(key) is not None else "" for _, key, form in _COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Full size, random weights: {call['forced_films']} x {call['forced_rows']} rows of teacher forcing behind "
        f"{result['prefix']} image keys, against fp32 weights and cache; MB that a token reads; ms/token: median of "
        f"{call['rounds']} rounds by turns.",
    ]
    if result["bundle"]:
        lines.append(
            f"Labels: {call['films']} unseen phantoms, {result['bundle']['name']}, its decoder in each format, the "
            "vision part once for all."
        )
        if _widened(result):
            lines.append(
                "It holds int8 weights: fp32 is these, widened, so that int8 rows show what the caches cost, and the "
                "others what they cost beyond int8."
            )
        lines += [f"{verdict}" for verdict in marks(result)]
    else:
        lines.append("No labels: give a bundle of the phantom model with --bundle.")
    return "\n".join(lines) + "\n"


def _widened(result: Mapping[str, Any]) -> bool:
    return (result.get("bundle") or {}).get("precision") == "int8"


def marks(result: Mapping[str, Any]) -> list[str]:
    """Whether the formats keep the marks: the worst cache of each type of weights counts."""
    lines = []
    for weights, least in MARKS.items():
        if weights == "int8" and _widened(result):
            continue
        shares = [row["labels_agree"] for row in result["rows"] if row["weights"] == weights]
        if shares:
            word = "kept" if min(shares) >= least else "MISSED"
            lines.append(f"{weights}: at least {min(shares):.2%} of the labels agree with fp32; {least:.0%}: {word}")
    return lines
