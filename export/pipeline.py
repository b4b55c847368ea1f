# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch model to a bundle: trace, quantize, check against the model, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bundle_writer as writer
from .errors import UsageError
from .families.lana.decoder_weights import decoder_arrays, decoder_spec
from .families.lana.model import LanaModel
from .families.lana.vision_graph import VisionGraph
from .onnx_graph import to_onnx, without_check_outputs
from .options import PRODUCER, QUANTIZATIONS, ExportOptions

Progress = Callable[[str], None]


def export_model(
    model: LanaModel,
    tokenizer_json: Path,
    out: Path,
    options: ExportOptions | None = None,
    *,
    progress: Progress = lambda step: None,
    **fields: Any,
) -> str:
    """Write a bundle.

    Parameters
    ----------
    model : LanaModel
        Switched to evaluation mode.
    tokenizer_json : Path
        File in the format of Hugging Face ``tokenizers``.
    out : Path
        Folder to make.
    options : ExportOptions
        Or its fields as keyword arguments.
    progress : callable
        Called with the name of each long step as it begins.

    Returns
    -------
    str
        SHA-256 of the manifest, which pins every other file.

    Raises
    ------
    ExportError
        The graph does not compute what the model computes.
    OutputError, UsageError
    """
    options = options or ExportOptions(**fields)
    manifest = build_manifest(model, options)
    writer.check_target(out, force=options.force)
    model.eval()
    with writer.staged_bundle(out, force=options.force) as stage:
        progress("tracing the vision graph")
        graph = VisionGraph(
            model,
            with_mask=manifest["bias"]["kind"] != "none",
            sequence_length=sequence_length(model, options),
        )
        onnx_model = without_check_outputs(to_onnx(graph))
        (stage / writer.VISION).write_bytes(onnx_model.SerializeToString())
        progress("writing the bundle")
        writer.save_weights(decoder_arrays(model), stage / writer.WEIGHTS)
        shutil.copyfile(tokenizer_json, stage / writer.TOKENIZER)
        (stage / writer.CARD).write_text(f"# {options.name}\n", encoding="utf-8")
        return writer.write_manifest(stage, manifest)


def sequence_length(model: LanaModel, options: ExportOptions) -> int:
    """Positions of prefix, begin ids and new tokens together."""
    generation = options.generation
    return model.config.prefix_length + len(generation.begin_ids) + generation.max_new_tokens


def build_manifest(model: LanaModel, options: ExportOptions) -> dict[str, Any]:
    """The manifest without its version and file list.

    Raises
    ------
    UsageError
        Options that contradict each other or the model.
    """
    config, generation = model.config, options.generation
    if options.quantize not in QUANTIZATIONS:
        raise UsageError(f"quantize must be one of {', '.join(QUANTIZATIONS)}, not {options.quantize!r}")
    rows = options.bias_rows or config.bias.rows
    kind = config.bias.kind
    if model.segmenter is None:
        kind = "none"
    if not options.with_mask and kind != "none":
        if rows != "none":
            raise UsageError(f"the mask can be left out only with the bias rows none, not {rows}")
        kind = "none"
    if kind == "none":
        rows = "none"
    if sequence_length(model, options) > config.positions:
        raise UsageError(
            f"{generation.max_new_tokens} new tokens after a prefix of {config.prefix_length} do not fit the "
            f"{config.positions} positions of the model"
        )
    layers = config.decoder_layers
    evidence = generation.evidence_layers
    span = config.bias.span if kind != "none" else "prefix"
    return {
        "name": options.name,
        "family": "lana",
        "precision": "fp32" if options.quantize == "none" else options.quantize,
        "producer": PRODUCER,
        "intended_use": options.intended_use,
        "notice": options.notice,
        "synthetic": options.synthetic,
        "image": {
            "height": config.image_size,
            "width": config.image_size,
            "resize": "bicubic",
            "mean": options.image.mean,
            "std": options.image.std,
            "intensity": options.image.intensity,
        },
        "prefix": {
            "length": config.prefix_length,
            "grid": [config.grid, config.grid],
            "skip_tokens": config.skip_tokens,
        },
        "bias": {"kind": kind, "strength": config.bias.strength, "rows": rows, "span": span},
        "decoder": decoder_spec(model),
        "generation": {
            "max_new_tokens": generation.max_new_tokens,
            "repetition_penalty": generation.repetition_penalty,
            "stop_ids": generation.stop_ids,
            "suppressed_ids": generation.suppressed_ids,
            "begin_ids": generation.begin_ids,
            "cut_at_sentence": generation.cut_at_sentence,
            "evidence_layers": evidence if evidence is not None else list(range(layers // 2, layers)),
        },
        "graphs": {"vision": writer.VISION},
        "weights": writer.WEIGHTS,
        "tokenizer": writer.TOKENIZER,
        "labels": options.labels,
    }
