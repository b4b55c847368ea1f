# SPDX-License-Identifier: Apache-2.0
"""Would exact screening let the LM head be read in part? ``python -m edge_bench.head [BUNDLE]`` measures it.

Screening reads every row of the int8 head at lower precision first: its upper bits, the last ones dropped. What is
missing of a score is bounded by Cauchy and Schwarz over blocks of 64 columns, or by Hoelder, whichever is less; only
rows whose upper bound reaches the best lower bound can win, and only those are read in full. That finds the arg-max
exactly, but what the dropped bits are worth would be seen in the log-probabilities, which are part of a report. (Of a
float32 head the decoder does read 8 bits first: csrc/decoder/screen.h.)
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .exits import exit_code

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Bundle

    Floats = NDArray[np.float32]

PROG = "python -m edge_bench.head"
BLOCK = 64
DROPPED_BITS = (1, 2, 3, 4)


def states(head: Floats, logits: Floats) -> Floats:
    """The rows [n, hidden] that the head turns into these logits [n, vocab], by least squares on its first rows."""
    import numpy as np

    some = min(len(head), 2 * head.shape[1])
    solved: Floats = np.linalg.lstsq(head[:some], logits[:, :some].T, rcond=None)[0].T.astype(np.float32)
    return solved


def screen(q: NDArray[np.int8], scale: Floats, h: Floats, bits: int) -> tuple[float, float]:
    """Share of rows that survive when `bits` low bits are dropped, and bytes read over all bytes of the head."""
    import numpy as np

    low = ((q.astype(np.int16) + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1))
    high = q - low
    approximate = (h @ high.T.astype(np.float32)) * scale
    size = (len(q), -1, min(BLOCK, q.shape[1]))
    norms = np.sqrt((low.reshape(size).astype(np.float32) ** 2).sum(-1))
    cauchy = np.sqrt((h.reshape(len(h), *size[1:]) ** 2).sum(-1)) @ norms.T
    hoelder = np.abs(h).sum(1)[:, None] * np.abs(low).max(1)
    bound = np.minimum(cauchy, hoelder) * scale
    survives = approximate + bound >= (approximate - bound).max(1, keepdims=True)
    exact = (h @ q.T.astype(np.float32)) * scale
    if not survives[np.arange(len(h)), exact.argmax(1)].all():
        raise AssertionError("the bound does not hold")
    survivors = float(np.median(survives.mean(1)))
    norm_bytes = 2 * norms.shape[1]
    return survivors, ((8 - bits) / 8 * q.shape[1] + norm_bytes + survivors * bits / 8 * q.shape[1]) / q.shape[1]


def table(name: str, weights: dict[str, Any], spec: dict[str, Any], logits: Floats) -> None:
    """Print what screening would save of this head."""
    import numpy as np

    from edge.cli.output import write_stdout

    from .traffic import traffic

    key = _head(spec)
    q, scale = weights[f"{key}.weight"], weights[f"{key}.weight.scale"]
    h = states(q.astype(np.float32) * scale[:, None], logits)
    part = q.nbytes / traffic(weights, spec, kv_dtype="fp16", prefix=1024, prompt=0, tokens=100).total
    write_stdout(f"{name}: {len(h)} rows, head [{q.shape[0]}, {q.shape[1]}] int8, {part:.0%} of a token's bytes\n")
    for bits in DROPPED_BITS:
        survivors, read = screen(q, scale, h, bits)
        write_stdout(
            f"  {8 - bits} bits first: {survivors:7.2%} of the rows survive, {read:5.0%} of the head is read, "
            f"{part * (1 - read):+5.1%} of a token's bytes saved\n"
        )


def _head(spec: dict[str, Any]) -> str:
    return "embed" if spec["tied_head"] else "head"


def open_bundle(folder: str | None) -> Bundle:
    """The bundle, whose head is in int8.

    Raises
    ------
    BundleError
    UsageError
        Its head is of another precision.
    """
    from edge.bundle import Bundle
    from edge.errors import UsageError

    bundle = Bundle.open(folder)
    if bundle.weights()[f"{_head(dict(bundle.manifest.decoder))}.weight"].dtype != "int8":
        raise UsageError("the head of this bundle is not in int8, and int8 heads are what is measured here")
    return bundle


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.parser import Parser

    parser = Parser(prog=PROG, description="Would exact screening let an int8 LM head be read in part?")
    parser.add_argument(
        "bundle",
        metavar="BUNDLE",
        nargs="?",
        help="a folder, with an int8 head (default: $EDGE_REPORT_BUNDLE, else the demo model)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    options = make_parser().parse_args(argv)
    return exit_code(PROG, lambda: run(open_bundle(options.bundle)))


def say(line: str) -> None:
    """One line of progress on stderr."""
    print(f"{PROG}: {line}", file=sys.stderr, flush=True)


def run(bundle: Bundle) -> None:
    """The reference shape with random weights, and a report of a bundle."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    import numpy as np

    import edge
    from edge.decoder import Decoder

    from . import reference
    from .films import choose_film

    spec = reference.SPEC
    weights = dict(reference.decoder_weights("int8", say))
    rng = np.random.default_rng(0)
    prefix = (spec["layers"], spec["heads"], reference.PREFIX, spec["head_dim"])
    decoder = Decoder(spec, weights)
    decoder.set_prefix(rng.standard_normal(prefix, np.float32), rng.standard_normal(prefix, np.float32))
    table("reference shape, random weights", weights, spec, decoder.forward(rng.integers(0, spec["vocab"], 32), False))

    weights, spec = dict(bundle.weights()), dict(bundle.manifest.decoder)
    engine = edge.load(bundle, draft=False)
    with TemporaryDirectory() as work:
        report = engine.report(choose_film(None, Path(work)), force=True)
    engine._decoder.rewind(0)
    rows = engine._decoder.forward(report.token_ids, report.model["bias_rows"] == "all")
    table(f"{bundle.manifest.name}, a report of {len(rows)} tokens", weights, spec, rows)


if __name__ == "__main__":
    sys.exit(main())
