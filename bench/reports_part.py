# SPDX-License-Identifier: Apache-2.0
"""Whole reports of one film, from the file to the text, with a fixed number of tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from edge.bundle import Bundle
from edge.errors import ProcessingError, UsageError

from . import machine
from .bandwidth import Measure
from .films import describe_film
from .result import Part
from .stats import median
from .traffic import screens, traffic

WARM_UP = 1
COLD_STARTS = 5
Say = Callable[[str], None]


def token_room(bundle: Bundle) -> int:
    """New tokens that fit behind the image and the begin tokens."""
    return bundle.manifest.text_room - len(bundle.manifest.generation.begin_ids)


def without_stop(bundle: Bundle, tokens: int) -> Bundle:
    """The bundle with its stop ids suppressed instead, and `tokens` as the cap: every report is equally long.

    Raises
    ------
    UsageError
        So many tokens do not fit.
    """
    room = token_room(bundle)
    if tokens > room:
        raise UsageError(f"--tokens {tokens}: at most {room} fit into this model's positions")
    old = bundle.manifest.generation
    generation = replace(
        old,
        max_new_tokens=tokens,
        stop_ids=(),
        suppressed_ids=tuple(dict.fromkeys((*old.suppressed_ids, *old.stop_ids))),
        cut_at_sentence=False,
    )
    return replace(bundle, manifest=replace(bundle.manifest, generation=generation))


def run_reports(
    folder: Path | None,
    film: Path,
    *,
    tokens: int | None,
    repeat: int,
    threads: int,
    say: Say,
    kv_dtype: str | None = None,
    draft: bool = True,
    bandwidth: Measure | None = None,
) -> Part:
    """Time reports of `film` with the bundle in `folder`.

    Parameters
    ----------
    folder
        ``None``: ``$EDGE_REPORT_BUNDLE``, else the demo bundle.
    tokens
        New tokens per report, exactly. ``None``: 100, or as many as fit.
    repeat
        Timed reports, after one that is not.
    draft
        Write several tokens per pass where they can be guessed, as ``edge-report`` does.
    kv_dtype
        Of the KV cache; default: as the engine chooses.
    bandwidth
        Measures the read bandwidth; called before and after each timed report.

    Raises
    ------
    EdgeError
        Of loading and reporting; :class:`UsageError` where `tokens` do not fit.
    """
    machine.reset_peak()
    begin = perf_counter()
    from edge.engine import Engine

    bundle = Bundle.open(folder)
    count = tokens if tokens is not None else max(2, min(100, token_room(bundle)))
    engine = Engine(without_stop(bundle, count), threads=threads, device="cpu", kv_dtype=kv_dtype, draft=draft)
    load_ms = (perf_counter() - begin) * 1e3

    runs: list[dict[str, float]] = []
    beside: list[float] = []
    for index in range(WARM_UP + repeat):
        timed = index >= WARM_UP
        before = bandwidth() if bandwidth and timed else 0.0
        report = engine.report(film)
        if len(report.token_ids) != count:
            raise ProcessingError(f"a report has {len(report.token_ids)} tokens instead of {count}")
        if timed:
            runs.append(dict(report.timings_ms))
        if bandwidth and timed:
            beside.append((before + bandwidth()) / 2)
    rss, peak = machine.resident_mb()

    manifest = bundle.manifest
    kv_dtype = engine._decoder.kv_dtype
    prompt = len(manifest.generation.begin_ids)
    return Part(
        name="reports",
        tokens=count,
        runs=runs,
        traffic=traffic(
            bundle.weights(),
            manifest.decoder,
            kv_dtype=kv_dtype,
            prefix=manifest.prefix.length,
            prompt=prompt,
            tokens=count,
            screened=screens(engine.isa),
        ),
        load_ms=load_ms,
        rss_mb=rss,
        rss_peak_mb=peak,
        isa=engine.isa,
        model={
            "name": manifest.name,
            "family": manifest.family,
            "precision": manifest.precision,
            "kv_dtype": kv_dtype,
            "prefix": manifest.prefix.length,
            "prompt": prompt,
            "bias_rows": manifest.bias.rows,
            "bundle_sha256": bundle.sha256,
            "draft": draft,
            "draft_table": manifest.draft_file is not None,
        },
        extra={
            "film": describe_film(film),
            "cold_start": cold_start(bundle, film, count, threads, min(COLD_STARTS, repeat), say),
        },
        tokens_per_pass=report.decoding["tokens_per_pass"],
        beside_gbps=beside,
    )


def cold_start(bundle: Bundle, film: Path, tokens: int, threads: int, starts: int, say: Say) -> dict[str, Any] | None:
    """Milliseconds of ``edge-report`` from the start of a fresh process to its end, files in the page cache.

    The report may stop early here: what counts is ``overhead_ms``, the time beyond the report's own.
    """
    call = [sys.executable, "-P", "-m", "edge.cli.report", str(film), "--bundle", str(bundle.path), "--quiet"]
    call += ["--format", "json", "--threads", str(threads), "--max-new-tokens", str(tokens)]
    # As a user starts it: with compiled modules, which the first start leaves behind.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    walls, overheads = [], []
    for turn in range(WARM_UP + starts):
        begin = perf_counter()
        done = subprocess.run(call, capture_output=True, text=True, env=environment)
        wall = (perf_counter() - begin) * 1e3
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [""])[-1]
            say(f"no cold start: edge-report ended with exit code {done.returncode}: {reason}")
            return None
        if turn < WARM_UP:
            continue
        walls.append(wall)
        overheads.append(wall - json.loads(done.stdout)["timings_ms"]["total"])
    return {
        "wall_ms": round(median(walls), 1),
        "overhead_ms": round(median(overheads), 1),
        "starts": len(walls),
        "wall_ms_runs": [round(wall, 1) for wall in walls],
        "overhead_ms_runs": [round(overhead, 1) for overhead in overheads],
    }
