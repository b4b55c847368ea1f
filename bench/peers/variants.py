# SPDX-License-Identifier: Apache-2.0
"""Which engines are timed, at which precisions, doing what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

OURS = "ours"
DECODER = ("decode", "prefill")
VISION = ("encoder", "segmenter")
TASKS = ("decode", "prefill", "encoder", "segmenter", "vision_prefill", "report", "report_drafted")
"""``decode`` in ms per token, the others in ms. ``vision_prefill`` is all that precedes the first token;
``report_drafted`` a report whose drafts are right as often as the demo model's (:mod:`edge_bench.oracle`)."""

WEIGHT_BITS = {"fp32": 32, "bf16": 16, "f16": 16, "int8": 8, "q8_0": 8.5, "int4": 5, "int4-head": 4.5, "q4_0": 4.5}
"""As stored, scales of groups included: ours say it themselves, OpenVINO's int4 has a float32 scale per 32 weights."""
KV_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8.5, "q8_0": 8.5, "u8": 9}
CLASSES = {
    "fp32": "32",
    "bf16": "16",
    "f16": "16",
    "int8": "8",
    "q8_0": "8",
    "int4": "4",
    "int4-head": "4",
    "q4_0": "4",
}
"""Equal bits: what is compared with what. llama.cpp's q4_0 has its head in 4 bits, too; our int4 only as int4-head."""


@dataclass(frozen=True)
class Variant:
    """An engine at one precision.

    Attributes
    ----------
    peer : str
        Module that runs it, without ``_peer``.
    title : str
        Name in the table.
    weights, kv : str
        Precision of the decoder's weights and cache.
    tasks : tuple of str
    """

    peer: str
    title: str
    weights: str
    kv: str
    tasks: tuple[str, ...]

    @property
    def name(self) -> str:
        """What ``--only`` matches."""
        kv = f"-kv_{self.kv}" if self.kv else ""
        return f"{self.peer}-{self.weights}{kv}"


def _variants() -> Iterable[Variant]:
    yield Variant(OURS, "edge-report", "fp32", "fp32", ("decode",))
    yield Variant(OURS, "edge-report", "int8", "fp16", ("decode", "vision_prefill", "report", "report_drafted"))
    yield Variant(OURS, "edge-report", "int8", "int8", ("decode", "report", "report_drafted"))
    yield Variant(OURS, "edge-report", "int4", "fp16", ("decode", "vision_prefill", "report"))
    yield Variant(OURS, "edge-report", "int4", "int8", ("decode", "report"))
    yield Variant(OURS, "edge-report", "int4-head", "fp16", ("decode",))
    yield Variant(OURS, "edge-report", "int4-head", "int8", ("decode", "report", "report_drafted"))
    yield Variant("llama", "llama.cpp", "f16", "fp16", DECODER)
    yield Variant("llama", "llama.cpp", "q8_0", "fp16", DECODER)
    yield Variant("llama", "llama.cpp", "q8_0", "q8_0", ("decode",))
    yield Variant("llama", "llama.cpp", "q4_0", "fp16", DECODER)
    yield Variant("llama", "llama.cpp", "q4_0", "q8_0", ("decode",))
    yield Variant("onnxruntime", "ONNX Runtime", "fp32", "fp32", DECODER + VISION)
    yield Variant("onnxruntime", "ONNX Runtime", "int8", "fp32", DECODER + VISION)
    yield Variant("ctranslate2", "CTranslate2", "fp32", "fp32", DECODER)
    yield Variant("ctranslate2", "CTranslate2", "int8", "fp32", DECODER)
    yield Variant("openvino", "OpenVINO", "fp32", "u8", DECODER + VISION)
    yield Variant("openvino", "OpenVINO", "int8", "u8", DECODER + VISION)
    yield Variant("openvino", "OpenVINO", "int4", "u8", DECODER)
    yield Variant("transformers", "transformers", "fp32", "fp32", DECODER + VISION)
    yield Variant("transformers", "transformers", "bf16", "bf16", DECODER + VISION)
    yield Variant("shipped", "the reference as shipped", "fp32", "fp32", ("report",))


VARIANTS = tuple(_variants())


def choose(only: str | None, variants: Iterable[Variant] = VARIANTS) -> list[Variant]:
    """Variants whose name begins with one of the comma-separated names; all without.

    Raises
    ------
    ValueError
        A name fits none.
    """
    listed = list(variants)
    if only is None:
        return listed
    chosen: list[Variant] = []
    for name in filter(None, only.split(",")):
        found = [v for v in listed if v.name == name or v.name.startswith(f"{name}-")]
        if not found:
            raise ValueError(f"no peer is called {name[:40]!r}; there are {', '.join(v.name for v in listed)}")
        chosen += [v for v in found if v not in chosen]
    return [v for v in listed if v in chosen]


def bytes_per_token(weights: str, kv: str, spec: Mapping[str, Any], mean_keys: float) -> int:
    """Bytes that a decode step reads: matrices as stored, vectors in float32, keys and values at `mean_keys`."""
    d, f, layers = spec["hidden"], spec["mlp"], spec["layers"]
    matrices = spec["vocab"] * d + layers * (4 * d * d + 2 * d * f)
    vectors = layers * (9 * d + f + 4 * d) + 2 * d
    cached = 2 * layers * spec["kv_heads"] * spec["head_dim"] * mean_keys
    return round(matrices * WEIGHT_BITS[weights] / 8 + 4 * vectors + cached * KV_BITS[kv] / 8)
