# SPDX-License-Identifier: Apache-2.0
"""Token for token against transformers' GPT-2 with an image prefix and a per-layer additive bias."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from small import isas, need, spec_of

from edge import _kernel as kernel

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import gpt2  # noqa: E402  (needs torch)

IMAGES, PREFIX, TOKENS = 20, 48, 100
SPEC = spec_of(max_positions=160)
FULL = spec_of(layers=12, hidden=768, heads=12, kv_heads=12, head_dim=64, mlp=3072, vocab=50257, max_positions=2048)


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    # Matrices this small gain nothing from threads, and a second team of them would fight the kernel's.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield gpt2.gpt2_of(SPEC, 0.15)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("mask", ["soft", "strict"])
def test_greedy_tokens(model: Any, mask: str) -> None:
    x, bias = gpt2.random_images(SPEC, IMAGES, PREFIX)
    decoder = kernel.Decoder(SPEC, gpt2.weights_of_gpt2(model), threads=1)
    gpt2.check_greedy(model, decoder, x, bias[mask], TOKENS)


@pytest.mark.full_size
def test_greedy_tokens_full_size() -> None:
    model = gpt2.gpt2_of(FULL, 0.06)
    x, bias = gpt2.random_images(FULL, 3, 1024)
    decoder = kernel.Decoder(FULL, gpt2.weights_of_gpt2(model), threads=torch.get_num_threads())
    gpt2.check_greedy(model, decoder, x, bias["soft"], 60)
    # Without a bias the mask does not matter.
    gpt2.check_greedy(model, decoder, x, bias["strict"], 60, modes=("all", "prefill"), penalties=(1.2,))


@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
@pytest.mark.parametrize("mask", ["soft", "strict"])
def test_greedy_loop(model: Any, rows: str, mask: str) -> None:
    """PyTorch's own loop with its cache, one token at a time, on one image."""
    x, biases = gpt2.random_images(SPEC, 1, PREFIX)
    bias = biases[mask]
    cache, first = gpt2.prefill(model, x, bias if rows != "none" else None)
    decoder = kernel.Decoder(SPEC, gpt2.weights_of_gpt2(model), threads=1)
    gpt2.set_prefix(decoder, cache, 0, bias)
    start = np.ascontiguousarray(first[0].numpy())
    result = decoder.generate(start, bias_rows=rows, max_new_tokens=TOKENS, repetition_penalty=1.2)
    want: list[int] = []
    scores = first[0]
    for _ in range(TOKENS):
        want.append(int(gpt2.penalised(scores, want, 1.2).argmax()))
        scores = gpt2.extend(model, cache, torch.tensor([want[-1:]]), bias if rows == "all" else None)[0, -1]
    assert result.token_ids == want


@isas
def test_logits(model: Any, isa: str) -> None:
    """Teacher forcing: float32 against float32."""
    x, bias = gpt2.random_images(SPEC, 1, PREFIX)
    cache, _ = gpt2.prefill(model, x, bias["soft"])
    decoder = kernel.Decoder(SPEC, gpt2.weights_of_gpt2(model), threads=1, isa=need(isa))
    gpt2.set_prefix(decoder, cache, 0, bias["soft"])
    ids = np.random.default_rng(2).integers(0, SPEC["vocab"], 60).astype(np.int32)
    want = gpt2.extend(model, cache, torch.from_numpy(ids[None].astype(np.int64)), bias["soft"])[0].numpy()
    got = decoder.forward(ids, True)
    assert ((got - want) ** 2).sum() / (want**2).sum() < 2e-11
