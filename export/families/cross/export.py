# SPDX-License-Identifier: Apache-2.0
"""From a ``VisionEncoderDecoderModel`` to a bundle: trace, quantize, check against the model, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from ... import bundle_writer as writer
from ...calibration import film_paths, read_films
from ...check_images import check_images
from ...coding import name_coding, write_coding
from ...draft_corpus import corpus_table
from ...draft_table import save_table
from ...errors import BadCheckpoint, UsageError
from ...graph_cuda import for_cuda, without_cuda_kernel
from ...graph_int8 import plan_products, quantize_graph
from ...graph_static import write_static_graph
from ...model_card import draft_section, model_card
from ...onnx_graph import GraphSession, inputs, to_onnx, without_check_outputs
from ...options import PRODUCER, QUANTIZATIONS, ExportOptions, check_openvino_graph
from ...quantize import quantize_decoder
from .decoders import DECODERS, Decoder, switch_types
from .encoders import ENCODERS, EncoderTokens, grid_of
from .graph import CrossGraph
from .load import Loaded
from .verify import verify

Progress = Callable[[str], None]


def export_cross(
    loaded: Loaded,
    tokenizer_json: Path,
    out: Path,
    options: ExportOptions,
    *,
    images: Sequence[np.ndarray] | None = None,
    draft_texts: Sequence[str] | None = None,
    progress: Progress = lambda step: None,
) -> str:
    """Write a bundle; parameters and errors as of :func:`edge_export.pipeline.export_model`."""
    model = loaded.model
    with torch.no_grad():
        decoder = DECODERS[model.config.decoder.model_type](model.decoder)
        if loaded.type_after:
            switch_types(decoder, model.decoder, loaded.type_after)
        manifest = build_manifest(loaded, decoder, options)
    if draft_texts is not None:
        manifest["draft"] = writer.DRAFT
    name_coding(manifest, options.coding)
    if options.kv_dtype is not None:
        manifest["kv_dtype"] = options.kv_dtype
    if options.openvino_graph:
        manifest["graphs"]["vision_static"] = writer.VISION_STATIC
    writer.check_manifest(manifest, ("image", "prefix", "decoder", "generation"))
    writer.check_target(out, force=options.force)
    films = film_paths(options.calibrate) if options.calibrate is not None else []
    threads = torch.get_num_threads()
    with writer.staged_bundle(out, force=options.force) as stage:
        progress("tracing the vision graph")
        image = manifest["image"]
        onnx_model = to_onnx(CrossGraph(model, decoder, image["height"], image["width"]))
        if options.quantize == "none" and without_cuda_kernel(onnx_model):
            onnx_model = for_cuda(onnx_model)  # the same bits: GPUs run this graph, there is no other for them
        arrays = decoder.arrays()
        pictures = images if images is not None else check_images(image)
        notes = []
        if options.quantize != "none":
            progress("quantizing")

            def feeds() -> Iterator[dict[str, np.ndarray]]:
                for pixels in chain(pictures, read_films(films, image)):
                    yield inputs(pixels, bias=False, switch=False)

            if options.openvino_graph:
                notes += write_static_graph(onnx_model, stage / writer.VISION_STATIC, feeds, stage, threads)
            plan = plan_products(onnx_model, feeds(), stage, threads)
            notes.append(plan.describe())
            quantize_graph(onnx_model, plan)
            arrays = quantize_decoder(arrays, options.quantize, options.keep_int8, int4_head=options.int4_head)
        vision = stage / writer.VISION
        vision.write_bytes(onnx_model.SerializeToString())
        ticks = iter(range(1, len(pictures) + 1))
        check = verify(
            model,
            decoder,
            GraphSession(vision, threads),
            arrays,
            manifest,
            pictures,
            threads=threads,
            progress=lambda: progress(f"checking picture {next(ticks)} of {len(pictures)}"),
        )
        progress("writing the bundle")
        vision.write_bytes(without_check_outputs(onnx_model).SerializeToString())
        writer.save_weights(arrays, stage / writer.WEIGHTS)
        shutil.copyfile(tokenizer_json, stage / writer.TOKENIZER)
        drafting = ""
        if draft_texts is not None:
            progress("learning phrasing")
            tokenizer = Tokenizer.from_file(str(tokenizer_json))
            table = corpus_table(draft_texts, tokenizer, manifest["generation"]["stop_ids"])
            save_table(table, stage / writer.DRAFT)
            drafting = draft_section(table, len(draft_texts), options.draft_source)
        write_coding(stage, options.coding)
        sizes = {path.name: path.stat().st_size for path in sorted(stage.iterdir())}
        card = model_card(manifest, options, check, sizes, notes, drafting)
        (stage / writer.CARD).write_text(card, encoding="utf-8")
        return writer.write_manifest(stage, manifest)


def build_manifest(loaded: Loaded, decoder: Decoder, options: ExportOptions) -> dict[str, Any]:
    """The manifest without its version and file list.

    Raises
    ------
    BadCheckpoint
        The encoder does not take pictures of the size that the folder says.
    UsageError
        Options that contradict each other.
    """
    if options.prefill == "kernel":
        raise UsageError("there is no prefix to prefill: this model's decoder looks at the image by cross-attention")
    if options.gpu_graph or options.tensorrt_int8:
        raise UsageError("graphs for GPUs are made of models with an image prefix only: leave out --gpu-graph")
    check_openvino_graph(options)
    if options.quantize not in QUANTIZATIONS:
        raise UsageError(f"quantize must be one of {', '.join(QUANTIZATIONS)}, not {options.quantize!r}")
    image = loaded.image
    height, width = image["height"], image["width"]
    try:
        tokens = EncoderTokens(loaded.model)(torch.zeros(1, 3, height, width))
    except (ValueError, RuntimeError) as error:
        raise BadCheckpoint(f"the encoder does not take {height} x {width} pixels: {str(error)[:200]}") from None
    config = loaded.model.config.encoder
    special = ENCODERS[config.model_type](config)
    grid = grid_of(tokens.shape[0] - special, height, width)
    if grid is None:
        raise BadCheckpoint(f"the encoder's {tokens.shape[0]} tokens are no grid of patches behind {special} others")
    prefix = {"length": int(tokens.shape[0]), "grid": list(grid), "skip_tokens": 0}
    if loaded.images > 1:
        prefix["images"] = loaded.images
    return {
        "name": options.name,
        "family": loaded.family,
        "precision": "fp32" if options.quantize == "none" else options.quantize,
        "producer": PRODUCER,
        "intended_use": options.intended_use,
        "notice": options.notice,
        "synthetic": options.synthetic,
        "image": image,
        "prefix": prefix,
        "bias": {"kind": "none", "strength": 1.0, "rows": "none", "span": "prefix"},
        "decoder": decoder.spec(int(tokens.shape[0]) * loaded.images),
        "generation": {**loaded.generation, **({"sections": options.sections} if options.sections else {})},
        "graphs": {"vision": writer.VISION},
        "weights": writer.WEIGHTS,
        "tokenizer": writer.TOKENIZER,
        "labels": options.labels,
    }
