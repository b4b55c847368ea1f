# SPDX-License-Identifier: Apache-2.0
"""What drafting gains on unseen phantoms: the same reports with it and without it, one after the other."""

from __future__ import annotations

import io
import os
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.decoder import Generation

BATCH = 25
"""Films drawn at a time, before they are reported: nothing of ours runs while a text is timed."""
REPEAT = 3


def compare(
    count: int, seed: int, *, bundle: Path | None = None, long_side: int = 1024, threads: int | None = None
) -> dict[str, Any]:
    """Write the reports of ``count`` unseen phantoms with drafts, with the same decoder without, and as ``--no-draft``.

    Each film is read and looked at once; then the text is written `REPEAT` times in each way, by turns, with a callback
    per token as in a report.

    Returns
    -------
    dict
        ``identical``: films whose tokens, log-probabilities, evidence and stop reason are the same every time, bit by
        bit. ``tokens_per_pass``, ``drafted``, ``accepted`` and ``passes`` over all films. ``speed_up`` and
        ``speed_up_same_threads``: decoding without drafts over that with them, with the threads that a decoder without
        drafts takes by itself, and with as many as the drafting one; each over ``all`` tokens (a film counts with the
        median of its repeats), and the ``median`` over films. ``ms_per_token`` and ``threads`` of each.
    """
    import pydicom
    from tqdm import tqdm

    import edge
    from edge.prepare import prepare
    from edge.prompt import Context, check_cap

    from .evaluate import _draw_film
    from .workers import drawing_pool

    drafting = edge.load(bundle, device="cpu", threads=threads)
    alone = edge.load(bundle, device="cpu", threads=threads, draft=False)
    manifest = drafting.manifest
    decoders = {"drafts": drafting._decoder, "same_threads": drafting._decoder, "no_draft": alone._decoder}
    options = drafting._options(
        [],
        Context(),
        max_new_tokens=check_cap(None, manifest, Context()),
        repetition_penalty=drafting._check_penalty(None),
    )
    side = int(manifest.image["height"]) // 8
    milliseconds: dict[str, list[float]] = {name: [] for name in decoders}
    totals = dict.fromkeys(("passes", "drafted", "accepted"), 0)
    identical = tokens = 0
    workers = max(1, (os.cpu_count() or 2) - 1)
    order = list(decoders)
    with drawing_pool(workers) as pool, tqdm(total=count, desc="phantoms", unit="film", leave=False) as bar:
        for begin in range(0, count, BATCH):
            batch = range(begin, min(begin + BATCH, count))
            seeds = [seed * 10000 + i for i in batch]
            films = list(pool.map(_draw_film, seeds, [long_side] * len(batch), [side] * len(batch), chunksize=2))
            for film in films:
                ready = prepare(pydicom.dcmread(io.BytesIO(film.dicom)), manifest.image)
                seen, rows, _ = drafting._look(ready.pixels, manifest.bias.rows)
                spent: dict[str, list[float]] = {name: [] for name in decoders}
                texts: dict[str, Generation] = {}
                contents = set()
                for _ in range(REPEAT):
                    order.append(order.pop(0))
                    for name in order:
                        decoder = decoders[name]
                        first_logits = seen.fill(decoder, key_bias=rows != "none")
                        texts[name] = decoder.generate(
                            first_logits,
                            options.but(bias_rows=rows, draft=name == "drafts"),
                            on_token=lambda _token, _logprob: None,
                        )
                        spent[name].append(texts[name].decode_seconds * 1e3)
                        contents.add(_content(texts[name]))
                identical += len(contents) == 1
                tokens += len(texts["drafts"].token_ids)
                for name, values in spent.items():
                    milliseconds[name].append(median(values))
                for key in totals:
                    totals[key] += getattr(texts["drafts"], key)
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
        "model": manifest.name,
        "bundle_sha256": drafting.bundle.sha256,
        "identical": identical,
        "tokens": tokens,
        **totals,
        "tokens_per_pass": 1.0 + totals["accepted"] / max(1, totals["passes"]),
        "ms_per_token": {name: sum(values) / max(1, tokens) for name, values in milliseconds.items()},
        "threads": {name: decoder.threads for name, decoder in decoders.items()},
        "speed_up": speed_up("no_draft"),
        "speed_up_same_threads": speed_up("same_threads"),
    }


def _content(text: Generation) -> tuple[Any, ...]:
    return tuple(text.token_ids), text.logprobs.tobytes(), text.evidence.tobytes(), text.stop_reason


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
