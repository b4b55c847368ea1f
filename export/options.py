# SPDX-License-Identifier: Apache-2.0
"""What an export is asked for: the manifest's fields that do not follow from the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UsageError

PRODUCER = "edge-report 0.1.0"
QUANTIZATIONS = ("none", "int8", "int4")
PREFILLS = ("graph", "kernel")
INTENDED_USE = (
    "Drafting findings of frontal chest radiographs for a radiologist to check and correct. "
    "Not a medical device; not for diagnosis without a reader."
)


@dataclass
class ImageOptions:
    """How a film becomes pixels. ``intensity`` as in the manifest: mode, low, high, equalize."""

    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    intensity: dict[str, Any] = field(
        default_factory=lambda: {"mode": "minmax", "low": 0.0, "high": 100.0, "equalize": True}
    )


@dataclass
class GenerationOptions:
    """Generation defaults of the bundle; ids are token ids of the tokenizer."""

    max_new_tokens: int = 100
    repetition_penalty: float = 1.2
    stop_ids: list[int] = field(default_factory=list)
    suppressed_ids: list[int] = field(default_factory=list)
    begin_ids: list[int] = field(default_factory=list)
    cut_at_sentence: bool = False
    evidence_layers: list[int] | None = None
    """Decoder layers whose attention counts as evidence; None: the second half."""


@dataclass
class ExportOptions:
    """Everything :func:`edge_export.pipeline.export_model` takes beside the model and its tokenizer.

    Attributes
    ----------
    name, intended_use, notice, synthetic, labels
        Fields of the manifest.
    bias_rows : str or None
        ``all``, ``prefill``, ``none``; None: what the model's configuration says.
    with_mask : bool
        Keep the mask branch where there is a segmenter. It may be left out only with the bias rows ``none``.
    quantize : str
        ``none``; ``int8``: graph and decoder; ``int4``: the decoder's matrices but embedding and head, the rest int8.
    keep_int8 : list of str
        Matrices of the decoder that ``int4`` leaves in int8, see :func:`edge_export.quantize.quantize_decoder`.
    int4_head : bool
        With ``int4``: the embedding and the head in int4, too.
    calibrate : Path or None
        Folder with films on which the errors of an int8 graph are measured, beside the drawn pictures.
    gpu_graph : bool
        Add the vision graph in float16, for the devices ``cuda`` and ``tensorrt``.
    tensorrt_int8 : bool
        Beside it the same with int8 products, for the device ``tensorrt``.
    gpu_error : float or None
        Squared error over squared values that the float16 graph may have; None: a model's for use, see
        :func:`edge_export.gpu_graph.write_gpu_graph`.
    openvino_graph : bool
        Add the vision graph in int8 with fixed ranges, which OpenVINO runs on processors with VNNI and bfloat16.
    pictures : int or None
        Of the self-check, at most; None: all.
    prefill : str or None
        Who takes the image through the decoder: ``graph`` or ``kernel``; None: the kernel with quantized
        weights, but for a GPU the graph.
    kv_dtype : str or None
        Of the KV cache: ``fp32``, ``fp16``, ``int8``; None: the runtime's choice for the precision.
    force : bool
        Replace a bundle that lies at the output path.
    sources : list of str
        Lines for the model card: where the weights came from.
    card : str
        Further Markdown for the model card.
    draft_source : str
        One sentence for the model card: where the texts of the draft table come from.
    coding : bytes or None
        The table of coded findings (:mod:`edge_export.coding`).
    """

    name: str = "lana"
    intended_use: str = INTENDED_USE
    notice: str | None = None
    synthetic: bool = False
    labels: list[str] = field(default_factory=list)
    bias_rows: str | None = None
    with_mask: bool = True
    quantize: str = "none"
    keep_int8: list[str] = field(default_factory=list)
    int4_head: bool = False
    calibrate: Path | None = None
    gpu_graph: bool = False
    tensorrt_int8: bool = False
    gpu_error: float | None = None
    pictures: int | None = None
    openvino_graph: bool = False
    prefill: str | None = None
    kv_dtype: str | None = None
    force: bool = False
    sources: list[str] = field(default_factory=list)
    card: str = ""
    draft_source: str = "Learnt from a corpus of reports."
    coding: bytes | None = None
    sections: list[dict[str, Any]] = field(default_factory=list)
    """Sections of a report: ``token_id`` that begins one, and its ``name``."""
    image: ImageOptions = field(default_factory=ImageOptions)
    generation: GenerationOptions = field(default_factory=GenerationOptions)


def check_openvino_graph(options: ExportOptions) -> None:
    """Refuse the graph for OpenVINO where nothing is quantized."""
    if options.openvino_graph and options.quantize == "none":
        raise UsageError("the graph for OpenVINO is one in int8: it needs quantize int8 or int4")
