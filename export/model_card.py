# SPDX-License-Identifier: Apache-2.0
"""The model card of a bundle: what it is, where it came from, what it is for, and how exact it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .options import ExportOptions
from .verify import Verification


def model_card(
    manifest: dict[str, Any],
    options: ExportOptions,
    check: Verification,
    sizes: dict[str, int],
    notes: list[str],
    draft: str = "",
) -> str:
    """Markdown text.

    Parameters
    ----------
    sizes : dict
        Bytes by file name.
    notes : list of str
        What the exporter found out about the checkpoint (shared trunks, no segmenter, ...).
    draft : str
        The section on the draft table, where there is one.
    """
    image, prefix, bias = manifest["image"], manifest["prefix"], manifest["bias"]
    decoder, generation = manifest["decoder"], manifest["generation"]
    parts = [f"# {manifest['name']}", ""]
    if manifest["notice"]:
        parts += [f"**{manifest['notice'][0].upper()}{manifest['notice'][1:]}.**", ""]
    parts += ["## Intended use", "", manifest["intended_use"], "", "## Shapes", "", "| | |", "| --- | --- |"]
    rows = [
        ("family", manifest["family"]),
        ("precision", manifest["precision"]),
        ("image", f"{image['height']} x {image['width']}, intensity {image['intensity']['mode']}"),
        ("prefix", f"{prefix['length']} tokens, grid {prefix['grid'][0]} x {prefix['grid'][1]}"),
        ("anatomical bias", _bias_text(bias)),
        (
            "decoder",
            f"{decoder['layers']} layers, width {decoder['hidden']}, {decoder['heads']} heads, vocabulary "
            f"{decoder['vocab']}, {decoder['max_positions']} positions, "
            f"{'tied' if decoder['tied_head'] else 'untied'} head",
        ),
        (
            "generation",
            f"up to {generation['max_new_tokens']} tokens, repetition penalty {generation['repetition_penalty']:g}",
        ),
        ("prefill", "by the decoding kernel" if manifest.get("prefill") == "kernel" else "in the vision graph"),
        *((name, f"{size / 1e6:.1f} MB") for name, size in sizes.items()),
    ]
    parts += [f"| {name} | {value} |" for name, value in rows]
    sources = [*options.sources, *notes]
    if sources:
        parts += ["", "## Sources", "", *(f"- {line}" for line in sources)]
    parts += [
        "",
        "## Agreement with the PyTorch model",
        "",
        _check_text(manifest, check, options.int4_head),
        "",
        check.table(),
    ]
    if options.card:
        parts += ["", options.card.strip()]
    if draft:
        parts += ["", draft]
    return "\n".join(parts) + "\n"


_DRAFT_TITLE = "## Draft table"


def draft_section(arrays: Mapping[str, np.ndarray], texts: int, source: str) -> str:
    """The card's last section: what the draft table was learnt from."""
    return (
        f"{_DRAFT_TITLE}\n\n{source} {texts} texts, {len(arrays['tokens'])} contexts. "
        "It speeds writing up and has no part in what is written."
    )


def without_draft_section(card: str) -> str:
    """A card without its section on a draft table."""
    return card.split(f"\n{_DRAFT_TITLE}\n")[0]


def _bias_text(bias: dict[str, Any]) -> str:
    if bias["kind"] == "none":
        return "none"
    return f"{bias['kind']}, strength {bias['strength']:g}, rows {bias['rows']}"


def _check_text(manifest: dict[str, Any], check: Verification, int4_head: bool) -> str:
    text = (
        f"Measured when the bundle was written, on {check.images} pictures: the ONNX graph in ONNX Runtime and "
        f"the decoding kernel against the model in PyTorch float32, with greedy text of {check.tokens} tokens. "
        "NMSE is the squared error over the squared values, the worst picture counts; shares are means."
    )
    if manifest["precision"] == "int4":
        rest = "the graph's weights" if int4_head else "its embedding and head and the graph's weights"
        text += (
            f" The decoder's matrices are int4 in groups of 32 columns, {rest} int8 with one scale per output channel, "
            "activations float32: the figures below are what this quantization costs."
        )
    if manifest["precision"] == "int8":
        text += (
            " Weights are int8 with one scale per output channel, activations float32: "
            "the figures below are what this quantization costs."
        )
    return text
