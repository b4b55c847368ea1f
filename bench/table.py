# SPDX-License-Identifier: Apache-2.0
"""The figures as a short text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .machine import cache_bytes

TITLES = {
    "dicom": "read film",
    "preprocess": "preprocess",
    "vision": "vision",
    "prefill": "  its prefill",
    "first_token": "first token",
    "decode": "decode",
    "total": "total",
}
WIDTH = 14


def render(result: Mapping[str, Any]) -> str:
    """The text of a result as :func:`edge_bench.cli.main` writes it to JSON."""
    lines = list(_machine(result))
    for name in ("reports", "decoder"):
        if result[name] is not None:
            lines += ["", *_part(name, result[name], result)]
    lines += ["", *(f"note: {note}" for note in result["notes"])] if result["notes"] else []
    return "\n".join(lines) + "\n"


def _machine(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    memory = machine["memory_bytes"]
    parts = [
        machine["cpu"],
        f"{machine['usable_processors']} processors",
        f"L3 {cache_bytes(machine['l3_cache']) >> 20} MB" if machine["l3_cache"] else "",
        f"{memory / 2**30:.0f} GB" if memory else "",
        machine["os"],
    ]
    yield ", ".join(part for part in parts if part)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    revision = f" ({machine['revision']})" if machine["revision"] else ""
    threads = result["call"]["threads"]
    plural = "s" if threads > 1 else ""
    yield f"{versions}{revision}, kernel {machine['isa']}, {threads} thread{plural}"
    busy = machine["busy_processors"]
    bandwidth = result["bandwidth"]
    yield (
        f"reads {bandwidth['gbps']:.1f} GB/s (from {bandwidth['min_gbps']:.1f} to {bandwidth['max_gbps']:.1f}; "
        f"{bandwidth['bytes'] >> 20} MiB)"
        + (f"; {busy:.1f} processors were busy before the start" if busy is not None else "")
    )


def _part(name: str, part: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    model, runs, tokens = part["model"], len(part["runs"]), result["call"]["tokens"]
    what = "whole reports" if name == "reports" else "decoder alone"
    yield (
        f"{what}: {model['name']}, {model['precision']} weights, {model['kv_dtype']} cache, "
        f"{model['prefix'] + model['prompt']} + {tokens} positions, {runs} run{'s' if runs != 1 else ''}"
    )
    yield ""
    yield f"{'ms':<{WIDTH}}{'p50':>10}{'p95':>10}{'p99':>10}"
    for stage, values in part["stages"].items():
        numbers = "".join(f"{values[p]:>10.2f}" for p in ("p50", "p95", "p99"))
        yield f"{TITLES.get(stage, stage):<{WIDTH}}{numbers}"
    yield ""
    yield f"{'decode':<{WIDTH}}{part['ms_per_token']:.3f} ms/token, {part['tokens_per_s']:.1f} tokens/s"
    if part["tokens_per_pass"] > 1.0:
        yield f"{'':<{WIDTH}}{part['tokens_per_pass']:.2f} tokens per pass (drafts)"
    for name, words in (("drafting", "drafts as good as the demo model's"), ("sketching", "drafts of its own sketch")):
        if drafts := part.get(name):
            yield (
                f"{'':<{WIDTH}}with {words}: {drafts['ms_per_token']:.3f} ms/token, "
                f"{drafts['tokens_per_pass']:.2f} tokens per pass, {drafts['speed_up']:.2f}x"
            )
    sizes = part["bytes"]
    yield (
        f"{'':<{WIDTH}}{part['bytes_per_token'] / 1e6:.1f} MB/token "
        f"({sizes['weights'] / 1e6:.1f} weights + {sizes['cache'] / 1e6:.1f} cache)"
    )
    yield (
        f"{'':<{WIDTH}}{part['read_gbps']:.1f} GB/s = {part['share_of_bandwidth']:.0%} "
        f"({min(part['share_of_bandwidth_runs']):.0%} to {max(part['share_of_bandwidth_runs']):.0%}) of the read "
        f"bandwidth beside each run"
    )
    if part["rss_mb"] is not None:
        yield f"{'memory':<{WIDTH}}{part['rss_mb']:.0f} MB resident, {part['rss_peak_mb']:.0f} MB at the peak"
    yield f"{'load':<{WIDTH}}{part['load_ms']:.0f} ms"
    cold = part.get("cold_start")
    if cold:
        yield (
            f"{'cold start':<{WIDTH}}{cold['wall_ms']:.0f} ms for edge-report, "
            f"{cold['overhead_ms']:.0f} ms of them beyond the report itself"
        )
