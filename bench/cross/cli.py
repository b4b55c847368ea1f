# SPDX-License-Identifier: Apache-2.0
"""``edge-bench cross``: whole reports of encoder-decoders with cross-attention, beside PyTorch and optimum."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..exits import exit_code

PROG = "edge-bench cross"

_EPILOG = """\
Every engine has a process of its own and is stopped while others have their turn; a round is one report, greedy and
with beams, of each. All get the same film, weights and number of tokens. Drafts come from nothing but the copy in 8
bits that a float32 decoder has of itself, and are timed beside one token per pass. The models (random weights of
published sizes) are made once, in the user's cache: that needs the exporter, PyTorch and optimum
(pip install "edge-report[cpu,export,bench]").
"""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    from .run import TASKS
    from .shapes import SHAPES

    parser = Parser(prog=PROG, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--shape", choices=tuple(SHAPES), required=True, help="the model's published size")
    add("--rounds", metavar="N", type=whole(1, 1000), default=5, help="default: 5")
    add("--tokens", metavar="N", type=whole(2, 400), default=100, help="per report, exactly (default: 100)")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add("--limit", metavar="S", type=whole(1, 3600), default=120, help="seconds for one report (default: 120)")
    add("--task", choices=TASKS, help="greedy texts only, or those with 4 beams only (default: both)")
    add("--prepare", action="store_true", help="make the model in all its forms, and end")
    add("--out", metavar="PREFIX", help="write PREFIX.json and .md")
    return parser


def main(argv: list[str]) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    options = make_parser().parse_args(argv)
    try:
        return exit_code(PROG, lambda: _main(options))
    except ImportError as error:
        say(f"{error.name} is not installed: pip install 'edge-report[cpu,export,bench]'")
        return 1


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(f"{PROG}: {line}", file=sys.stderr, flush=True)


def _main(options: argparse.Namespace) -> None:
    from edge.cli.output import check_target, write_stdout
    from edge.threads import check_threads

    from .run import TASKS, measure
    from .table import render

    if options.prepare:
        prepare(options.shape, say)
        return
    if options.out is not None:
        for suffix in (".json", ".md"):
            check_target(f"{options.out}{suffix}", [])
    prepare(options.shape, say)
    figures = measure(
        options.shape,
        threads=check_threads(options.threads),
        tokens=options.tokens,
        rounds=options.rounds,
        tasks=(options.task,) if options.task else TASKS,
        limit=options.limit,
        say=say,
    )
    if options.out is not None:
        write(figures, options.out)
    write_stdout(render(figures, markdown=False))


def prepare(shape: str, say: Any) -> None:
    """All that is made once."""
    from .shapes import SHAPES, bundle, optimum_folder

    for quantize in ("none", "int8"):
        bundle(shape, quantize, say)
    if SHAPES[shape]["optimum_cache"] is not None:
        optimum_folder(shape, say)


def write(figures: dict[str, Any], prefix: str) -> None:
    """JSON and Markdown."""
    import json

    from edge.cli.output import write_whole

    from .table import render

    write_whole(f"{prefix}.json", json.dumps(figures, indent=1, allow_nan=False).encode() + b"\n")
    write_whole(f"{prefix}.md", render(figures, markdown=True).encode())
