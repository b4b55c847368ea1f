# SPDX-License-Identifier: Apache-2.0
"""What drafting gains on unseen phantoms: the same reports with it and without it, one after the other."""

from __future__ import annotations

import io
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.report import Report

BATCH = 25
"""Films drawn at a time, before they are reported: nothing else runs while a report is timed."""
WARM_UP = 3


def compare(
    count: int, seed: int, *, bundle: Path | None = None, long_side: int = 1024, threads: int | None = None
) -> dict[str, Any]:
    """Report ``count`` unseen phantoms with drafts, with the same decoder without, and as ``--no-draft`` does it.

    Returns
    -------
    dict
        ``identical``: reports whose tokens, log-probabilities, evidence and stop reason are the same in all three.
        ``tokens_per_pass``, ``drafted``, ``accepted`` and ``passes`` over all reports. ``speed_up`` and
        ``speed_up_same_threads``: decode stage of the reports without drafts over that with them, with the threads
        that a decoder without drafts takes by itself, and with as many as the drafting one; each over ``all`` tokens,
        and the ``median`` over films. ``ms_per_token`` and ``threads`` of each.
    """
    import pydicom
    from tqdm import tqdm

    import edge

    from .evaluate import _draw_film

    drafting = edge.load(bundle, device="cpu", threads=threads)
    alone = edge.load(bundle, device="cpu", threads=threads, draft=False)
    ways: dict[str, tuple[Engine, bool]] = {
        "drafts": (drafting, True),
        "same_threads": (drafting, False),
        "no_draft": (alone, False),
    }
    side = int(drafting.manifest.image["height"]) // 8
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    totals = dict.fromkeys(("passes", "drafted", "accepted"), 0)
    identical = tokens = 0
    workers = max(1, (os.cpu_count() or 2) - 1)
    order = list(ways)
    with ProcessPoolExecutor(workers) as pool, tqdm(total=count, desc="phantoms", unit="film", leave=False) as bar:
        for begin in range(0, count, BATCH):
            batch = range(begin, min(begin + BATCH, count))
            seeds = [seed * 10000 + i for i in batch]
            films = list(pool.map(_draw_film, seeds, [long_side] * len(batch), [side] * len(batch), chunksize=2))
            for index, film in zip(batch, films, strict=True):
                dataset = pydicom.dcmread(io.BytesIO(film.dicom))
                for _ in range(WARM_UP if index == 0 else 0):
                    for engine, draft in ways.values():
                        engine.report(dataset, draft=draft)
                order.append(order.pop(0))
                reports = {name: ways[name][0].report(dataset, draft=ways[name][1]) for name in order}
                identical += len({_content(report) for report in reports.values()}) == 1
                tokens += len(reports["drafts"].token_ids)
                for name, report in reports.items():
                    milliseconds[name].append(report.timings_ms["decode"])
                for key in totals:
                    totals[key] += reports["drafts"].decoding[key]
                bar.update()

    def speed_up(other: str) -> dict[str, float]:
        pairs = zip(milliseconds[other], milliseconds["drafts"], strict=True)
        return {
            "all": sum(milliseconds[other]) / sum(milliseconds["drafts"]),
            "median": median(slow / fast for slow, fast in pairs),
        }

    return {
        "films": count,
        "seed": seed,
        "model": drafting.manifest.name,
        "bundle_sha256": drafting.bundle.sha256,
        "identical": identical,
        "tokens": tokens,
        **totals,
        "tokens_per_pass": 1.0 + totals["accepted"] / max(1, totals["passes"]),
        "ms_per_token": {name: sum(values) / max(1, tokens - count) for name, values in milliseconds.items()},
        "threads": {name: engine._decoder.threads for name, (engine, _) in ways.items()},
        "speed_up": speed_up("no_draft"),
        "speed_up_same_threads": speed_up("same_threads"),
    }


def _content(report: Report) -> tuple[Any, ...]:
    return report.token_ids, report.logprobs, report.sentences, report.stop_reason


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    ms, threads = result["ms_per_token"], result["threads"]
    speed, same = result["speed_up"], result["speed_up_same_threads"]
    return "\n".join(
        [
            f"{result['model']}, {result['films']} unseen phantoms, {result['tokens']} tokens",
            f"identical with and without drafts (tokens, log-probabilities, evidence): {result['identical']}",
            f"tokens per pass {result['tokens_per_pass']:.3f} ({result['drafted']} drafted, {result['accepted']} "
            f"accepted, {result['passes']} passes)",
            f"decode with drafts          {ms['drafts']:.4f} ms/token, {threads['drafts']} decoder threads",
            f"decode with --no-draft      {ms['no_draft']:.4f} ms/token, {threads['no_draft']} decoder threads: "
            f"{speed['all']:.2f}x (median film {speed['median']:.2f}x)",
            f"decode, only drafts off     {ms['same_threads']:.4f} ms/token, {threads['same_threads']} decoder "
            f"threads: {same['all']:.2f}x (median film {same['median']:.2f}x)",
        ]
    )
