# SPDX-License-Identifier: Apache-2.0
"""``edge-phantom draw | train | draft | coding | evaluate``: films we draw, the model trained on them, its scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edge.cli.numbers import whole
from edge.cli.output import ClosedPipe, write_stdout
from edge.cli.parser import Parser
from edge.cli.streams import settle_streams
from edge.errors import EdgeError, OutputError, UsageError

if TYPE_CHECKING:
    from .train import Trainer

PROG = "edge-phantom"
CROSS_FAMILIES = ("gpt2-cross", "bert-cross")
MOST_FILMS = 1_000_000
MOST_THREADS = 512
MOST_SEED = (1 << 31) - 1
SIZES = (128, 12_000)
"""Long side of a film in pixels: what can be drawn and read."""


class _Parser(Parser):
    """Wrong usage is exit code 1, as everywhere in this project."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-report" / "phantoms"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG, description="Films that we draw ourselves, the demo model trained on them, and its scores."
    )
    parser.add_version()
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")

    draw = command("draw", "draw phantoms with masks, findings text and labels")
    draw.add_argument("--n", type=whole(1, MOST_FILMS), default=10, help="how many (default 10)")
    draw.add_argument("--out", type=Path, required=True, help="folder to write into")
    draw.add_argument("--seed", type=whole(0, MOST_SEED), default=0, help="others are other films (default 0)")
    draw.add_argument("--size", type=whole(*SIZES), default=2500, help="long side in pixels (default 2500)")
    draw.add_argument("--format", choices=("dicom", "png", "both"), default="both", help="of the films (default both)")

    train = command("train", "train the demo model (about two hours on four cores), or a small other")
    train.add_argument(
        "--family",
        choices=("lana", *CROSS_FAMILIES),
        default="lana",
        help="lana: the demo model; the others: a small ViT with that decoder, as a folder for edge-export",
    )
    train.add_argument("--out", type=Path, required=True, help="checkpoints, then the bundles")
    train.add_argument("--cache", type=Path, default=None, help="drawn pictures (default: the user cache)")
    train.add_argument(
        "--images", type=whole(1, MOST_FILMS), default=None, help="default 12000; 6000 for the small others"
    )
    train.add_argument("--seed", type=whole(0, MOST_SEED), default=1, help="of pictures and weights (default 1)")
    stages = ("all", "segmenter", "encoder", "devices", "decoder", "report")  # the small others have three of them
    train.add_argument("--stage", choices=stages, default="all", help="this one alone (default: all, in this order)")
    train.add_argument(
        "--steps", type=whole(1, 10_000_000), default=None, help="steps of the stage, instead of the default"
    )
    train.add_argument(
        "--workers",
        type=whole(1, MOST_THREADS),
        default=max(1, (os.cpu_count() or 2) - 1),
        help="processes that draw (default: all processors but one)",
    )
    train.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        default=os.cpu_count() or 1,
        help="of PyTorch (default: all processors)",
    )
    train.add_argument(
        "--evaluate", type=whole(1, MOST_FILMS), default=500, help="unseen phantoms to score the bundles on"
    )
    train.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto (default): a GPU if any")
    train.add_argument("--compile", action="store_true", help="torch.compile: a quarter faster, needs g++")
    train.add_argument("--draw-only", action="store_true", help="fill the cache and stop")
    train.add_argument("--no-draw", action="store_true", help="another process fills the cache")

    draft = command("draft", "give the demo bundle its draft table, from what its model writes")
    draft.add_argument("--bundle", type=Path, default=None, help="default: the demo bundle")
    draft.add_argument("--out", type=Path, required=True, help="the bundle with its table")
    draft.add_argument("--cache", type=Path, default=None, help="drawn pictures (default: the user cache)")
    draft.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        default=os.cpu_count() or 1,
        help="processes that draw, threads that report (default: all processors)",
    )
    draft.add_argument("--force", action="store_true", help="replace a bundle that lies at --out")

    coding = command("coding", "write the demo model's table of coded findings, for edge-export --coding")
    coding.add_argument("--out", type=Path, required=True, help="a JSON file")

    evaluate = command("evaluate", "report unseen phantoms and score the labels read back")
    evaluate.add_argument("--n", type=whole(1, MOST_FILMS), default=500, help="how many (default 500)")
    evaluate.add_argument("--bundle", type=Path, default=None, help="default: the demo bundle")
    evaluate.add_argument("--against", type=Path, default=None, help="a second bundle: label agreement")
    evaluate.add_argument("--seed", type=whole(0, MOST_SEED), default=2026, help="of the phantoms (default 2026)")
    evaluate.add_argument("--size", type=whole(*SIZES), default=1024, help="long side of the films in pixels")
    evaluate.add_argument(
        "--threads", type=whole(1, MOST_THREADS), default=None, help="default: 1; with --drafting all cores"
    )
    evaluate.add_argument(
        "--drafting", action="store_true", help="instead of scores: with and without drafts, tokens and decode speed"
    )
    evaluate.add_argument("--json", type=Path, default=None, help="write the scores there, whole or not at all")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    settle_streams()
    try:
        _run(_parser().parse_args(argv))
    except SystemExit as end:
        return int(end.code or 0)
    except EdgeError as error:
        hint = f"; {error.hint}" if error.hint else ""
        print(f"{PROG}: {error.kind}: {_one_line(str(error) + hint)}", file=sys.stderr)
        return error.exit_code
    except ClosedPipe:
        return 141
    except OSError as error:  # a folder of training, of the cache: what it could not make or write
        place = f"{error.filename}: " if error.filename else ""
        print(f"{PROG}: {OutputError.kind}: {_one_line(place + (error.strerror or str(error)))}", file=sys.stderr)
        return OutputError.exit_code
    except ImportError as error:
        print(f"{PROG}: {error.name} is not installed: pip install '.[cpu,export]'", file=sys.stderr)
        return 80
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # no traceback
        print(f"{PROG}: internal error: {type(error).__name__}: {_one_line(str(error)[:300])}", file=sys.stderr)
        return 80
    return 0


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "draw":
        from .write import draw_to_folder

        draw_to_folder(arguments.n, arguments.out, arguments.seed, arguments.size, arguments.format)
    elif arguments.command == "train" and arguments.family != "lana":
        from .cross_command import train_cross

        train_cross(arguments, arguments.cache or _default_cache())
    elif arguments.command == "train":
        _train(arguments)
    elif arguments.command == "draft":
        _draft(arguments)
    elif arguments.command == "coding":
        from .coding import coding_json

        _check_target(arguments.out)
        _write(arguments.out, coding_json())
    else:
        _evaluate(arguments)


def _check_target(path: Path) -> None:
    """Find out before the work that a file cannot be written."""
    from edge.cli.output import check_target

    try:
        check_target(str(path), [])
    except OutputError as error:
        raise OutputError(f"{path}: {error}") from None


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole."""
    from edge.cli.output import write_whole

    try:
        write_whole(str(path), data)
    except OutputError as error:
        raise OutputError(f"{path}: {error}") from None


def _write_figures(path: Path, figures: dict[str, Any]) -> None:
    _write(path, json.dumps(figures, indent=1).encode() + b"\n")


def _train(arguments: argparse.Namespace) -> None:
    import torch
    from tokenizers import Tokenizer

    from .config import demo_config
    from .data import SHARD, ensure_shards
    from .tokens import train_tokenizer
    from .train import DEFAULTS, STAGES, Films, Trainer

    cache = arguments.cache or _default_cache()
    size = demo_config().image_size
    shards = max(1, (arguments.images or 12000) // SHARD)
    if not arguments.no_draw:
        ensure_shards(cache, arguments.seed, size, shards, arguments.workers)
    if arguments.draw_only:
        return
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer_path = arguments.out / "tokenizer.json"
    if tokenizer_path.exists():
        tokenizer = Tokenizer.from_file(str(tokenizer_path))
    else:
        tokenizer = train_tokenizer(tokenizer_path)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    films = Films(cache, arguments.seed, size, shards)
    trainer = Trainer(arguments.out, films, tokenizer, arguments.seed, compiled=arguments.compile, device=device)
    wanted = STAGES if arguments.stage == "all" else (arguments.stage,)
    for stage in wanted:
        for earlier in STAGES[: STAGES.index(stage)]:
            trainer.load_average(earlier)
        options = DEFAULTS[stage]
        if arguments.steps is not None:
            options.steps = arguments.steps
        trainer.run(stage, options, lambda line: write_stdout(f"{line}\n"))
    if arguments.stage == "all":
        _publish(arguments, trainer, tokenizer_path)


def _publish(arguments: argparse.Namespace, trainer: Trainer, tokenizer_path: Path) -> None:
    """Bundles, their scores on unseen phantoms, and the bundles again with the scores in the model card."""
    from .evaluate import evaluate, table
    from .own_drafts import draft_texts
    from .publish import publish

    def log(line: str) -> None:
        write_stdout(f"{line}\n")

    bundles = publish(trainer, tokenizer_path, arguments.out, "", log)
    scores = evaluate(arguments.evaluate, 2026, bundle=bundles["int8"], against=bundles["fp32"])
    text = table(scores)
    write_stdout(f"{text}\n")
    _write_figures(arguments.out / "scores.json", scores)
    command = f"`edge-phantom evaluate --n {arguments.evaluate}`"
    publish(
        trainer,
        tokenizer_path,
        arguments.out,
        f"## On unseen phantoms\n\nPrinted by {command} for the int8 bundle:\n\n```\n{text}\n```\n",
        log,
        draft_texts(bundles["int8"], arguments.cache or _default_cache(), workers=arguments.threads),
    )


def _draft(arguments: argparse.Namespace) -> None:
    from edge.bundle import DEMO

    from ..add_draft import add_draft_table
    from ..bundle_writer import check_target
    from .own_drafts import SOURCE, draft_texts

    check_target(arguments.out, force=arguments.force)
    bundle = arguments.bundle or DEMO
    texts = draft_texts(bundle, arguments.cache or _default_cache(), workers=arguments.threads)
    digest = add_draft_table(bundle, texts, arguments.out, source=SOURCE, force=arguments.force)
    write_stdout(f"{arguments.out}: {len(texts)} texts, manifest sha256 {digest}\n")


def _evaluate(arguments: argparse.Namespace) -> None:
    from .evaluate import evaluate, table

    if arguments.json is not None:
        _check_target(arguments.json)
    if arguments.drafting:
        from . import drafting

        found = drafting.compare(
            arguments.n, arguments.seed, bundle=arguments.bundle, long_side=arguments.size, threads=arguments.threads
        )
        write_stdout(f"{drafting.table(found)}\n")
        if arguments.json is not None:
            _write_figures(arguments.json, found)
        return
    result = evaluate(
        arguments.n,
        arguments.seed,
        bundle=arguments.bundle,
        against=arguments.against,
        long_side=arguments.size,
        threads=arguments.threads or 1,
    )
    write_stdout(f"{table(result)}\n")
    if arguments.json is not None:
        _write_figures(arguments.json, result)


if __name__ == "__main__":
    sys.exit(main())
