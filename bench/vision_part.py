# SPDX-License-Identifier: Apache-2.0
"""``edge-bench vision``: the vision graph (with the prefill) of bundles, by each runtime, by turns."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from .exits import exit_code

PROG = "edge-bench vision"

_EPILOG = """\
Every bundle is loaded with every runtime; a round is one film through each of them, and the figures are medians over
the rounds. Load time and resident memory come from a fresh process for each, which loads the graph and runs it once.
Runtimes that are not installed are skipped with a word.
The last column holds int8 bundles against the machine: the products of vision and prefill (counted in the graph, where
the package onnx is there) over their time, as a share of the most integers that as many threads multiplied beside them.
"""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    parser = Parser(prog=PROG, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("bundles", metavar="DIR", nargs="*", help="bundles (default: the demo model)")
    add("--shape", choices=("reference",), help="the full-size model with random weights, as edge-bench has it")
    add("--quantize", choices=("none", "int8"), action="append", help="of --shape reference (default: both)")
    add("--vision-runtime", action="append", metavar="NAME", help="ort, openvino or auto (default: ort and openvino)")
    add("--rounds", metavar="N", type=whole(1, 1000), default=7, help="default: 7")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add("--json", metavar="PATH", help="write the figures there, whole or not at all")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    return exit_code(PROG, lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    from edge.cli.output import check_target, write_stdout, write_whole

    if options.json is not None:
        check_target(options.json, [])
    result = measure(_bundles(options), options.vision_runtime, options.rounds, options.threads)
    if options.json is not None:
        write_whole(options.json, json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    write_stdout(render(result))


def _bundles(options: argparse.Namespace) -> list[Path]:
    from edge.bundle import DEMO

    from .cli import say
    from .reference import reference_bundle

    folders = [Path(folder) for folder in options.bundles]
    if options.shape == "reference":
        folders += [reference_bundle(quantize, say) for quantize in options.quantize or ("none", "int8")]
    return folders or [DEMO]


def measure(folders: list[Path], runtimes: list[str] | None, rounds: int, threads: int | None) -> dict[str, Any]:
    """Time the graphs.

    Parameters
    ----------
    folders : list of Path
        Bundles.
    runtimes : list of str or None
        None: every one that is installed.

    Raises
    ------
    EdgeError
        A runtime asked for is not installed; a bundle is damaged.
    """
    from edge._kernel import MultiplyMeter
    from edge.bundle import Bundle
    from edge.errors import MissingRuntime
    from edge.threads import check_threads
    from edge.vision import VisionSession

    from . import machine
    from .cli import say
    from .stats import median, summary

    threads = check_threads(threads)
    busy = machine.busy_processors()
    rows: list[dict[str, Any]] = []
    sessions = []
    for folder in folders:
        bundle = Bundle.open(folder)
        for runtime in runtimes or ("ort", "openvino"):
            try:
                session = VisionSession(bundle, device="cpu", threads=threads, runtime=runtime)
            except MissingRuntime as error:
                if runtimes:
                    raise
                say(f"skipped: {error}")
                continue
            sessions.append((session, _prefill(bundle, threads), _pixels(bundle), bundle.manifest.bias.rows != "none"))
            rows.append(
                {
                    "bundle": bundle.manifest.name,
                    "precision": bundle.manifest.precision,
                    "runtime": session.runtime,
                    "asked": runtime,
                    "products": _products(bundle),
                    **_alone(folder, runtime, threads),
                }
            )
    times: list[list[float]] = [[] for _ in sessions]
    meter, rates = MultiplyMeter(threads), list[float]()
    for turn in range(rounds + 1):
        rates += meter.passes(0.05)
        for (session, prefill, pixels, bias), seconds in zip(sessions, times, strict=True):
            begin = perf_counter()
            prefill(session.run(pixels, bias=bias))
            if turn:
                seconds.append((perf_counter() - begin) * 1e3)
    for row, milliseconds in zip(rows, times, strict=True):
        row["ms"] = summary(milliseconds) | {"min": round(min(milliseconds), 3)}
        counted = row["products"] and row["precision"] == "int8"
        row["share_of_products"] = (
            round(row["products"] / 1e6 / row["ms"]["p50"] / median(rates), 4) if counted else None
        )
    return {
        "format": "edge-bench vision 1",
        "rounds": rounds,
        "threads": threads,
        "busy_processors": busy,
        "products_per_s": round(median(rates) * 1e9),
        "rows": rows,
        "machine": machine.describe("-"),
    }


def render(result: dict[str, Any]) -> str:
    """The figures as text."""
    heads = f"{'ms':>8} {'min':>8} {'load ms':>8} {'resident':>9} {'peak MB':>8} {'share':>6}"
    lines = [f"{'bundle':28} {'runtime':9} {heads}"]
    for row in result["rows"]:
        name = f"{row['bundle'][:22]} {row['precision']}"
        memory = [f"{row[key]:.0f}" if row[key] is not None else "-" for key in ("rss_mb", "rss_peak_mb")]
        share = f"{row['share_of_products']:.0%}" if row["share_of_products"] else "-"
        lines.append(
            f"{name:28} {row['runtime']:9} {row['ms']['p50']:8.1f} {row['ms']['min']:8.1f} {row['load_ms']:8.0f} "
            f"{memory[0]:>9} {memory[1]:>8} {share:>6}"
        )
    most = result["products_per_s"] / 1e9
    lines.append(f"share: of the {most:.0f} billion products per second that the threads do at most")
    busy = result["busy_processors"]
    lines.append(f"{result['threads']} threads, medians of {result['rounds']} rounds; {busy} processors busy before")
    return "\n".join(lines) + "\n"


def _products(bundle: Any) -> int | None:
    """Of one film, or None where they cannot be counted."""
    from . import products

    manifest = bundle.manifest
    try:
        vision = products.of_graph(bundle.file(manifest.vision_static_file or manifest.vision_file))
    except ImportError:
        return None
    if vision is None or not manifest.kernel_prefill:
        return vision
    return vision + products.of_prefill(manifest.decoder, manifest.prefix.length)


def _prefill(bundle: Any, threads: int) -> Callable[[Any], None]:
    """What comes after the graph where the prefill is the kernel's; else nothing."""
    if not bundle.manifest.kernel_prefill:
        return lambda seen: None
    from edge.engine import _decoder

    decoder = _decoder(bundle, threads, False, None)

    def fill(seen: Any) -> None:
        seen.fill(decoder)

    return fill


def _pixels(bundle: Any) -> Any:
    import numpy as np

    image = bundle.manifest.image
    return np.random.default_rng(0).standard_normal((1, 3, image["height"], image["width"]), np.float32)


def _alone(folder: Path, runtime: str, threads: int) -> dict[str, Any]:
    """Load time and memory of a process that does nothing else."""
    from edge.errors import ProcessingError

    call = [sys.executable, "-P", "-c", "from edge_bench.vision_part import child; child()"]
    done = subprocess.run([*call, str(folder), runtime, str(threads)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ProcessingError(f"{runtime} failed on {folder.name} in a process of its own")
    return dict(json.loads(done.stdout))


def child() -> None:
    """What :func:`_alone` runs."""
    from edge.bundle import Bundle
    from edge.vision import VisionSession

    from . import machine

    bundle = Bundle.open(sys.argv[1])
    begin = perf_counter()
    session = VisionSession(bundle, device="cpu", threads=int(sys.argv[3]), runtime=sys.argv[2])
    prefill = _prefill(bundle, int(sys.argv[3]))
    load_ms = (perf_counter() - begin) * 1e3
    prefill(session.run(_pixels(bundle), bias=True))
    now, peak = machine.resident_mb()
    print(json.dumps({"load_ms": round(load_ms, 1), "rss_mb": now, "rss_peak_mb": peak}))
