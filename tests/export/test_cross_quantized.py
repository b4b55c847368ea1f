# SPDX-License-Identifier: Apache-2.0
"""Decoders with cross-attention in int8 and int4: the texts of a model that has these rounded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small  # noqa: E402  (needs torch)
from edge_export.cli import main  # noqa: E402
from edge_export.families.cross import decoders as kinds  # noqa: E402
from edge_export.families.cross.encoders import EncoderTokens  # noqa: E402
from edge_export.int4 import widen_groups  # noqa: E402
from edge_export.quantize import quantize_decoder  # noqa: E402
from test_cross_families import image_keys  # noqa: E402

from edge.decoder import Decoder, GenerationOptions  # noqa: E402

IMAGES = 20


def widened(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights in float32."""
    wide = {}
    for name, array in arrays.items():
        scale = arrays.get(f"{name}.scale")
        if array.dtype == np.uint8:
            wide[name] = widen_groups(array, scale)
        elif array.dtype == np.int8:
            wide[name] = array.astype(np.float32) * scale[:, None]
        elif not name.endswith(".scale"):
            wide[name] = array
    return wide


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("decoder", small.DECODERS)
def test_texts_of_the_rounded_weights(decoder: str, bits: str) -> None:
    """Greedy and with beams, on 20 pictures: what float32 makes of the same values. The float32 kernel's ids are the
    library's (the tests of the families)."""
    model = small.random_model("vit", decoder)
    parts = kinds.DECODERS[decoder](model.decoder)
    with torch.no_grad():
        encoder = EncoderTokens(model)
        films = [image_keys(parts, encoder(one[None])) for one in small.pictures(IMAGES)]
    exact = parts.arrays()
    arrays = quantize_decoder(exact, bits)
    stored = {name: array.dtype for name, array in arrays.items() if name.startswith("layers.") and array.ndim == 2}
    assert {np.dtype(np.int8 if bits == "int8" else np.uint8)} == set(stored.values()) - {np.dtype(np.float16)}
    spec = parts.spec(films[0][0].shape[2])
    quantized = Decoder(spec, arrays, threads=2, kv_dtype="fp32")
    wide = Decoder(spec, widened(arrays), threads=1)
    other = Decoder(spec, exact, threads=1)
    options = GenerationOptions(begin_ids=(2,), stop_ids=(319,), max_new_tokens=30, bias_rows="none", draft=False)
    texts, moved, ties = set(), 0, 0
    for film in films:
        for one in (quantized, wide, other):
            one.set_prefix(*film)
        text = quantized.generate(None, options)
        expected = wide.generate(None, options)
        assert text.token_ids == expected.token_ids
        np.testing.assert_allclose(text.logprobs, expected.logprobs, atol=2e-4)
        beams = options.but(beams=4, sequences=2)
        got, want = quantized.generate(None, beams), wide.generate(None, beams)
        scores, right = ([score for _, score in one.sequences] for one in (got, want))
        np.testing.assert_allclose(scores, right, atol=2e-5)
        # Two texts of one score, which these models write now and then, may change places, or one may go.
        tied = right[0] - right[1] < 2e-6
        ties += tied
        assert tied or [ids for ids, _ in got.sequences] == [ids for ids, _ in want.sequences]
        texts.add(tuple(text.token_ids))
        moved += text.token_ids != other.generate(None, options).token_ids
    assert len(texts) > 1
    assert ties < IMAGES // 4
    if bits == "int4":
        assert moved  # rounding to 4 bits is no small thing for random weights: the comparison above means something


@pytest.mark.slow
@pytest.mark.parametrize("decoder", small.DECODERS)
def test_export(tmp_path: Any, decoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exporter's own check passes in int8. In int4 it may find that random weights choose other words than before
    rounding, and nothing else."""
    folder = small.save(small.random_model("vit", decoder), tmp_path / "folder")
    assert main([str(folder), "--out", str(tmp_path / "int8"), "-q", "--quantize", "int8"]) == 0
    code = main([str(folder), "--out", str(tmp_path / "int4"), "-q", "--quantize", "int4"])
    failed = [line for line in capsys.readouterr().err.splitlines() if "FAILED" in line]
    assert all(line.startswith("| text logits") for line in failed)
    assert code == (84 if failed else 0)


def test_tables_stay_as_they_are() -> None:
    arrays = {
        name: np.ones((4, 64), np.float32) for name in ("positions.weight", "types.weight", "layers.0.cross_q.weight")
    }
    made = quantize_decoder(arrays, "int8")
    assert {name: made[name].dtype.name for name in arrays} == {
        "positions.weight": "float32", "types.weight": "float32", "layers.0.cross_q.weight": "int8",
    }  # fmt: skip
