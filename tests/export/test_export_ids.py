# SPDX-License-Identifier: Apache-2.0
"""Token for token: the exported graph and the kernel against transformers' GPT-2 with explicit masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edge_export.random_checkpoint import smooth_pixels
from reference_model import ReferenceModel
from runtime_ids import Runtime, assert_same
from tiny import END_OF_TEXT_ID

IMAGES, TOKENS = 20, 100

Exported = Callable[..., tuple[Any, Path]]


def pictures(count: int, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(2026)
    return np.concatenate([smooth_pixels(size, rng) for _ in range(count)])


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
@pytest.mark.parametrize("kind", ["gaussian", "hidden"])
def test_ids_equal_pytorch(exported: Exported, kind: str, rows: str, penalty: float) -> None:
    """One bundle serves all three row modes through its switch."""
    model, folder = exported(kind=kind)
    pixels = pictures(IMAGES)
    runtime = Runtime(folder)
    want = ReferenceModel(model, pixels, kind).greedy(TOKENS, rows, penalty)
    assert len({tuple(ids) for ids in want.ids.tolist()}) > IMAGES // 2
    assert_same([runtime.ids(pixels[i : i + 1], rows, penalty, TOKENS) for i in range(IMAGES)], want, ties=2)


@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
@pytest.mark.parametrize("kind", ["gaussian", "hidden"])
def test_ids_with_the_kernels_prefill_equal_pytorch(exported: Exported, kind: str, rows: str) -> None:
    model, folder = exported(kind=kind, prefill="kernel")
    pixels = pictures(IMAGES)
    runtime = Runtime(folder)
    assert runtime.manifest.kernel_prefill
    want = ReferenceModel(model, pixels, kind).greedy(60, rows, 1.2)
    assert_same([runtime.ids(pixels[i : i + 1], rows, 1.2, 60) for i in range(IMAGES)], want, ties=2)


@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
def test_the_reference_with_its_cache_is_the_reference_without(exported: Exported, rows: str) -> None:
    import torch

    model, _ = exported(kind="hidden")
    reference = ReferenceModel(model, pictures(3), "hidden")
    text = reference.greedy(6, rows, 1.0)
    logits = reference.full_logits(torch.from_numpy(text.ids[:, :-1].copy()), rows, 0, 0)
    assert np.array_equal(logits.argmax(-1).numpy(), text.ids)


def test_modes_differ(exported: Exported) -> None:
    _, folder = exported(kind="gaussian")
    runtime = Runtime(folder)
    pixels = pictures(4)
    texts = {
        rows: [tuple(runtime.ids(pixels[i : i + 1], rows, 1.2, TOKENS)) for i in range(4)]
        for rows in ("all", "prefill", "none")
    }
    assert texts["all"] != texts["prefill"] != texts["none"] != texts["all"]


@pytest.mark.parametrize("prefill", [None, "kernel"], ids=["graph", "kernel"])
@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("layerwise", {"skip_tokens": 1, "connector": "mlp4", "begin": True, "suppress": True}),
        ("gaussian_legacy", {"skip_tokens": 1, "tied_head": False, "shared_trunk": False}),
        ("gaussian", {"skip_tokens": 1, "strength": 2.5}),
        ("none", {"segmenter": False, "begin": True}),
    ],
)
def test_variants(exported: Exported, kind: str, options: dict[str, Any], rows: str, prefill: str | None) -> None:
    if kind == "none" and rows != "none":
        pytest.skip("there is no bias to switch")
    strength = options.get("strength", 2.0 if kind in ("layerwise", "gaussian_legacy") else 1.0)
    model, folder = exported(kind=kind, prefill=prefill, **(options | {"strength": strength}))
    pixels = pictures(6)
    runtime = Runtime(folder)
    generation = runtime.manifest.generation
    assert generation.begin_ids == ((END_OF_TEXT_ID,) if options.get("begin") else ())
    sequence = runtime.manifest.prefix.length + len(generation.begin_ids) + generation.max_new_tokens
    want = ReferenceModel(model, pixels, kind, strength).greedy(
        60,
        rows,
        1.2,
        begin=list(generation.begin_ids),
        suppressed=list(generation.suppressed_ids),
        sequence=sequence,
    )
    assert_same([runtime.ids(pixels[i : i + 1], rows, 1.2, 60) for i in range(len(pixels))], want, ties=1)
