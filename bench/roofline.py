# SPDX-License-Identifier: Apache-2.0
"""Bytes per token against time per token, ours and the peers', under the read bandwidth of the same run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .peers.result import Figures

MARKERS = {"ours": "*", "llama": "o", "onnxruntime": "s", "ctranslate2": "^", "openvino": "D", "transformers": "v"}


def points(figures: Figures) -> list[tuple[float, float, dict[str, Any]]]:
    """MB per token, ms per token and the peer, of every decoder that was measured."""
    return [
        (peer["bytes_per_token"] / 1e6, peer["tasks"]["decode"]["median"], peer)
        for peer in figures["peers"]
        if "decode" in peer["tasks"]
    ]


def draw(figures: Figures) -> bytes:
    """A PNG; both axes logarithmic, so that each bandwidth is a straight line that no point should cross.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    measured = points(figures)
    if measured:
        reach = (0.8 * min(p[0] for p in measured), 1.3 * max(p[0] for p in measured))
        for threads, entry in figures["bandwidth"].items():
            speed = entry["median"]
            axes.plot(reach, [mb / speed for mb in reach], color="0.6", linewidth=0.9)
            place = (reach[0], reach[0] / speed)
            label = f"{threads} thread{'s' if threads != '1' else ''}: {speed:.0f} GB/s"
            axes.annotate(label, place, fontsize=7, color="0.4", ha="left", va="bottom", rotation=28)
    for mb, ms, peer in measured:
        own = peer["peer"] == "ours"
        marker, colour = MARKERS.get(peer["peer"], "x"), "#1f6fb4" if own else "#8a5a44"
        axes.plot([mb], [ms], marker, color=colour, markersize=11 if own else 6)
        label = f"{peer['title']} {peer['weights']}/{peer['kv']}"
        axes.annotate(label, (mb, ms), xytext=(6, 4), textcoords="offset points", fontsize=7, color=colour)
    if measured:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(0.75 * reach[0], 1.2 * reach[1])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
    axes.set_xlabel("read per token, MB (weights as stored and cached keys and values)")
    axes.set_ylabel("ms per token")
    axes.set_title(f"{figures['machine']['cpu']}, {figures['call']['threads']} threads; lines: measured read bandwidth")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
