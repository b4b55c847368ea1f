# SPDX-License-Identifier: Apache-2.0
"""What ``edge-export`` can be asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from edge.cli.numbers import whole
from edge.cli.parser import Parser

from .errors import UsageError
from .families import FAMILIES
from .progress import PROG

BIAS_KINDS = ("gaussian", "hidden", "layerwise", "gaussian_legacy")
INTENSITY_MODES = {"window": (0.5, 99.5), "minmax": (0.0, 100.0), "percentile": (0.5, 99.5)}
"""And the percentiles that the runtime takes where none are named."""
EXAMPLES = """examples:
  edge-export model.pth --out bundle --tokenizer gpt2/
  edge-export lana-folder/ --out bundle --quantize int8 --bias-rows prefill
  edge-export model.pth --out bundle --tokenizer gpt2/ --draft-corpus reports.txt
  edge-export bundle/ --draft-corpus reports.txt --out bundle --force
  edge-export --random reference random/model.safetensors --out bundle
"""


class _Parser(Parser):
    """Wrong usage is exit code 1, as everywhere in this project."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog=PROG,
        description="Turn a trained checkpoint into a bundle, checked against the PyTorch model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="state dict of the paper's code (.pth, .safetensors), a Hugging Face folder (LAnA, or a "
        "VisionEncoderDecoderModel), or a bundle that is to get a draft or a coding table",
    )
    add("--out", type=Path, metavar="DIR", help="folder to write the bundle into")
    add("--family", choices=("auto", *FAMILIES), default="auto", help="model family (default: auto)")
    add(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="tokenizer.json, or vocab.json and merges.txt (default: beside the checkpoint)",
    )
    add(
        "--quantize",
        choices=("none", "int8", "int4"),
        default="none",
        help="int8: weights of graph and decoder; int4: the decoder's in groups of 32, embedding and head in int8",
    )
    add(
        "--gpu-graph",
        action="store_true",
        help="add the vision graph in float16, which --device cuda and --device tensorrt run",
    )
    add(
        "--tensorrt-int8",
        action="store_true",
        help="with --gpu-graph: add the same with products in int8 (explicit, symmetric), which --device tensorrt runs",
    )
    add(
        "--openvino-graph",
        action="store_true",
        help="with --quantize: add the vision graph that OpenVINO runs on processors with VNNI and BF16",
    )
    add(
        "--prefill",
        choices=("graph", "kernel"),
        help="who takes the image through the decoder: the vision graph, or the decoding kernel, whose bundle holds "
        "the decoder's weights once (default: kernel with --quantize, unless --gpu-graph)",
    )
    add("--kv", choices=("fp32", "fp16", "int8"), help="type of the KV cache (default: the runtime's choice)")
    add(
        "--keep-int8",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="NAME,...",
        help="with --quantize int4: matrices that stay in int8 (mlp_out, layers.0.qkv, ...)",
    )
    add(
        "--int4-head",
        action="store_true",
        help="with --quantize int4: the embedding and the head in int4, too; a token then reads a sixth less",
    )
    add("--calibrate", type=Path, metavar="FOLDER", help="with --quantize: films on which its errors are measured, too")
    add(
        "--bias-rows",
        choices=("all", "prefill", "none"),
        default=None,
        help="rows that get the anatomical bias (default: all)",
    )
    add(
        "--bias-kind",
        choices=BIAS_KINDS,
        default=None,
        help="default: gaussian for a state dict, the folder's otherwise",
    )
    add("--bias-strength", type=float, default=None, metavar="X", help="factor on the bias")
    add(
        "--draft-corpus",
        type=Path,
        metavar="FILE",
        help="text, one report or sentence per line, in the model's phrasing (its own drafts serve best): makes the "
        "table that lets the decoder write several tokens per pass; the text stays the same",
    )
    add(
        "--coding",
        type=Path,
        metavar="JSON",
        help="how the model's findings are coded (docs/coding.md), for coded structured reports",
    )
    add("--no-mask", action="store_true", help="leave the mask out of the graph (with --bias-rows none)")
    add("--config", type=Path, metavar="JSON", help="geometry that the weights' shapes do not tell")
    add(
        "--intensity",
        type=_intensity,
        default=None,
        metavar="MODE",
        help="grey values the model was trained on: window, minmax or percentile[:LOW:HIGH], with +equalize for "
        "histogram equalisation (default: minmax+equalize)",
    )
    add("--name", default=None, help="name of the model (default: the checkpoint's)")
    add("--notice", default=None, metavar="TEXT", help="one line that every user of the bundle gets to see")
    add("--synthetic", action="store_true", help="the model was trained on synthetic pictures, or not at all")
    add(
        "--section",
        action="append",
        default=[],
        metavar="NAME=TOKEN",
        help="a token that begins a section of the report, as impression=[IMPRESSION]; tokens of such names are found "
        "by themselves (cross-attention families)",
    )
    told = parser.add_argument_group("what the decoder is told before it writes (cross-attention families)")
    told.add_argument(
        "--begin",
        metavar="TOKENS",
        help="tokens with which every text begins, as '[BOS] [FINDINGS]' (default: the folder's)",
    )
    told.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="NAME=TOKENS[:ABSENT]",
        help="a text that the model reads first (indication, prior report), the tokens that announce it, and those "
        "that stand for it where there is none; again for each",
    )
    told.add_argument(
        "--retrieved",
        type=Path,
        metavar="FILE",
        help="PromptMRG: features of retrieved reports [reports, width] for its classifier (.npy, .safetensors)",
    )
    told.add_argument(
        "--images",
        type=whole(1, 16),
        default=None,
        metavar="N",
        help="films of a study that the model looks at together, at most",
    )
    add("--force", action="store_true", help="replace a bundle that lies at --out")
    add("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_version()
    random = parser.add_argument_group("random weights of true shapes, for benchmarks")
    random.add_argument(
        "--random",
        choices=("reference", "demo", "tiny"),
        metavar="SHAPE",
        default=None,
        help="write such a CHECKPOINT first (reference, demo, tiny) where there is none",
    )
    random.add_argument("--layout", choices=("flat", "hf"), default="flat")
    random.add_argument("--seed", type=int, default=0)
    random.add_argument(
        "--pictures",
        type=int,
        choices=range(1, 6),
        metavar="N",
        help="pictures of the self-check (default: all five); fewer take less time, and are enough for noise",
    )
    random.add_argument(
        "--gpu-error",
        type=float,
        metavar="X",
        help="with --gpu-graph: squared error over squared values that float16 may have; random weights round worse",
    )
    return parser


def _intensity(text: str) -> dict[str, Any]:
    """``window``, ``minmax+equalize``, ``percentile:0.5:99.5``, ... as the manifest's section."""
    mode, plus, equalize = text.partition("+")
    mode, *limits = mode.split(":")
    fits = mode in INTENSITY_MODES and (not plus or equalize == "equalize") and (not limits or mode == "percentile")
    try:
        low, high = (float(v) for v in limits) if limits else INTENSITY_MODES.get(mode, (0.0, 0.0))
    except ValueError:
        fits, low, high = False, 0.0, 0.0
    if not fits or not 0.0 <= low < high <= 100.0:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not window, minmax or percentile[:LOW:HIGH] [+equalize]")
    return {"mode": mode, "low": low, "high": high, "equalize": bool(plus)}
