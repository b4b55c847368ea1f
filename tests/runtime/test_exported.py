# SPDX-License-Identifier: Apache-2.0
"""The engine on bundles of the real exporter, token for token against PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import chest_picture

import edge
from edge.film import read_film
from edge.preprocess import to_gray8, to_pixels

torch = pytest.importorskip("torch")
pytest.importorskip("edge_export")
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from tiny import tiny_bundle, tiny_model  # noqa: E402

MODELS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "layerwise with begin token and registers": {"kind": "layerwise", "skip_tokens": 1, "connector": "mlp4"},
    "hidden": {"kind": "hidden"},
}
COUNT = 40


@pytest.fixture(scope="module", params=MODELS, ids=lambda name: name.split()[0])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, edge.Engine]:
    torch.set_num_threads(1)
    options = MODELS[request.param]
    model = tiny_model(**options).eval()
    begin = "begin" in request.param
    path = tiny_bundle(
        tmp_path_factory.mktemp("exported") / "bundle",
        model=model,
        begin=begin,
        suppress=True,
    )
    return model, edge.load(path, threads=1)


def reference(model: Any, engine: edge.Engine, film: np.ndarray, rows: str, penalty: float) -> tuple[int, ...]:
    """Ids that PyTorch writes; the list ends where two candidates are too close to call."""
    from edge_export.families.lana.reference import ReferenceDecoder

    manifest, generation = engine.manifest, engine.manifest.generation
    pixels = torch.from_numpy(to_pixels(to_gray8(read_film(film), manifest.image["intensity"]), manifest.image))
    with torch.no_grad():
        embeddings = model.prefix(pixels)[0]
        key_bias = model.anatomy(model.mask(pixels))[0]
    decoder = ReferenceDecoder(
        model,
        embeddings,
        key_bias,
        sequence_length=manifest.prefix.length + len(generation.begin_ids) + generation.max_new_tokens,
        prefill_bias=rows != "none",
    )
    text = decoder.greedy(
        COUNT,
        bias_rows=rows,
        penalty=penalty,
        begin_ids=generation.begin_ids,
        suppressed_ids=generation.suppressed_ids,
    )
    clear = next((i for i, margin in enumerate(text.margins) if margin < 1e-4), COUNT)
    assert clear >= 10
    return tuple(text.ids[:clear])


@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_token_for_token(case: tuple[Any, edge.Engine], rows: str, penalty: float) -> None:
    model, engine = case
    for seed in range(3):
        film = np.roll(chest_picture(80 + 9 * seed), 5 * seed, axis=0)
        want = reference(model, engine, film, rows, penalty)
        report = engine.report(film, bias_rows=rows, repetition_penalty=penalty, max_new_tokens=COUNT)
        assert report.token_ids[: len(want)] == want
        assert report.mask is not None
        assert report.to_json()
