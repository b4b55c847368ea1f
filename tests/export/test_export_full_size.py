# SPDX-License-Identifier: Apache-2.0
"""The paper's true shapes with random weights: export, self-check, and 60 tokens on three pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edge_export.families.lana.anatomy import BiasConfig  # noqa: E402
from edge_export.options import ExportOptions, GenerationOptions  # noqa: E402
from edge_export.pipeline import export_model  # noqa: E402
from edge_export.random_checkpoint import (  # noqa: E402
    config_of,
    random_model,
    random_tokenizer,
    smooth_pixels,
)
from reference_model import ReferenceModel  # noqa: E402
from runtime_ids import Runtime, assert_same  # noqa: E402

pytestmark = pytest.mark.full_size

IMAGES, TOKENS = 3, 60
MEMORY = 9 << 30


@pytest.fixture(scope="module")
def model() -> Any:
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < MEMORY:
        pytest.skip(f"needs {MEMORY >> 30} GB of free memory")
    return random_model(config_of("reference"), 0)


def test_sixty_tokens_at_full_size(model: Any, tmp_path: Path) -> None:
    """The soft bias through the whole bundle; the kernel's own full-size test has the strict one."""
    kind = "gaussian"
    model.config.bias = model.anatomy.config = BiasConfig(kind)
    assert model.config.prefix_length == 1024
    tokenizer = tmp_path / "tokenizer.json"
    random_tokenizer(model.config.vocab).save(str(tokenizer))
    rng = np.random.default_rng(5)
    pixels = np.concatenate([smooth_pixels(512, rng) for _ in range(IMAGES)])
    options = ExportOptions(name="full-size", generation=GenerationOptions(max_new_tokens=TOKENS))
    export_model(model, tokenizer, tmp_path / "bundle", options, images=[pixels[:1]])
    reference = ReferenceModel(model, pixels, kind)
    assert all(0.05 < mask.mean() < 0.95 for mask in reference.seen)
    runtime = Runtime(tmp_path / "bundle", threads=torch.get_num_threads())
    for rows in ("all", "prefill", "none"):
        got = [runtime.ids(pixels[i : i + 1], rows, 1.2, TOKENS) for i in range(IMAGES)]
        assert all(len(text) == TOKENS for text in got)
        assert_same(got, reference.choices(got, rows, 1.2), ties=1)
