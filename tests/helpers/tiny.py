# SPDX-License-Identifier: Apache-2.0
"""Tiny random models and bundles that go through the real exporter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_export.families.lana.model import LanaConfig, LanaModel

VOCAB = 320
END_OF_TEXT_ID = VOCAB - 1


def tiny_config(
    *,
    kind: str = "gaussian",
    strength: float | None = None,
    rows: str = "all",
    connector: str = "linear",
    skip_tokens: int = 5,
    segmenter: bool = True,
    tied_head: bool = True,
) -> LanaConfig:
    """64 x 64 pixels, 4 x 4 patches, 3 decoder layers of width 64, byte-level BPE of 320 ids."""
    from edge_export.families.lana.anatomy import BiasConfig
    from edge_export.random_checkpoint import tiny_config as base

    config = base()
    if strength is None:
        strength = 2.0 if kind in ("layerwise", "gaussian_legacy") else 1.0
    config.bias = BiasConfig(kind, strength, rows)
    config.connector, config.skip_tokens, config.tied_head = connector, skip_tokens, tied_head
    if not segmenter or kind == "none":
        config.segmenter = None
    return config


def tiny_model(seed: int = 0, *, shared_trunk: bool = True, **config: Any) -> LanaModel:
    """A random tiny model; ``config`` as :func:`tiny_config` takes it."""
    import torch
    from edge_export.random_checkpoint import random_model

    model = random_model(tiny_config(**config), seed)
    if not shared_trunk and model.segmenter is not None:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.segmenter.heart_model.encoder.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny_tokenizer(folder: Path) -> Path:
    """Write ``tokenizer.json`` into a folder."""
    from edge_export.random_checkpoint import random_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    random_tokenizer(VOCAB, 0).save(str(path))
    return path


def tiny_bundle(
    out_dir: Path,
    *,
    kind: str = "gaussian",
    rows: str = "all",
    quantize: str = "none",
    connector: str = "linear",
    skip_tokens: int = 5,
    begin: bool = False,
    seed: int = 0,
    segmenter: bool = True,
    with_mask: bool = True,
    shared_trunk: bool = True,
    strength: float | None = None,
    tied_head: bool = True,
    max_new_tokens: int = 100,
    repetition_penalty: float = 1.2,
    stop: bool = False,
    suppress: bool = False,
    notice: str | None = None,
    model: LanaModel | None = None,
    traced_anew: bool = False,
    **options: Any,
) -> Path:
    """Export a tiny random model and return the folder of the bundle.

    Parameters
    ----------
    out_dir : Path
        Must not hold anything yet.
    kind, rows, connector, skip_tokens, segmenter, strength, tied_head, shared_trunk, seed
        Of the model, see :func:`tiny_model`; ``model`` replaces them.
    begin, stop, suppress : bool
        Use the end-of-text id as begin token, as stop id, as suppressed id.
    quantize, with_mask, max_new_tokens, repetition_penalty, notice
        Of the export; further ``options`` are fields of ``ExportOptions``.
    traced_anew : bool
        Trace the graph even if there is a trace of it (:mod:`traces`).
    """
    import numpy as np
    import pytest
    import traces
    from edge_export import onnx_graph, pipeline
    from edge_export.options import ExportOptions, GenerationOptions
    from edge_export.random_checkpoint import smooth_pixels

    model = model or tiny_model(
        seed,
        shared_trunk=shared_trunk,
        kind=kind,
        rows=rows,
        strength=strength,
        connector=connector,
        skip_tokens=skip_tokens,
        segmenter=segmenter,
        tied_head=tied_head,
    )
    generation = GenerationOptions(
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
        stop_ids=[END_OF_TEXT_ID] if stop else [],
        suppressed_ids=[END_OF_TEXT_ID] if suppress else [],
        begin_ids=[END_OF_TEXT_ID] if begin else [],
    )
    tokenizer = tiny_tokenizer(out_dir.parent / f"{out_dir.name}.tokenizer")
    # Cheap pictures: drawing phantoms would take longer than everything else here.
    images = [smooth_pixels(model.config.image_size, np.random.default_rng(i)) for i in (1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        if pipeline.to_onnx is onnx_graph.to_onnx and not traced_anew:
            patch.setattr(pipeline, "to_onnx", traces.to_onnx)
        pipeline.export_model(
            model,
            tokenizer,
            out_dir,
            images=images,
            options=ExportOptions(
                name="tiny-random",
                quantize=quantize,
                with_mask=with_mask,
                bias_rows=rows,
                notice=notice,
                synthetic=notice is not None,
                generation=generation,
                **options,
            ),
        )
    return out_dir
