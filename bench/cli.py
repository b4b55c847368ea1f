# SPDX-License-Identifier: Apache-2.0
"""``edge-bench``: time a model on this machine, beside the memory bandwidth that bounds it.

Nothing but argparse is imported before it is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edge.cli.numbers import whole
from edge.cli.parser import Parser
from edge.cli.streams import settle_streams

from .exits import exit_code

if TYPE_CHECKING:
    from .bandwidth import Measure
    from .result import Part

PROG = "edge-bench"
FORMAT = "edge-bench 1"
MOST_TOKENS = 1 << 20
GPU_PARTS = ("decoder", "reports", "peers")

_EPILOG = """\
Figures are medians over the runs, after one that warms up; every run writes exactly as many tokens as asked
for. Bytes per token are the weights as stored, once each, and the cached keys and values at the mean length: what one
pass over the decoder reads, also where drafts let it yield several tokens.
The read bandwidth is measured before and after every run, with as many threads and by a process of its own; the
share is the median over the runs of what a run read to what could be read beside it. Times of a busy machine say
little: edge-bench tells how busy it was before. "edge-bench peers" times other engines beside ours, and
"edge-bench roofline" draws what it measured, "edge-bench cost" prints what each format of weights and cache
costs in fidelity, "edge-bench cross" times encoder-decoders with cross-attention beside PyTorch and optimum,
"edge-bench vision" times bundles and vision runtimes by turns, "edge-bench complete" the completions of edge-review,
"edge-bench several" texts of several films at once, and "edge-bench node" loads an edge-node for minutes; all have a
--help of their own.
"""


COMMANDS = {
    "complete": (".complete", "main"),
    "cost": (".cost.cli", "main"),
    "cross": (".cross.cli", "main"),
    "node": (".node.cli", "main"),
    "peers": (".peers.cli", "main"),
    "roofline": (".peers.cli", "roofline_main"),
    "several": (".several", "main"),
    "vision": (".vision_part", "main"),
}
"""Where each of the other commands is."""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        description="Time reports or the decoder alone, beside the memory bandwidth that bounds decoding.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", metavar="DIR", help="the model (default: $EDGE_REPORT_BUNDLE, else the demo model)")
    which.add_argument(
        "--shape",
        choices=("reference", "demo"),
        help="reference: the full-size model with random weights, made once and kept in the user's cache "
        "(the decoder alone where the exporter is not installed); demo: the demo model",
    )
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: the decoder by its ways, whole reports by stage (with --shape reference at full size, too), peers "
        "and a projection, on the GPU (default: cpu)",
    )
    add(
        "--seconds",
        metavar="N",
        type=whole(10, 100_000),
        help="with --device cuda: leave out what has not begun after so many",
    )
    add(
        "--parts",
        metavar="NAMES",
        help="with --device cuda: of decoder,reports,peers (default: all)",
    )
    add("--json", metavar="PATH", help="write the figures there, whole or not at all")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add(
        "--tokens",
        metavar="N",
        type=whole(2, MOST_TOKENS),
        help="new tokens per run, exactly (default: 100, or as many as fit)",
    )
    add("--repeat", metavar="N", type=whole(1, 10000), default=10, help="timed runs (default: 10)")
    add(
        "--quantize",
        choices=("none", "int8", "int4", "int4-head"),
        help="weights of --shape reference (default: none, which is fp32); int4-head: the LM head, too",
    )
    add(
        "--kv",
        choices=("fp32", "fp16", "int8"),
        help="type of the KV cache (default: fp32 with fp32 weights, else fp16)",
    )
    add("--film", metavar="PATH", help="film to report (default: examples/*.dcm, else a drawn picture)")
    add(
        "--draft",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="several tokens per pass where they can be guessed, as edge-report does (default, but for --shape "
        "reference: its text is noise, so --draft times its decoder once more with drafts as good as the demo model's)",
    )
    add("--decoder-only", action="store_true", help="with --shape reference: leave the whole reports out")
    add("--refresh", action="store_true", help="with --shape reference: make the random weights anew")
    add(
        "--buffer-mb",
        metavar="N",
        type=whole(1, 1 << 16),
        help="size of the buffer of the bandwidth measurement (default: 1024, less where memory is short)",
    )
    parser.add_version()
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit codes as ``edge-report`` has them.

    Parameters
    ----------
    argv
        Arguments without the program's name; default ``sys.argv[1:]``.
    """
    settle_streams()
    return exit_code(PROG, lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in COMMANDS:
        module, name = COMMANDS[arguments[0]]
        command: Callable[[list[str]], int | None] = getattr(import_module(module, __package__), name)
        return command(arguments[1:]) or 0
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda":
        for name in ("quantize", "decoder_only", "refresh", "kv", "film", "buffer_mb", "threads"):
            if getattr(options, name):
                parser.error(f"--{name.replace('_', '-')} does not go with --device cuda, which measures all there is")
        parts = options.parts.split(",") if options.parts is not None else list(GPU_PARTS)
        if not set(parts) <= set(GPU_PARTS):
            parser.error(f"--parts takes some of {','.join(GPU_PARTS)}")
        options.parts = parts
    else:
        for name in ("seconds", "parts"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} goes with --device cuda only")
    if options.device == "cpu" and options.shape != "reference":
        for name in ("quantize", "decoder_only", "refresh"):
            if getattr(options, name):
                parser.error(f"--{name.replace('_', '-')} goes with --shape reference only")

    from edge.cli.output import check_target, write_stdout

    if options.json is not None:
        check_target(options.json, [options.film] if options.film else [])
    result = _run_gpu(options) if options.device == "cuda" else run(options)
    if options.json is not None:
        _write(options.json, result)
    if options.device == "cuda":
        from .gpu.summary import table as render
    else:
        from .table import render

    write_stdout(render(result))
    return 0


def _write(path: str, result: dict[str, Any]) -> None:
    import json

    from edge.cli.output import write_whole

    write_whole(path, json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")


def _run_gpu(options: argparse.Namespace) -> dict[str, Any]:
    """The file is written after every part: what is measured before a device hangs is there."""
    import os

    from .gpu.run import run as run_gpu

    def save(result: dict[str, Any]) -> None:
        if options.json is not None and (os.path.isfile(options.json) or not os.path.exists(options.json)):
            _write(options.json, result)

    return run_gpu(
        tokens=options.tokens or 100,
        repeat=options.repeat,
        bundle=options.bundle,
        full_size=options.shape == "reference",
        parts=options.parts,
        seconds=options.seconds,
        say=say,
        save=save,
    )


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(f"{PROG}: {line}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the result as it goes into the JSON file.

    Raises
    ------
    EdgeError
    """
    from datetime import UTC, datetime

    from edge.threads import check_threads

    from . import bandwidth, machine
    from .stats import rounded

    threads = check_threads(options.threads)
    busy = machine.busy_processors()
    reach = bandwidth.Bandwidth(threads, options.buffer_mb << 20 if options.buffer_mb else bandwidth.buffer_bytes())
    notes: list[str] = []
    make = _prepare(options, threads, notes)
    with reach:
        reach.measure_before()
        parts = [build(bandwidth=reach.measure_between) for build in make]
        headline = parts[0]
        reach.measure_after(headline.traffic.total)
    described = {**machine.describe(headline.isa), "busy_processors": busy}
    notes += _notes(described, headline, reach)

    gbps = reach.gbps
    rendered = {part.name: part.to_dict(gbps) for part in parts}
    top = rendered[headline.name]
    copied = ("ms_per_token", "tokens_per_s", "tokens_per_pass", "bytes_per_token", "read_gbps", "share_of_bandwidth")
    copied += ("rss_mb", "rss_peak_mb", "load_ms", "stages", "model")
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {
            "bundle": options.bundle is not None,
            "shape": options.shape,
            "quantize": options.quantize or ("none" if options.shape == "reference" else None),
            "threads": threads,
            "tokens": headline.tokens,
            "repeat": options.repeat,
            "draft": _drafts(options),
        },
        "headline": headline.name,
        **{key: top[key] for key in copied},
        "read_bandwidth_gbps": rounded(gbps),
        "bandwidth": reach.to_dict(),
        "reports": rendered.get("reports"),
        "decoder": rendered.get("decoder"),
        "notes": notes,
        "machine": described,
    }


def _prepare(options: argparse.Namespace, threads: int, notes: list[str]) -> list[Any]:
    """What to run, the headline first; what has to be made for it is made here, outside the measurement."""
    import tempfile
    from functools import partial
    from pathlib import Path

    from edge.bundle import DEMO, Bundle

    from . import reference
    from .films import choose_film

    def reports(folder: Path | None, bandwidth: Measure) -> Part:
        from .reports_part import run_reports

        with tempfile.TemporaryDirectory(prefix="edge-bench-") as work:
            film = choose_film(options.film, Path(work))
            return run_reports(
                folder,
                film,
                tokens=options.tokens,
                repeat=options.repeat,
                threads=threads,
                say=notes.append,
                draft=_drafts(options),
                kv_dtype=options.kv,
                bandwidth=bandwidth,
            )

    if options.shape != "reference":
        folder = DEMO if options.shape == "demo" else options.bundle
        path = None if folder is None else Path(folder)
        Bundle.open(path)  # what is wrong with it is told before anything is measured
        return [partial(reports, path)]

    quantize = options.quantize or "none"
    make = []
    if not options.decoder_only:
        try:
            folder = reference.reference_bundle(quantize, say, refresh=options.refresh)
            make.append(partial(reports, folder))
        except reference.ExporterMissing as error:
            say(f"the decoder alone: {error}")
            notes.append(f"no whole reports: {error}")
    reference.decoder_weights(quantize, say, refresh=options.refresh)

    def decoder(bandwidth: Measure) -> Part:
        from .decoder_part import run_decoder

        return run_decoder(
            reference.SPEC,
            partial(reference.decoder_weights, quantize, say),
            prefix=reference.PREFIX,
            tokens=options.tokens or 100,
            repeat=options.repeat,
            threads=threads,
            kv_dtype=options.kv,
            name="reference shape, random weights",
            draft=options.draft is True,
            bandwidth=bandwidth,
        )

    return [*make, decoder]


def _drafts(options: argparse.Namespace) -> bool:
    """Random weights repeat themselves, which would flatter drafts: there they are left out unless asked for."""
    return bool(options.draft) if options.draft is not None else options.shape != "reference"


def _notes(machine: dict[str, Any], part: Part, reach: Any) -> list[str]:
    """What a reader must know before comparing the figures."""
    from .machine import cache_bytes

    notes = []
    busy = machine["busy_processors"]
    if busy is not None and busy > 0.3:
        notes.append(f"{busy:.1f} processors were busy before the start: do not compare these times with others")
    low, high = min(reach.values), max(reach.values)
    if high > 1.25 * low:
        notes.append(f"the read bandwidth varied from {low:.1f} to {high:.1f} GB/s during the run")
    cache = cache_bytes(machine["l3_cache"])
    if part.traffic.total < 4 * cache:
        same = reach.to_dict()["same_size_gbps"]
        notes.append(
            f"what a token reads may stay in the L3 cache ({cache >> 20} MB), so its share of the memory's "
            f"bandwidth can pass 100 %; a buffer of that size is read at {same:.1f} GB/s"
        )
    return notes


if __name__ == "__main__":
    sys.exit(main())
