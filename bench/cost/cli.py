# SPDX-License-Identifier: Apache-2.0
"""``edge-bench cost``: one table of what each format of weights and cache costs and saves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exits import exit_code

if TYPE_CHECKING:
    from edge.bundle import Bundle

PROG = "edge-bench cost"
FORMAT = "edge-bench cost 1"

_EPILOG = """\
The left part makes random full-size weights once, in the user's cache. The labels need a bundle of the phantom model:
in fp32, as edge-phantom train leaves one, and all others are made of its decoder; or in int8, whose decoder is then
widened to fp32, and the table shows what int4 costs beyond int8.
"""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    parser = Parser(
        prog=PROG,
        description="What int8 and int4 weights and fp16 and int8 caches cost against fp32, in one table.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--bundle", metavar="DIR", help="fp32 or int8 bundle of the phantom model; without it there are no labels")
    add("--films", metavar="N", type=whole(1, 100000), default=500, help="unseen phantoms (default: 500)")
    add("--seed", metavar="N", type=whole(0, 1 << 31), default=2026, help="of the phantoms (default: 2026)")
    add("--forced-films", metavar="N", type=whole(1, 1000), default=4, help="random prefixes (default: 4)")
    add("--rows", metavar="N", type=whole(1, 1000), default=64, help="forced tokens behind each (default: 64)")
    add("--rounds", metavar="N", type=whole(1, 1000), default=5, help="timed rounds (default: 5)")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add("--json", metavar="PATH", help="write the figures there, whole or not at all")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    return exit_code(PROG, lambda: _main(options))


def _main(options: argparse.Namespace) -> None:
    from edge.cli.output import check_target, write_stdout, write_whole

    from .table import render

    if options.json is not None:
        check_target(options.json, [])
    result = run(options)
    if options.json is not None:
        import json

        write_whole(options.json, json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    write_stdout(render(result))


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(f"{PROG}: {line}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that goes into the JSON file.

    Raises
    ------
    EdgeError
    """
    from datetime import UTC, datetime

    from edge.bundle import Bundle
    from edge.decoder import isa_selected
    from edge.threads import check_threads

    from .. import machine, reference
    from .forcing import run_forcing
    from .formats import CACHES, WEIGHTS, all_formats
    from .labels import run_labels

    threads = check_threads(options.threads)
    bundle = Bundle.open(Path(options.bundle)) if options.bundle else None
    busy = machine.busy_processors()
    formats = all_formats()
    for name in [w for w in WEIGHTS if all(f.weights != w for f in formats)]:
        say(f"this kernel has no {name} weights")
    for name in [c for c in CACHES if all(f.cache != c for f in formats)]:
        say(f"this kernel has no {name} cache")
    rows: list[dict[str, Any]] = [{"weights": form.weights, "cache": form.cache} for form in formats]
    parts = [
        run_forcing(
            formats,
            films=options.forced_films,
            rows=options.rows,
            rounds=options.rounds,
            threads=threads,
            seed=reference.SEED,
            say=say,
        )
    ]
    if bundle is not None:
        films = {"films": options.films, "seed": options.seed, "threads": threads}
        parts.append(run_labels(formats, bundle.path, **films, say=say))
    for part in parts:
        for row, figures in zip(rows, part, strict=True):
            row |= figures
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {
            "films": options.films if bundle else 0,
            "seed": options.seed,
            "forced_films": options.forced_films,
            "forced_rows": options.rows,
            "rounds": options.rounds,
            "threads": threads,
        },
        "prefix": reference.PREFIX,
        "bundle": _source(bundle) if bundle else None,
        "rows": rows,
        "machine": {**machine.describe(isa_selected()), "busy_processors": busy},
    }


def _source(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {"name": manifest.name, "sha256": bundle.sha256, "precision": manifest.precision}


if __name__ == "__main__":
    sys.exit(main())
