# SPDX-License-Identifier: Apache-2.0
"""A head looked at roughly first: the same ids, bit by bit the same in every other way. Of a float32 head 8 bits are
read, and so fewer bytes; by an int8 or int4 head fewer digits are multiplied, where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small import ALL_ISAS, DIGIT_ISAS, isas, need, need_digits, prefix_of, quantise, quantise4, spec_of, weights_of
from test_kernel_cross import KINDS
from test_kernel_lanes import LENGTHS, OPTIONS, alone, same

import edge._kernel as kernel

VOCAB = 1700
"""Not whole blocks."""
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {},
    "odd": {"layers": 2, "hidden": 60, "heads": 5, "kv_heads": 5, "head_dim": 12, "mlp": 100, "tied_head": False},
    "transform and bias": KINDS["post"],
}
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty": {"repetition_penalty": 1.3, "suppressed_ids": list(range(0, VOCAB, 3))},
    "reward": {"repetition_penalty": 0.8},
    "bans": {"no_repeat_ngram": 2, "min_new_tokens": 20, "stop_ids": list(range(0, VOCAB, 5))},
}
MANY = 20011
"""So many that none of flat scores weighs anything, and the bound alone says who could win."""
NEAR = 1e-3
"""How far a log-probability may be from the one of a whole head: random heads have no heavy ids."""


def pair(spec: dict[str, Any], weights: dict[str, NDArray[Any]], **options: Any) -> list[kernel.Decoder]:
    """Without and with the screen."""
    options = {"threads": 2, "evidence_layers": [1]} | options
    return [kernel.Decoder(spec, weights, screen_head=screen, **options) for screen in (False, True)]


heads = pytest.mark.parametrize("stored", ["fp32", "int8", "int4"])
"""How the head is stored; that it is screened is seen in the last digits of log-probabilities."""
isas_and_heads = pytest.mark.parametrize(
    ("isa", "stored"),
    [(isa, "fp32") for isa in ALL_ISAS]
    + [(isa, bits) for isa in ALL_ISAS if isa in DIGIT_ISAS for bits in ("int8", "int4")],
)


def store(weights: dict[str, NDArray[Any]], stored: str) -> dict[str, NDArray[Any]]:
    """With the head stored so; columns that are no whole groups in int8 instead of int4."""
    if stored == "fp32":
        return weights
    name = "head.weight" if "head.weight" in weights else "embed.weight"
    w, scale = (quantise4 if stored == "int4" and weights[name].shape[1] % 32 == 0 else quantise)(weights[name])
    return weights | {name: w, f"{name}.scale": scale}


def long(weights: dict[str, NDArray[Any]], factor: float) -> None:
    """One of the last activations is so much longer than the others."""
    weights["final_norm.weight"][7] *= factor
    weights["final_norm.bias"][7] *= factor
    head_of(weights)[:, 7] /= factor


def head_of(weights: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    head: NDArray[np.float32] = weights.get("head.weight", weights["embed.weight"])
    return head


def hard(weights: dict[str, NDArray[Any]], seed: int = 3) -> None:
    """Families of rows that 8 bits cannot tell apart, twins among them, and rows whose 8 bits say nothing."""
    rng = np.random.default_rng(seed)
    head = head_of(weights)
    rows, cols = head.shape
    # Long ones win, so that the choice is always among them.
    parents = 3 * head[rng.integers(0, rows, 12)]
    family = rng.permutation(rows)[: rows // 2]
    head[family] = parents[rng.integers(0, len(parents), len(family))]
    head[family] *= 1 + 1e-5 * rng.standard_normal((len(family), 1)).astype(np.float32)
    head[family[1::8]] = head[family[::8][: len(family[1::8])]]
    wild = rng.permutation(rows)[: rows // 20]
    head[wild, rng.integers(0, cols, len(wild))] = 40 * rng.standard_normal(len(wild)).astype(np.float32)


@isas_and_heads
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("difficult", [False, True], ids=["easy", "hard"])
def test_same_ids(isa: str, shape: str, rules: str, difficult: bool, stored: str) -> None:
    spec = spec_of(**(SHAPES[shape] | {"vocab": VOCAB}))
    weights, prefix = weights_of(spec), prefix_of(spec, 70)
    if difficult:
        hard(weights)
    saved = 3 * head_of(weights).size if stored == "fp32" else 0
    decoders = pair(spec, store(weights, stored), isa=need(isa))
    texts = []
    for decoder in decoders:
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=60, **RULES[rules]))
    exact, screened = texts
    assert screened.token_ids == exact.token_ids
    np.testing.assert_array_equal(screened.evidence, exact.evidence)
    np.testing.assert_allclose(screened.logprobs, exact.logprobs, rtol=0, atol=NEAR)
    assert decoders[0].weight_bytes - decoders[1].weight_bytes == saved


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e4, 1e6])
@pytest.mark.parametrize("stored", ["int8", "int4"])
def test_long_activations(factor: float, stored: str) -> None:
    """They take the other activations' upper digits, so more digits count; with the last a whole head's bits are
    left."""
    spec = spec_of(vocab=VOCAB)
    weights, prefix = weights_of(spec), prefix_of(spec, 70)
    long(weights, factor)
    texts = []
    for decoder in pair(spec, store(weights, stored), isa=need_digits()):
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=60))
    exact, screened = texts
    assert screened.token_ids == exact.token_ids
    np.testing.assert_allclose(screened.logprobs, exact.logprobs, rtol=0, atol=NEAR)
    off = np.abs(np.subtract(screened.logprobs, exact.logprobs)).max()
    assert (off == 0) == (factor == 1e6), off


@heads
def test_equal_scores(stored: str) -> None:
    """The lowest of equal ids, wherever they lie."""
    spec = spec_of(vocab=VOCAB)
    weights, prefix = weights_of(spec), prefix_of(spec, 20)
    rng = np.random.default_rng(0)
    pairs = np.sort(rng.permutation(VOCAB)[:1200].reshape(-1, 2), axis=1)
    weights["embed.weight"][pairs[:, 1]] = weights["embed.weight"][pairs[:, 0]]
    texts = []
    for decoder in pair(spec, store(weights, stored)):
        decoder.set_prefix(prefix["keys"], prefix["values"], None)
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=200).token_ids)
    assert texts[0] == texts[1]
    assert not set(pairs[:, 1].tolist()) & set(texts[0])
    assert set(pairs[:, 0].tolist()) & set(texts[0])


@isas_and_heads
@pytest.mark.parametrize("difficult", ["easy", "hard", "long"])
def test_same_bits_for_any_threads_and_drafts(isa: str, difficult: str, stored: str) -> None:
    spec = spec_of(vocab=VOCAB)
    weights, prefix = weights_of(spec), prefix_of(spec, 50)
    if difficult == "hard":
        hard(weights)
    if difficult == "long":
        long(weights, 20.0)  # so that some rows need another digit, and others do not
    weights = store(weights, stored)
    options = {"begin_ids": [4], "max_new_tokens": 50, "repetition_penalty": 1.2}
    texts = []
    for threads in (1, 2, 5):
        decoder = pair(spec, weights, isa=need(isa), threads=threads)[1]
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        plain = decoder.generate(None, **options)
        ids = list(plain.token_ids)
        # Right ones, wrong ones, and some that become wrong on the way.
        script = [ids[i : i + i % 7] + ([(7 * i) % VOCAB] if i % 3 == 0 else []) for i in range(len(ids))]
        drafted = decoder.generate(None, draft_script=script, **options)
        assert drafted.passes < plain.passes
        texts += [plain, drafted]
    for text in texts[1:]:
        same(text, texts[0])


@heads
def test_beside_beams_and_samples(stored: str) -> None:
    """A greedy text is the same, bit by bit, whatever else shares its passes; others read the whole head."""
    spec = spec_of(vocab=VOCAB)
    weights = store(weights_of(spec), stored)
    films = [prefix_of(spec, n, seed=20 + i) for i, n in enumerate(LENGTHS)]
    options = [{k: v for k, v in one.items() if k != "stop_ids"} for one in OPTIONS]
    whole, screened = pair(spec, weights)
    want = [alone(screened, film, one) for film, one in zip(films, options, strict=True)]
    for one, text, film in zip(options, want, films, strict=True):
        if "temperature" in one or "beams" in one:
            same(text, alone(whole, film, one))
    for lane, film in enumerate(films):
        screened.set_lane_prefix(lane, film["keys"], film["values"], film["soft"])
    for order in ((0, 1, 2, 3, 4), (4, 0, 3, 1, 2), (3, 0, 4), (4, 2)):
        texts = [(lane, None, kernel.TextOptions(**options[lane]), None) for lane in order]
        for lane, text in zip(order, screened.generate_texts(texts), strict=True):
            same(text, want[lane])


@isas
def test_what_weighs_something_is_read(isa: str) -> None:
    """A quarter of the probability on a row whose 8 bits see nothing of it."""
    spec = spec_of(vocab=VOCAB, layers=1, tied_head=False)
    weights, prefix = weights_of(spec), prefix_of(spec, 20)
    weights["final_norm.weight"][:] = 0
    weights["final_norm.bias"][:] = 1
    weights["final_norm.bias"][0] = 0  # what the head reads: 0, 1, 1, ...
    head = weights["head.weight"]
    head[:] = 0
    head[5, 1:] = 20 / 63
    head[900] = 18.9 / 63
    head[900, 0] = 100  # beside which the others are no level
    texts = []
    for decoder in pair(spec, weights, isa=need(isa), evidence_layers=[]):
        decoder.set_prefix(prefix["keys"], prefix["values"], None)
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=1))
    assert [text.token_ids for text in texts] == [[5], [5]]
    assert texts[0].logprobs[0] == pytest.approx(-np.log1p(np.exp(-1.1)), abs=1e-4)
    np.testing.assert_allclose(texts[1].logprobs, texts[0].logprobs, rtol=0, atol=1e-6)


@isas_and_heads
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_flat_scores(isa: str, penalty: float, stored: str) -> None:
    """Nearly the same for all of many ids."""
    spec = spec_of(vocab=MANY, layers=1, hidden=32, head_dim=8, mlp=64, tied_head=False)
    weights, prefix = weights_of(spec), prefix_of(spec, 20)
    hard(weights)
    weights["head.weight"] *= 1e-3
    texts = []
    for decoder in pair(spec, store(weights, stored), isa=need(isa), evidence_layers=[]):
        decoder.set_prefix(prefix["keys"], prefix["values"], prefix["soft"])
        texts.append(decoder.generate(None, begin_ids=[4], max_new_tokens=60, repetition_penalty=penalty))
    exact, screened = texts
    assert screened.token_ids == exact.token_ids
    assert max(exact.logprobs) < np.log(1e-4)
    assert len(set(exact.token_ids)) > 5
    np.testing.assert_allclose(screened.logprobs, exact.logprobs, rtol=0, atol=NEAR)


@pytest.mark.parametrize(("value", "stored"), [(np.nan, "fp32"), (np.inf, "fp32"), (-np.inf, "fp32"), (np.nan, "int8")])
def test_not_finite(value: float, stored: str) -> None:
    """Refused as without a screen."""
    spec = spec_of(vocab=VOCAB)
    weights, prefix = store(weights_of(spec), stored), prefix_of(spec, 20)
    if stored == "fp32":
        weights["embed.weight"][1234, 5] = value
    else:
        weights["embed.weight.scale"][1234] = value
    for decoder in pair(spec, weights):
        decoder.set_prefix(prefix["keys"], prefix["values"], None)
        with pytest.raises(RuntimeError, match="not finite"):
            decoder.generate(None, begin_ids=[4], max_new_tokens=5)


def test_where_there_is_none() -> None:
    """Not of int8 and int4 heads without products of digits, and by itself only of large ones."""
    spec = spec_of(vocab=VOCAB)
    prefix = prefix_of(spec, 20)
    for precision, screen, isa in (
        ("int8", True, "generic"),
        ("int4", True, "generic"),
        ("fp32", None, None),
        ("int8", None, None),
        ("int4", None, None),
    ):
        weights = weights_of(spec, precision)
        plain = kernel.Decoder(spec, weights, threads=1, screen_head=False, isa=isa)
        other = kernel.Decoder(spec, weights, threads=1, screen_head=screen, isa=isa)
        assert plain.weight_bytes == other.weight_bytes
        for decoder in (plain, other):
            decoder.set_prefix(prefix["keys"], prefix["values"], None)
        same(*(decoder.generate(None, begin_ids=[4], max_new_tokens=30) for decoder in (plain, other)))
    large = spec_of(vocab=1 << 17, layers=1)
    decoder = kernel.Decoder(large, weights_of(large), threads=2)
    assert decoder.weight_bytes < (1 << 17) * 64 * 2
