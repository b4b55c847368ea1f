# SPDX-License-Identifier: Apache-2.0
"""``edge-bench peers``: time ours and other engines by turns; ``edge-bench roofline`` draws its figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..exits import exit_code

PROG = "edge-bench peers"

_EPILOG = """\
Every peer is loaded in a process of its own and stopped while others run; a round is one turn of every task of
every peer. Decoders get the same random weights. Peers that are not installed are skipped with a word on what to
install (pip install "edge-report[bench]"); llama.cpp is never fetched: --llama-bench, $LLAMA_BENCH, or
--build-llama with a source folder you have. Model files are made once, in the user's cache.
"""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    parser = Parser(prog=PROG, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--only", metavar="A,B", help="these peers, or variants of them, only (--list)")
    add("--list", action="store_true", help="print the names of all variants")
    add("--rounds", metavar="N", type=whole(1, 1000), default=5, help="default: 5")
    add("--quick", action="store_true", help="one round of short turns, to see that all runs")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add("--limit", metavar="S", type=whole(1, 3600), default=60, help="seconds for one turn (default: 60)")
    add("--llama-bench", metavar="PATH", help="llama.cpp's llama-bench (else $LLAMA_BENCH, the search path)")
    add("--build-llama", metavar="SOURCE", help="build llama-bench from a folder with its source, and end")
    add(
        "--from",
        dest="source",
        metavar="JSON",
        nargs="+",
        help="measure nothing: table and pictures of these figures; of several files: of all their rounds",
    )
    add("--out", metavar="PREFIX", help="write PREFIX.json, .md, .png and -roofline.png")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    parser = make_parser()
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return exit_code(PROG, lambda: _main(options, parser))


def _main(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int | None:
    from edge.cli.output import check_target, write_stdout

    from .table import render
    from .variants import VARIANTS, choose

    if options.list:
        write_stdout("".join(f"{variant.name}\n" for variant in VARIANTS))
        return 0
    if options.build_llama is not None:
        return _build(options)
    try:
        variants = choose(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.out is not None:
        for suffix in (".json", ".md", ".png", "-roofline.png"):
            check_target(f"{options.out}{suffix}", [])
    if options.source is not None:
        from .result import joined

        figures = joined([read(path) for path in options.source])
    else:
        figures = measure(options, variants)
    if options.out is not None:
        write(figures, options.out)
    write_stdout(render(figures, markdown=False))
    return 0


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(f"{PROG}: {line}", file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, variants: Any) -> dict[str, Any]:
    """Load the peers, run the rounds, and gather the figures."""
    from edge.threads import check_threads

    from .. import machine
    from ..reference import decoder_weights
    from .run import Run
    from .session import Session

    threads = check_threads(options.threads)
    decoder_weights("none", say)  # made before anything is timed
    run = Run(threads=threads, quick=options.quick, llama_bench=options.llama_bench)
    busy = machine.busy_processors()
    with Session(variants, run.job, limit=options.limit, say=say) as session:
        session.start()
        rounds = 1 if options.quick else options.rounds
        for index in range(rounds):
            say(f"round {index + 1} of {rounds}")
            run.round(session)
        return run.result(session, busy)


def read(path: str) -> dict[str, Any]:
    """Figures that were written before.

    Raises
    ------
    UsageError
    """
    import json

    from edge.errors import UsageError

    from .result import FORMAT

    try:
        figures = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{path} is not a readable JSON file") from None
    if not isinstance(figures, dict) or figures.get("format") != FORMAT:
        raise UsageError(f"{path} does not hold figures of edge-bench peers (format {FORMAT!r})")
    return figures


def write(figures: dict[str, Any], prefix: str) -> None:
    """JSON, Markdown and the pictures."""
    import json

    from edge.cli.output import write_whole

    from .table import render

    write_whole(f"{prefix}.json", json.dumps(figures, indent=1, allow_nan=False).encode() + b"\n")
    write_whole(f"{prefix}.md", render(figures, markdown=True).encode())
    try:
        from .. import roofline
        from . import plot

        write_whole(f"{prefix}.png", plot.draw(figures))
        write_whole(f"{prefix}-roofline.png", roofline.draw(figures))
    except ImportError:
        from .job import INSTALL

        say(f"no pictures: matplotlib is not installed: {INSTALL}")


def roofline_main(argv: list[str]) -> int:
    """``edge-bench roofline FIGURES.json -o PICTURE.png``."""
    from edge.cli.output import check_target, write_whole
    from edge.cli.parser import Parser

    parser = Parser(prog="edge-bench roofline", allow_abbrev=False)
    parser.add_argument("figures", help="JSON of edge-bench peers")
    parser.add_argument("-o", "--output", metavar="PNG", required=True)
    options = parser.parse_args(argv)

    def work() -> None:
        check_target(options.output, [options.figures])
        figures = read(options.figures)
        from ..roofline import draw

        write_whole(options.output, draw(figures))

    try:
        return exit_code("edge-bench roofline", work)
    except ImportError:
        from .job import INSTALL

        print(f"edge-bench roofline: matplotlib is not installed: {INSTALL}", file=sys.stderr)
        return 1


def _build(options: argparse.Namespace) -> int:
    from edge.cli.output import write_stdout
    from edge.threads import check_threads

    from ..reference import cache_folder
    from .job import Missing
    from .llama_build import build

    try:
        program = build(Path(options.build_llama), cache_folder(), check_threads(options.threads))
    except Missing as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    write_stdout(f"{program}\n")
    return 0
