# SPDX-License-Identifier: Apache-2.0
"""From a command line to a bundle: the checks of its options, the family's loader, and the export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.output import write_stdout

from .arguments import make_parser
from .errors import UsageError
from .families import CROSS, LANA, PROMPTMRG
from .progress import Progress

if TYPE_CHECKING:
    from .options import ExportOptions


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises
    ------
    EdgeError
    """
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
    with Progress(quiet=arguments.quiet) as progress:
        if (arguments.checkpoint / "manifest.json").is_file():
            _add_table(arguments, texts)
            return
        if arguments.random is not None:
            _make_random(arguments, progress)
        if arguments.out is not None:
            _export(arguments, progress, texts)


def _make_random(arguments: argparse.Namespace, progress: Progress) -> None:
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
    usual = vars(make_parser().parse_args([str(arguments.checkpoint)]))
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


def _export(arguments: argparse.Namespace, progress: Progress, texts: list[str] | None) -> None:
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


def _export_cross(arguments: argparse.Namespace, family: str, progress: Progress, texts: list[str] | None) -> None:
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
