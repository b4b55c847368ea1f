# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch model to a bundle: trace, quantize, check against the model, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from . import bundle_writer as writer
from .calibration import film_paths, read_films
from .check_images import check_images
from .coding import name_coding, write_coding
from .draft_corpus import corpus_table
from .draft_table import save_table
from .errors import UsageError
from .families.lana.decoder_weights import decoder_arrays, decoder_spec
from .families.lana.model import LanaModel
from .families.lana.prefill_plan import plan_prefill
from .families.lana.vision_graph import VisionGraph
from .gpu_graph import write_gpu_graph
from .graph_cuda import for_cuda, without_cuda_kernel
from .graph_int8 import plan_products, quantize_graph
from .graph_static import plan_static, write_static_graph
from .model_card import draft_section, model_card
from .onnx_graph import GraphSession, inputs, to_onnx, without_check_outputs
from .options import PREFILLS, PRODUCER, QUANTIZATIONS, ExportOptions, check_openvino_graph
from .quantize import quantize_decoder
from .verify import verify

Progress = Callable[[str], None]


def export_model(
    model: LanaModel,
    tokenizer_json: Path,
    out: Path,
    options: ExportOptions | None = None,
    *,
    images: Sequence[np.ndarray] | None = None,
    draft_texts: Sequence[str] | None = None,
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
    images : sequence of ndarray float32 [1, 3, H, W], optional
        Pictures for the self-check, normalised; by default phantoms, smooth random pictures and noise.
    draft_texts : sequence of str, optional
        Reports or sentences in the model's own phrasing, to make a draft table of.
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
    if draft_texts is not None:
        manifest["draft"] = writer.DRAFT
    name_coding(manifest, options.coding)
    if options.gpu_graph:
        manifest["graphs"]["vision_fp16"] = writer.VISION_FP16
    if options.tensorrt_int8:
        manifest["graphs"]["vision_tensorrt"] = writer.VISION_TENSORRT
    if options.openvino_graph:
        manifest["graphs"]["vision_static"] = writer.VISION_STATIC
    if options.kv_dtype is not None:
        manifest["kv_dtype"] = options.kv_dtype
    if prefill_of(options) == "kernel":
        manifest["prefill"] = "kernel"
    writer.check_manifest(manifest, ("image", "prefix", "decoder"))  # the rest: options
    writer.check_target(out, force=options.force)
    films = film_paths(options.calibrate) if options.calibrate is not None else []
    model.eval()
    with writer.staged_bundle(out, force=options.force) as stage:
        progress("tracing the vision graph")
        length = sequence_length(model, options)
        graph = VisionGraph(
            model,
            with_mask=manifest["bias"]["kind"] != "none",
            sequence_length=length,
            with_prefill=manifest.get("prefill") != "kernel",
        )
        onnx_model = to_onnx(graph)
        arrays = decoder_arrays(model)
        pictures = images if images is not None else check_images(manifest["image"])[: options.pictures]
        notes = ["Both segmenters hold the same trunk: stored and run once."] if graph.shared_trunk else []
        if options.gpu_graph:
            progress("converting the graph for GPUs")
            shown = [inputs(p, bias=manifest["bias"]["rows"] != "none", switch=graph.with_mask) for p in pictures]
            half = stage / writer.VISION_FP16
            threads, most = torch.get_num_threads(), options.gpu_error
            notes.append(write_gpu_graph(onnx_model, half, shown, stage, threads, largest_error=most))
            if options.tensorrt_int8:
                symmetric = plan_static(onnx_model, lambda: shown, stage, torch.get_num_threads(), symmetric=True)
                small = stage / writer.VISION_TENSORRT
                notes.append(write_gpu_graph(onnx_model, small, shown, stage, torch.get_num_threads(), symmetric))
        if options.quantize != "none":
            progress("quantizing")
            bias = manifest["bias"]["rows"] != "none"

            def feeds() -> Iterator[dict[str, np.ndarray]]:
                for pixels in chain(pictures, read_films(films, manifest["image"])):
                    yield inputs(pixels, bias=bias, switch=graph.has_switch)

            if options.openvino_graph:
                static = stage / writer.VISION_STATIC
                notes += write_static_graph(onnx_model, static, feeds, stage, torch.get_num_threads())
            plan = plan_products(onnx_model, feeds(), stage, torch.get_num_threads())
            notes.append(plan.describe())
            quantize_graph(onnx_model, plan)
            arrays = quantize_decoder(
                arrays,
                options.quantize,
                options.keep_int8,
                int4_head=options.int4_head,
                prefill=not graph.with_prefill,
            )
            if not graph.with_prefill:
                every = chain(pictures, read_films(films, manifest["image"]))
                products = plan_prefill(model, arrays, every, bias=bias and graph.with_mask, sequence_length=length)
                manifest["prefill_int8"] = products.narrow
                notes.append(products.describe())
        elif without_cuda_kernel(onnx_model):
            onnx_model = for_cuda(onnx_model)  # the same bits: GPUs run this graph where there is no other for them
        vision = stage / writer.VISION
        vision.write_bytes(onnx_model.SerializeToString())
        ticks = iter(range(1, len(pictures) + 1))
        check = verify(
            model,
            GraphSession(vision, torch.get_num_threads()),
            arrays,
            manifest,
            pictures,
            sequence_length=length,
            threads=torch.get_num_threads(),
            progress=lambda: progress(f"checking picture {next(ticks)} of {len(pictures)}"),
        )
        progress("writing the bundle")
        vision.write_bytes(without_check_outputs(onnx_model).SerializeToString())
        writer.save_weights(arrays, stage / writer.WEIGHTS)
        shutil.copyfile(tokenizer_json, stage / writer.TOKENIZER)
        drafting = ""
        if draft_texts is not None:
            progress("learning phrasing")
            table = corpus_table(draft_texts, Tokenizer.from_file(str(tokenizer_json)), options.generation.stop_ids)
            save_table(table, stage / writer.DRAFT)
            drafting = draft_section(table, len(draft_texts), options.draft_source)
        write_coding(stage, options.coding)
        sizes = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        card = model_card(manifest, options, check, sizes, notes, drafting)
        (stage / writer.CARD).write_text(card, encoding="utf-8")
        return writer.write_manifest(stage, manifest)


def prefill_of(options: ExportOptions) -> str:
    """Who takes the image through the decoder where the options leave it open.

    The kernel with quantized weights: the decoder is in the bundle once, and on processors with byte products this is
    faster than the graph. A bundle for a GPU leaves it to the graph, which runs there as a whole.
    """
    return options.prefill or ("kernel" if options.quantize != "none" and not options.gpu_graph else "graph")


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
    check_openvino_graph(options)
    if options.tensorrt_int8 and not options.gpu_graph:
        raise UsageError("the graph with int8 for TensorRT stands beside the one in float16: it needs --gpu-graph")
    if options.quantize not in QUANTIZATIONS:
        raise UsageError(f"quantize must be one of {', '.join(QUANTIZATIONS)}, not {options.quantize!r}")
    if options.prefill not in (None, *PREFILLS):
        raise UsageError(f"prefill must be one of {', '.join(PREFILLS)}, not {options.prefill!r}")
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
    bias = {"kind": kind, "strength": config.bias.strength, "rows": rows, "span": "prefix"}
    if kind != "none" and config.bias.span == "sequence":
        bias |= {"span": "sequence", "sequence_length": sequence_length(model, options)}
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
        "bias": bias,
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
