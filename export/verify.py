# SPDX-License-Identifier: Apache-2.0
"""Self-check of an export: graph and kernel against the PyTorch model, stage by stage, on several pictures.

A bundle that computes something else than its model is worse than none, so beyond tolerance nothing is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .errors import ExportError
from .families.lana.anatomy import stretch
from .families.lana.model import LanaModel
from .families.lana.reference import ReferenceDecoder, ReferenceText
from .onnx_graph import GraphSession

TOKENS = 32
NEAR_TIE = 2e-3
"""A choice whose runner-up is closer than this may fall either way in float32."""

EXACT = {"nmse": 1e-8, "key bias": 1e-4, "mask": 0.998, "tokens": 1.0}
INT8 = {"nmse": 0.1, "key bias": None, "mask": 0.9, "tokens": 0.75}
INT4 = {**INT8, "tokens": 0.6}
LIMITS = {"fp32": EXACT, "int8": INT8, "int4": INT4}
BORDER_PIXELS = 4
"""So few differing mask pixels are rounding on the border of a small mask, whatever their share."""


@dataclass
class Stage:
    """Errors of one stage over all pictures; ``limit`` None: stated only.

    ``nmse`` is the squared error over the squared values; ``agreement`` (mask: Dice; tokens: share) at
    least the limit, the others at most.
    """

    name: str
    measure: str
    limit: float | None
    values: list[float] = field(default_factory=list)
    max_abs: float = 0.0
    excused: bool = True

    @property
    def is_agreement(self) -> bool:
        return self.measure in ("Dice", "IoU", "share")

    @property
    def worst(self) -> float:
        values = self.values or [0.0]
        if self.measure == "share":
            return float(np.mean(values))
        return float(min(values) if self.is_agreement else max(values))

    @property
    def passed(self) -> bool:
        if not np.isfinite(self.worst) or not np.isfinite(self.max_abs):
            return False
        if self.limit is None:
            return True
        if self.measure == "Dice" and self.excused:
            return True
        return self.worst >= self.limit if self.is_agreement else self.worst <= self.limit

    def row(self) -> list[str]:
        limit = "-" if self.limit is None else f"{self.limit:g}"
        bound = ">= " if self.is_agreement else "<= "
        largest = f"{self.max_abs:.2e}" if self.measure == "NMSE" else "-"
        value = f"{self.worst:.4f}" if self.is_agreement else f"{self.worst:.2e}"
        return [self.name, self.measure, value, largest, bound + limit if self.limit is not None else "-"]


@dataclass
class Verification:
    """All stages, in the order of the path of the data."""

    images: int
    tokens: int
    stages: dict[str, Stage] = field(default_factory=dict)

    def stage(self, name: str, measure: str, limit: float | None) -> Stage:
        return self.stages.setdefault(name, Stage(name, measure, limit))

    @property
    def passed(self) -> bool:
        return all(stage.passed for stage in self.stages.values())

    def table(self) -> str:
        """The errors as a Markdown table."""
        lines = [
            "| stage | measure | value | max. abs. error | limit | |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for stage in self.stages.values():
            cells = [*stage.row(), "ok" if stage.passed else "FAILED"]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def compare(self, name: str, got: np.ndarray, want: np.ndarray, limit: float | None) -> None:
        """Add one picture's error of a stage."""
        stage = self.stage(name, "NMSE", limit)
        if got.shape != want.shape:
            raise ExportError(f"{name}: the graph gives {list(got.shape)}, the model {list(want.shape)}")
        error = got.astype(np.float64) - want
        scale = float(np.mean(np.square(want, dtype=np.float64)))
        # A stage that is zero everywhere (no guidance) is compared as it is.
        stage.values.append(float(np.mean(error**2)) / (scale if scale > 0 else 1.0))
        stage.max_abs = max(stage.max_abs, float(np.abs(error).max()))

    def compare_choices(
        self, name: str, got: np.ndarray, want: np.ndarray, limit: float | None, quantized: bool
    ) -> None:
        """Add one picture's share of rows with the model's likeliest choice; in float32 one as likely will do."""
        own, rows = got.argmax(1), np.arange(len(want))
        behind = want.max(1) - want[rows, own]
        same = own == want.argmax(1) if quantized else behind < NEAR_TIE
        self.stage(name, "share", limit).values.append(float(same.mean()))

    def compare_texts(
        self, got: Sequence[int], want: Sequence[int], margins: Sequence[float], limit: float, quantized: bool
    ) -> None:
        """Add the share of one picture's greedy text before the first difference; in float32 a text may go on otherwise
        behind a near tie.

        Parameters
        ----------
        margins : sequence of float
            How far ahead of the second choice every token of `want` was, and the stop behind it.
        """
        same = 0
        while same < min(len(got), len(want)) and got[same] == want[same]:
            same += 1
        whole = max(len(got), len(want))
        near_tie = not quantized and same < len(margins) and margins[same] < NEAR_TIE
        name = "greedy tokens before the first difference" if quantized else "greedy tokens"
        share = 1.0 if whole == 0 or near_tie else same / whole
        self.stage(name, "share", None if quantized else limit).values.append(share)


def verify(
    model: LanaModel,
    session: GraphSession,
    weights: dict[str, np.ndarray],
    manifest: dict[str, Any],
    images: Sequence[np.ndarray],
    *,
    sequence_length: int,
    threads: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> Verification:
    """Compare graph and kernel with the model.

    Parameters
    ----------
    session : GraphSession
        Of the graph with its check outputs.
    weights : dict
        The decoder's arrays as they are written.
    images : sequence of ndarray float32 [1, 3, H, W]
        Normalised pixels.

    Raises
    ------
    ExportError
        A stage is beyond tolerance; the message holds the table of errors.
    """
    from edge.decoder import Decoder

    quantized = manifest["precision"] != "fp32"
    count = min(TOKENS, manifest["generation"]["max_new_tokens"])
    result = Verification(len(images), count)
    decoder = Decoder(
        manifest["decoder"],
        weights,
        kv_dtype=manifest.get("kv_dtype"),
        threads=threads,
        prefill_int8=manifest.get("prefill_int8", ()),
    )
    for pixels in images:
        progress()
        _check_image(result, model, session, decoder, manifest, pixels, count, sequence_length, quantized)
    if not result.passed:
        failed = ", ".join(stage.name for stage in result.stages.values() if not stage.passed)
        raise ExportError(
            f"the exported graph does not compute what the model computes ({failed}); nothing was written\n"
            + result.table()
        )
    return result


def _check_image(
    result: Verification,
    model: LanaModel,
    session: GraphSession,
    decoder: Any,
    manifest: dict[str, Any],
    pixels: np.ndarray,
    count: int,
    sequence_length: int,
    quantized: bool,
) -> None:
    limits = LIMITS[manifest["precision"]]
    rows, kind = manifest["bias"]["rows"], manifest["bias"]["kind"]
    with_bias = kind != "none"
    got = _run(session, decoder, manifest, pixels, bias=rows != "none")
    with torch.no_grad():
        embeddings = model.prefix(torch.from_numpy(pixels))[0]
        result.compare("patch features", got["prefix_embeddings"], embeddings.numpy(), limits["nmse"])
        key_bias = None
        if with_bias:
            mask = model.mask(torch.from_numpy(pixels))
            _compare_mask(result, got["mask"], mask[0, 0].numpy(), limits["mask"])
            # float32 noise may flip a pixel on the border; what follows is then compared on the graph's own
            # mask.
            seen = mask if quantized else torch.from_numpy(got["mask"])[None, None]
            key_bias = model.anatomy(seen)[0]
            wanted = key_bias if manifest["bias"]["span"] == "prefix" else stretch(key_bias[None], sequence_length)[0]
            _compare_bias(result, got["key_bias"], wanted.numpy(), limits["key bias"])
    reference = ReferenceDecoder(
        model, embeddings, key_bias, sequence_length=sequence_length, prefill_bias=rows != "none"
    )
    result.compare("prefix keys", got["prefix_keys"], torch.stack(reference.keys).numpy(), limits["nmse"])
    values = torch.stack(reference.values).numpy()
    result.compare("prefix values", got["prefix_values"], values, limits["nmse"])
    result.compare("first logits", got["first_logits"], reference.first_logits.numpy(), limits["nmse"])
    if with_bias and not quantized:
        other = _run(session, decoder, manifest, pixels, bias=rows == "none")
        _check_switch(result, model, other, embeddings, key_bias, sequence_length, rows)
    generation = manifest["generation"]
    text = reference.greedy(
        count,
        bias_rows=rows,
        penalty=generation["repetition_penalty"],
        begin_ids=generation["begin_ids"],
        stop_ids=generation["stop_ids"],
        suppressed_ids=generation["suppressed_ids"],
    )
    if manifest.get("prefill") == "kernel":
        got["first_logits"] = decoder.prefill(got["prefix_embeddings"], got.get("key_bias"), bias=rows != "none")
    else:
        decoder.set_prefix(got["prefix_keys"], got["prefix_values"], got.get("key_bias"))
    _check_forced(result, decoder, got["first_logits"], text, generation, rows, limits, quantized)
    _check_greedy(result, decoder, got["first_logits"], text, generation, rows, count, limits, quantized)


def _run(
    session: GraphSession, decoder: Any, manifest: dict[str, Any], pixels: np.ndarray, *, bias: bool
) -> dict[str, np.ndarray]:
    """What the graph gives, and the prefill where that is the kernel's."""
    got = session.run(pixels, bias=bias)
    if manifest.get("prefill") == "kernel":
        names = ("first_logits", "prefix_keys", "prefix_values")
        arrays = decoder.prefill_with_cache(got["prefix_embeddings"], got.get("key_bias"), bias=bias)
        got |= dict(zip(names, arrays, strict=True))
    return got


def _compare_mask(result: Verification, got: np.ndarray, want: np.ndarray, limit: float) -> None:
    overlap = dice(got, want)
    result.stage("mask, IoU", "IoU", None).values.append(overlap / (2.0 - overlap))
    differing = int(((got > 0.5) != (want > 0.5)).sum())
    stage = result.stage("mask", "Dice", limit)
    stage.values.append(overlap)
    stage.excused = stage.excused and differing <= BORDER_PIXELS


def _compare_bias(result: Verification, got: np.ndarray, want: np.ndarray, limit: float | None) -> None:
    stage = result.stage("key bias", "max. abs.", limit)
    # The strict kind's lowest number stands for "hidden"; any other is near [0, strength].
    floor = -1e30
    hidden_differs = bool(((got < floor) != (want < floor)).any())
    error = np.abs(np.maximum(got, floor) - np.maximum(want, floor))[(got >= floor) & (want >= floor)]
    value = float(error.max()) if error.size else 0.0
    if hidden_differs and limit is not None:
        value = float("inf")
    stage.values.append(value)


def _check_switch(
    result: Verification,
    model: LanaModel,
    got: dict[str, np.ndarray],
    embeddings: torch.Tensor,
    key_bias: torch.Tensor | None,
    sequence_length: int,
    rows: str,
) -> None:
    """The same film with the prefill bias switched the other way."""
    other = rows == "none"
    want = ReferenceDecoder(model, embeddings, key_bias, sequence_length=sequence_length, prefill_bias=other)
    name = f"prefix values, bias {'on' if other else 'off'}"
    result.compare(name, got["prefix_values"], torch.stack(want.values).numpy(), EXACT["nmse"])


def _check_forced(
    result: Verification,
    decoder: Any,
    first_logits: np.ndarray,
    text: ReferenceText,
    generation: dict[str, Any],
    rows: str,
    limits: dict[str, Any],
    quantized: bool,
) -> None:
    """Logits along the model's own text."""
    if not text.ids:
        return
    begin = generation["begin_ids"]
    heads = [first_logits[None]]
    if begin:
        heads = [decoder.forward(np.array(begin, np.int32), bias=rows != "none")[-1:]]
    if len(text.ids) > 1:
        heads.append(decoder.forward(np.array(text.ids[:-1], np.int32), bias=rows == "all"))
    decoder.rewind(0)
    got, want = np.concatenate(heads), text.logits.numpy()
    result.compare("text logits", got, want, limits["nmse"])
    result.compare_choices("text logits, same first choice", got, want, limits["tokens"], quantized)


def _check_greedy(
    result: Verification,
    decoder: Any,
    first_logits: np.ndarray,
    text: ReferenceText,
    generation: dict[str, Any],
    rows: str,
    count: int,
    limits: dict[str, Any],
    quantized: bool,
) -> None:
    """The kernel's greedy text against the model's."""
    from edge.decoder import GenerationOptions

    options = GenerationOptions.from_manifest(generation, max_new_tokens=count, bias_rows=rows)
    ids = decoder.generate(first_logits, options).token_ids
    result.compare_texts(ids, text.ids, text.margins, limits["tokens"], quantized)


def dice(got: np.ndarray, want: np.ndarray) -> float:
    """Overlap of two binary masks; two empty ones agree."""
    a, b = got > 0.5, want > 0.5
    both = float(a.sum() + b.sum())
    return 1.0 if both == 0 else 2.0 * float((a & b).sum()) / both
