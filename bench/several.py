# SPDX-License-Identifier: Apache-2.0
"""``edge-bench several``: texts of several films in one pass over the weights, beside one after the other."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter
from typing import Any

from .exits import exit_code

PROG = "edge-bench several"
FORMAT = "edge-bench several 1"
COUNTS = (1, 2, 4, 8)
FILMS = 8
PENALTY = 1.2

_EPILOG = """\
With a bundle: eight variations of a film are reported in groups of 1, 2, 4 and 8, with drafts and without, by turns;
films per minute are of whole reports, tokens per second of the decoder alone. With --shape reference: the full-size
decoder with random weights, 1024 image keys and 100 tokens per text, without drafts.
"""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    parser = Parser(prog=PROG, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--bundle", metavar="DIR", help="the model (default: $EDGE_REPORT_BUNDLE, else the demo model)")
    add("--shape", choices=("reference",), help="the full-size decoder alone, with random weights")
    add(
        "--quantize", choices=("none", "int8", "int4", "int4-head"), default="int8", help="with --shape (default: int8)"
    )
    add("--rounds", metavar="N", type=whole(1, 1000), default=5, help="default: 5")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add("--json", metavar="PATH", help="write the figures there")
    return parser


def main(argv: list[str]) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    options = make_parser().parse_args(argv)
    return exit_code(PROG, lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    from edge.cli.output import check_target, write_stdout, write_whole
    from edge.threads import check_threads

    if options.json is not None:
        check_target(options.json, [])
    threads = check_threads(options.threads)
    figures = decoder(options, threads) if options.shape else bundle(options, threads)
    if options.json is not None:
        import json

        write_whole(options.json, json.dumps(figures, indent=1, allow_nan=False).encode() + b"\n")
    write_stdout(table(figures))


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(f"{PROG}: {line}", file=sys.stderr, flush=True)


def bundle(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Whole reports of a bundle."""
    import tempfile
    from pathlib import Path

    from edge.engine import load
    from edge.film import read_film

    from .films import choose_film

    engine = load(options.bundle, "cpu", threads)
    with tempfile.TemporaryDirectory() as work:
        film = read_film(choose_film(None, Path(work)))
    films = variations(film.pixels)
    texts = {}
    runs: dict[str, list[dict[str, float]]] = {}
    for index in range(options.rounds + 1):
        for draft in (True, False):
            for count in COUNTS:
                begin = perf_counter()
                reports = [r for r in engine.reports(films, at_once=count, force=True, draft=draft) if not _is_error(r)]
                seconds = perf_counter() - begin
                assert len(reports) == len(films)
                tokens = sum(len(r.token_ids) for r in reports)
                # The texts of a group end at different times: the longest is the group's.
                groups = [reports[at : at + count] for at in range(0, len(reports), count)]
                spent = sum(max(_decode_ms(r) for r in group) for group in groups) / 1e3
                name = f"{'drafts' if draft else 'no drafts'}, {count} at once"
                texts[name] = [list(r.token_ids) for r in reports]
                if index:
                    runs.setdefault(name, []).append(
                        {"films_per_minute": 60 * len(films) / seconds, "tokens_per_s": tokens / spent}
                    )
    model = {"name": engine.manifest.name, "precision": engine.manifest.precision, "films": len(films)}
    return _figures(engine.isa, threads, options.rounds, model, runs, _all_same(texts.values()))


def _is_error(report: Any) -> bool:
    return isinstance(report, Exception)


def _decode_ms(report: Any) -> float:
    return float(report.timings_ms["first_token"] + report.timings_ms["decode"])


def variations(pixels: Any) -> list[Any]:
    """Eight films of one: both ways round, darker and brighter. Their texts differ."""
    import numpy as np

    values = pixels.astype(np.float64)
    low, high = values.min(), values.max()
    share = (values - low) / max(1.0, high - low)
    found = []
    for gamma in (1.0, 1.3, 0.8, 1.6):
        picture = np.round(share**gamma * 4095).astype(np.uint16)
        found += [picture, picture[:, ::-1].copy()]
    return found[:FILMS]


def decoder(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """The full-size decoder alone."""
    import numpy as np

    from edge.decoder import Decoder, GenerationOptions, TextRequest

    from . import reference

    spec = reference.SPEC
    kernel = Decoder(spec, reference.decoder_weights(options.quantize, say), threads=threads)
    rng = np.random.default_rng(0)
    shape = (spec["layers"], spec["kv_heads"], reference.PREFIX, spec["head_dim"])
    firsts = []
    for lane in range(max(COUNTS)):
        keys, values = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
        kernel.set_prefix(keys, values, rng.random((shape[0], shape[2]), np.float32), lane=lane)
        firsts.append(rng.standard_normal(spec["vocab"], np.float32))
    written = GenerationOptions(max_new_tokens=100, repetition_penalty=PENALTY, draft=False)
    texts: dict[int, list[list[int]]] = {}
    runs: dict[str, list[dict[str, float]]] = {}
    for index in range(options.rounds + 1):
        for count in COUNTS:
            groups = [range(at, at + count) for at in range(0, FILMS, count)]
            begin, ids = perf_counter(), []
            for lanes in groups:
                requests = [TextRequest(lane, firsts[lane], written) for lane in lanes]
                ids += [text.token_ids for text in kernel.generate_several(requests)]
            seconds = perf_counter() - begin
            texts[count] = ids
            if index:
                tokens = sum(map(len, ids))
                runs.setdefault(f"{count} at once", []).append({"tokens_per_s": tokens / seconds})
    model = {"name": "reference shape, random weights", "precision": options.quantize, "kv_dtype": kernel.kv_dtype}
    return _figures(kernel.isa, threads, options.rounds, model, runs, _all_same(texts.values()))


def _all_same(texts: Any) -> bool:
    listed = list(texts)
    return all(other == listed[0] for other in listed)


def _figures(
    isa: str, threads: int, rounds: int, model: dict[str, Any], runs: dict[str, list[dict[str, float]]], same: bool
) -> dict[str, Any]:
    from datetime import UTC, datetime

    from . import machine
    from .stats import median, rounded

    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {"threads": threads, "rounds": rounds},
        "model": model,
        "same_texts": same,
        "groups": {
            name: {
                key: {"median": rounded(median(values)), "runs": [rounded(v) for v in values]}
                for key in listed[0]
                for values in [[run[key] for run in listed]]
            }
            for name, listed in runs.items()
        },
        "machine": machine.describe(isa),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    model, call = figures["model"], figures["call"]
    lines = [
        f"{model['name']} ({model['precision']}), {call['threads']} threads, {figures['machine']['isa']}; medians of "
        f"{call['rounds']} rounds; texts {'are the same' if figures['same_texts'] else 'DIFFER'}"
    ]
    first: dict[str, float] = {}
    for name, values in figures["groups"].items():
        cells = []
        for key, entry in values.items():
            kind = f"{name.split(',')[0] if ',' in name else ''} {key}"
            base = first.setdefault(kind, entry["median"])
            cells.append(f"{key.replace('_', ' ')} {entry['median']:8.1f} ({entry['median'] / base:.2f}x)")
        lines.append(f"{name:24}  " + "   ".join(cells))
    return "\n".join(lines) + "\n"
