# SPDX-License-Identifier: Apache-2.0
"""``edge-export``: a trained checkpoint becomes a bundle that ``edge-report`` runs."""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edge.cli.numbers import whole
from edge.cli.output import ClosedPipe, printable, write_stdout
from edge.cli.parser import Parser
from edge.cli.streams import settle_streams
from edge.errors import CannotRead, EdgeError, OutputError, UsageError

from .families import CROSS, FAMILIES, LANA, PROMPTMRG

if TYPE_CHECKING:
    from .options import ExportOptions

PROG = "edge-export"
INTERRUPTED, CLOSED_PIPE, INTERNAL = 130, 141, 80
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


def _parser() -> argparse.ArgumentParser:
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    settle_streams()
    subject = ""
    try:
        arguments = _parser().parse_args(argv)
        subject = f"{arguments.checkpoint.name or arguments.checkpoint}: "  # "." has no name
        _run(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except EdgeError as error:
        hint = f"; {error.hint}" if error.hint else ""
        _tell(f"{PROG}: {subject}{error.kind}: {error}{hint}")
        return error.exit_code
    except KeyboardInterrupt:
        _tell(f"{PROG}: interrupted; nothing was written")
        return INTERRUPTED
    except ClosedPipe:
        return CLOSED_PIPE
    except ImportError as error:
        _tell(f"{PROG}: {error.name} is not installed: pip install '.[cpu,export]'")
        return INTERNAL
    except MemoryError:
        _tell(f"{PROG}: {subject}out of memory")
        return INTERNAL
    except OSError as error:
        failed = _of_the_system(error, arguments.out)
        _tell(f"{PROG}: {subject}{failed.kind}: {failed}")
        return failed.exit_code
    except Exception as error:
        what = str(error).splitlines()[0][:300] if str(error) else ""
        _tell(f"{PROG}: {subject}internal error: {type(error).__name__}: {what}")
        return INTERNAL
    return 0


def _tell(text: str) -> None:
    """Lines on stderr, without anything from a file or a name that a terminal could act on."""
    print("\n".join(printable(line) for line in text.split("\n")), file=sys.stderr)


def _of_the_system(error: OSError, out: Path | None) -> EdgeError:
    """A name that is too long, a folder that may not be looked into, a full disk."""
    name = str(error.filename or "")
    writing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or (
        out is not None and name.startswith(str(out))
    )
    place = f"{name[:100]}: " if name else ""
    return (OutputError if writing else CannotRead)(f"{place}{error.strerror or type(error).__name__}")


def _run(arguments: argparse.Namespace) -> None:
    if arguments.pictures is not None and arguments.random is None:
        raise UsageError("--pictures goes with --random: a trained model is checked on all of them")
    if arguments.gpu_error is not None and (arguments.random is None or not arguments.gpu_graph):
        raise UsageError("--gpu-error goes with --random and --gpu-graph: a trained model keeps its limit")
    if arguments.out is None and arguments.random is None:
        raise UsageError("--out is missing: the folder to write the bundle into")
    if arguments.no_mask and arguments.bias_rows != "none":
        raise UsageError("--no-mask needs --bias-rows none: the other modes need the mask")
    if arguments.calibrate is not None and arguments.quantize == "none":
        raise UsageError("--calibrate goes with --quantize")
    if arguments.int4_head and arguments.quantize != "int4":
        raise UsageError("--int4-head goes with --quantize int4")
    if arguments.out is not None:
        from .bundle_writer import check_target

        check_target(arguments.out, force=arguments.force)
    texts = None
    if arguments.draft_corpus is not None:
        from .draft_corpus import read_corpus

        texts = read_corpus(arguments.draft_corpus)
    with _Progress(quiet=arguments.quiet) as progress:
        if (arguments.checkpoint / "manifest.json").is_file():
            _add_table(arguments, texts)
            return
        if arguments.random is not None:
            _make_random(arguments, progress)
        if arguments.out is not None:
            _export(arguments, progress, texts)


def _make_random(arguments: argparse.Namespace, progress: _Progress) -> None:
    from . import random_checkpoint

    if not arguments.checkpoint.exists():
        progress(f"drawing random weights ({arguments.random})")
        random_checkpoint.make(arguments.random, arguments.seed, arguments.layout, arguments.checkpoint)


_TABLE_OPTIONS = {"checkpoint", "out", "force", "quiet", "draft_corpus", "coding"}


def _refuse_unused(names: list[str], why: str) -> None:
    """An option that changes nothing would be taken for one that was followed."""
    if names:
        raise UsageError(f"{', '.join('--' + name.replace('_', '-') for name in names)}: {why}")


def _add_table(arguments: argparse.Namespace, texts: list[str] | None) -> None:
    if (texts is None) == (arguments.coding is None) or arguments.out is None:
        raise UsageError(
            "this is a bundle already: it can get a draft table (--draft-corpus FILE) or a coding table (--coding "
            "JSON), one at a time, with --out DIR"
        )
    usual = vars(_parser().parse_args([str(arguments.checkpoint)]))
    other = {name for name, value in vars(arguments).items() if value != usual[name]} - _TABLE_OPTIONS
    _refuse_unused(sorted(other), "not for a bundle, which stays as it is but for the table")
    if texts is None:
        from .coding import add_coding_table, read_coding

        digest = add_coding_table(
            arguments.checkpoint, read_coding(arguments.coding), arguments.out, force=arguments.force
        )
    else:
        from .add_draft import add_draft_table

        source = f"Learnt from `{arguments.draft_corpus.name}`."
        digest = add_draft_table(arguments.checkpoint, texts, arguments.out, source=source, force=arguments.force)
    _say_done(arguments.out, digest)


def _say_done(out: Path, digest: str) -> None:
    size = sum(path.stat().st_size for path in out.iterdir())
    write_stdout(f"{out}: {size / 1e6:.1f} MB, manifest sha256 {digest}\n")


def _export(arguments: argparse.Namespace, progress: _Progress, texts: list[str] | None) -> None:
    from tempfile import TemporaryDirectory

    from .families.recognise import family_of

    progress("reading the checkpoint")
    family = family_of(arguments.checkpoint, arguments.family)
    if family != LANA:
        _export_cross(arguments, family, progress, texts)
        return
    from .families.lana.load import load
    from .pipeline import export_model
    from .tokenizer_files import write_tokenizer

    bias = {"kind": arguments.bias_kind, "strength": arguments.bias_strength}
    bias = {key: value for key, value in bias.items() if value is not None}
    loaded = load(arguments.checkpoint, arguments.config, arguments.tokenizer, bias)
    told = [name for name in ("section", "begin", "context", "retrieved", "images") if getattr(arguments, name)]
    _refuse_unused(told, "not for this family, whose decoder is told nothing before it writes")
    loaded.check_room(arguments.checkpoint.name)
    if arguments.intensity is not None:
        loaded.image.intensity = arguments.intensity
    for note in loaded.notes:
        progress.say(note)
    options = _options(arguments, loaded)
    with TemporaryDirectory(prefix="edge-export-") as folder:
        tokenizer = Path(folder) / "tokenizer.json"
        write_tokenizer(loaded.tokenizer or arguments.checkpoint.parent, tokenizer, loaded.model.config.vocab)
        digest = export_model(loaded.model, tokenizer, arguments.out, options, draft_texts=texts, progress=progress)
    progress.close()
    _say_done(arguments.out, digest)


def _export_cross(arguments: argparse.Namespace, family: str, progress: _Progress, texts: list[str] | None) -> None:
    from tempfile import TemporaryDirectory

    from .families.cross import cvt2distilgpt2, promptmrg
    from .families.cross.export import export_cross
    from .families.cross.load import load
    from .families.cross.prompt import Prompt
    from .tokenizer_files import check_ids, report_sections, write_tokenizer

    given = [
        name for name in ("bias_rows", "bias_kind", "bias_strength", "config") if getattr(arguments, name) is not None
    ]
    _refuse_unused(given, "not for this family, which has no mask and no bias")
    if arguments.retrieved is not None and family != PROMPTMRG:
        raise UsageError("--retrieved: not for this family, which looks nothing up")
    prompt = Prompt(arguments.begin or "", arguments.context, arguments.images)
    if family == CROSS:
        loaded = load(arguments.checkpoint, arguments.tokenizer, prompt)
    else:
        if arguments.begin or arguments.context or arguments.images:
            raise UsageError("--begin, --context and --images: this family has a prompt of its own")
        if family == PROMPTMRG:
            loaded = promptmrg.load(arguments.checkpoint, arguments.tokenizer, arguments.retrieved)
        else:
            loaded = cvt2distilgpt2.load(arguments.checkpoint, arguments.tokenizer)
    if arguments.intensity is not None:
        loaded.image["intensity"] = arguments.intensity
    for note in loaded.notes:
        progress.say(note)
    options = _options(arguments, loaded)
    with TemporaryDirectory(prefix="edge-export-") as folder:
        tokenizer = Path(folder) / "tokenizer.json"
        vocab = loaded.model.config.decoder.vocab_size
        if (words := loaded.words) is None:
            words = write_tokenizer(arguments.tokenizer or arguments.checkpoint, tokenizer, vocab)
        else:
            check_ids(words, arguments.tokenizer or arguments.checkpoint, vocab)
            words.save(str(tokenizer))
        if arguments.section or "sections" not in loaded.generation:
            options.sections = report_sections(words, arguments.section)
        digest = export_cross(loaded, tokenizer, arguments.out, options, draft_texts=texts, progress=progress)
    progress.close()
    _say_done(arguments.out, digest)


def _options(arguments: argparse.Namespace, loaded: Any) -> ExportOptions:
    from .coding import read_coding
    from .options import ExportOptions

    name = arguments.name or (
        arguments.checkpoint.stem if arguments.checkpoint.is_file() else arguments.checkpoint.resolve().name
    )
    notice = arguments.notice
    if notice is None and (arguments.synthetic or arguments.random):
        notice = "the model was not trained on radiographs; its text means nothing, not for clinical use"
    more = {} if loaded.layout == CROSS else {"image": loaded.image, "generation": loaded.generation}
    return ExportOptions(
        name=name,
        notice=notice,
        synthetic=arguments.synthetic or arguments.random is not None,
        bias_rows=arguments.bias_rows,
        with_mask=not arguments.no_mask,
        quantize=arguments.quantize,
        keep_int8=arguments.keep_int8,
        int4_head=arguments.int4_head,
        calibrate=arguments.calibrate,
        gpu_graph=arguments.gpu_graph,
        tensorrt_int8=arguments.tensorrt_int8,
        gpu_error=arguments.gpu_error,
        pictures=arguments.pictures,
        openvino_graph=arguments.openvino_graph,
        prefill=arguments.prefill,
        kv_dtype=arguments.kv,
        force=arguments.force,
        sources=[f"Exported from `{arguments.checkpoint.name}`, layout {loaded.layout}.", *loaded.notes],
        coding=read_coding(arguments.coding) if arguments.coding is not None else None,
        draft_source=f"Learnt from `{arguments.draft_corpus.name}`." if arguments.draft_corpus else "",
        **more,
    )


class _Progress:
    """A bar on a terminal, one line per step elsewhere, nothing when quiet; all on stderr."""

    STEPS = 9

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            width = min(shutil.get_terminal_size().columns, 100)
            shape = "{percentage:3.0f}%|{bar:24}| {elapsed} {desc}"
            self.bar = tqdm(total=self.STEPS, bar_format=shape, leave=False, ncols=width)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, step: str) -> None:
        if self.bar is not None:
            self.bar.set_description_str(step, refresh=False)
            self.bar.total = max(self.bar.total, self.bar.n + 1)
            self.bar.update()
        elif not self.quiet:
            print(f"{PROG}: {step}", file=sys.stderr)

    def say(self, note: str) -> None:
        """A line that stays, even when quiet."""
        if self.bar is not None:
            self.bar.write(f"{PROG}: {note}", file=sys.stderr)
        else:
            print(f"{PROG}: {note}", file=sys.stderr)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
