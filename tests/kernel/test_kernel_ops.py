# SPDX-License-Identifier: Apache-2.0
"""Every single kernel against its NumPy twin, on every instruction set of this machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import twin
from numpy.typing import NDArray
from small import caches, isas, need, need_digits, quantise, quantise4

from edge._kernel import ops

SIZES = (1, 3, 7, 8, 15, 16, 31, 64, 100, 768)


@isas
def test_exp(isa: str) -> None:
    x = np.concatenate([np.linspace(-87, 87, 20001), [0.0, -87.29]]).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    assert (np.abs(ops.exp(need(isa), x) / want - 1)).max() < 2e-7
    assert (ops.exp(isa, np.array([-88, -1e4, -3.4e38, -np.inf], np.float32)) == 0).all()


@isas
@pytest.mark.parametrize("name", ["gelu_tanh", "gelu_erf"])
def test_gelu(isa: str, name: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 9999), [0, -1e-8, 1e-8, 100, -100, 3e4]]).astype(np.float32)
    got, want = getattr(ops, name)(need(isa), x), getattr(twin, name)(x)
    assert twin.nmse(got, want) < 1e-14
    # Relative to the input, which is what the next layer sees; the tail below -10 is zero either way.
    assert (np.abs(got - want) <= 4e-7 * np.abs(x)).all()


@isas
@pytest.mark.parametrize("n", SIZES[1:])
def test_layer_norm(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    # A mean far above the spread: one-pass statistics would lose it.
    x = (300 + rng.standard_normal(n)).astype(np.float32)
    weight, bias = rng.standard_normal((2, n)).astype(np.float32)
    got = ops.layer_norm(need(isa), x, weight, bias, 1e-5)
    assert twin.nmse(got, twin.layer_norm(x, weight, bias, 1e-5)) < 1e-12


@isas
@pytest.mark.parametrize(
    ("kind", "cols"),
    [(kind, cols) for kind in ("fp32", "int8") for cols in SIZES] + [("int4", n) for n in (32, 64, 96, 256, 352, 768)],
)
def test_matmul(isa: str, kind: str, cols: int) -> None:
    need(isa)
    rng = np.random.default_rng(cols)
    w = rng.standard_normal((23, cols)).astype(np.float32)
    scale = None
    if kind == "int8":
        w, scale = quantise(w)
    if kind == "int4":
        w, scale = quantise4(w)
        scale[::3] *= -1
    x = rng.standard_normal((11, cols)).astype(np.float32)
    bias = rng.standard_normal(23).astype(np.float32)
    start = rng.standard_normal((11, 23)).astype(np.float32)
    want = twin.matmul(w, scale, x, bias)
    plain = twin.matmul(w, scale, x, None)
    if kind == "int4":
        scale = scale.view(np.uint16)
    whole = ops.matmul(isa, w, scale, x, bias, None, 0, 23)
    assert twin.nmse(whole, want) < 1e-13
    added = ops.matmul(isa, w, scale, x, None, start, 0, 23)
    assert twin.nmse(added, start + plain) < 1e-13
    # Bit by bit the same for any number of rows and any range.
    for rows in range(1, 11):
        np.testing.assert_array_equal(ops.matmul(isa, w, scale, x[:rows], bias, None, 0, 23), whole[:rows])
    for begin, end in [(0, 1), (1, 7), (5, 5), (6, 23)]:
        part = ops.matmul(isa, w, scale, x[:1], bias, None, begin, end)
        np.testing.assert_array_equal(part[:, begin:end], whole[:1, begin:end])
        assert not part[:, :begin].any()
        assert not part[:, end:].any()


def bits_of(scale: NDArray[Any]) -> NDArray[Any]:
    return scale.view(np.uint16) if scale.dtype == np.float16 else scale


@pytest.mark.parametrize(("store", "cols"), [(quantise4, 800), (quantise, 800), (quantise, 837), (quantise, 40)])
def test_digits_lose_nothing(store: Any, cols: int) -> None:
    """Activations of three digits, beside the same in float32."""
    isa = need_digits()
    rng = np.random.default_rng(6)
    w, scale = store(rng.standard_normal((37, cols)).astype(np.float32))
    x = rng.standard_normal((7, cols)).astype(np.float32)
    x[1] *= 1e-30
    x[2] *= 1e30
    x[3, 5] = 300.0  # an outlier takes digits from the others
    x[4] = 0.0
    x[5] = -np.abs(x[5])  # all of one sign: what the unsigned weights add is taken off again
    x[6] = np.float32(0.7)
    want = twin.matmul(w, scale, x, None)
    got = {d: ops.matmul(isa, w, bits_of(scale), x, None, None, 0, 37, digits=d) for d in (True, False)}
    assert (got[True] != got[False]).any(), "there are no products of digits"
    for row in (0, 1, 2, 3, 5, 6):
        assert twin.nmse(got[True][row], want[row]) < (1e-11 if row == 3 else 1e-13), row
        # Longer sums in fewer lanes.
        assert twin.nmse(got[False][row], want[row]) < 3e-13, row
    assert not got[True][4].any()


@pytest.mark.parametrize(
    ("store", "cols"), [*((quantise, n) for n in (40, 64, 837, 3072)), *((quantise4, n) for n in (32, 128, 800, 3072))]
)
@pytest.mark.parametrize("upper", [1, 2])
def test_upper_digits(store: Any, cols: int, upper: int) -> None:
    """Products with what is left of the activations without their lower digits, for any number of rows."""
    isa = need_digits()
    rng = np.random.default_rng(8)
    w, scale = store(rng.standard_normal((37, cols)).astype(np.float32))
    x = rng.standard_normal((20, cols)).astype(np.float32)
    x[3, 5] = 300.0
    largest = np.float32(8355000)
    left = np.rint(x * (largest / np.abs(x).max(1, keepdims=True))).astype(np.int64)
    for _ in range(upper, 3):
        left = (left + 128) // 256
    left *= 256 ** (3 - upper)
    y = left @ twin.full(w, scale).T * (np.abs(x).max(1, keepdims=True) / largest)
    scale = bits_of(scale)
    got = ops.matmul(isa, w, scale, x, None, None, 0, 37, upper=upper)
    np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-6 * np.abs(y).max())
    for rows in range(1, 20):
        np.testing.assert_array_equal(ops.matmul(isa, w, scale, x[:rows], None, None, 0, 37, upper=upper), got[:rows])
    with pytest.raises(ValueError, match="upper"):
        ops.matmul(isa, w, scale, x, None, None, 0, 37, upper=0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_digits_stay_inside_32_bits(sign: int) -> None:
    isa = need_digits()
    for cols in (1, 64, 3072, 20_000):
        w, x = np.full((5, cols), -127, np.int8), np.full((3, cols), 2.5 * sign, np.float32)
        got = ops.matmul(isa, w, np.ones(5, np.float32), x, None, None, 0, 5)
        np.testing.assert_allclose(got, np.full((3, 5), -127 * 2.5 * sign * cols), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("store", [quantise, quantise4])
def test_digits_of_what_is_not_finite(value: float, store: Any) -> None:
    isa = need_digits()
    rng = np.random.default_rng(7)
    w, scale = store(rng.standard_normal((5, 160)).astype(np.float32))
    x = rng.standard_normal((3, 160)).astype(np.float32)
    x[1, 77] = value
    got = ops.matmul(isa, w, bits_of(scale), x, None, None, 0, 5)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()


@isas
@caches
@pytest.mark.parametrize("head_dim", [1, 5, 16, 24, 64, 80])
@pytest.mark.parametrize("bias_kind", ["none", "soft", "strict", "hidden"])
def test_attention(isa: str, kv: str, head_dim: int, bias_kind: str) -> None:
    need(isa)
    rng = np.random.default_rng(head_dim)
    keys, rows = 300, 7
    q = (3 * rng.standard_normal((rows, head_dim))).astype(np.float32)
    k, v = rng.standard_normal((2, keys, head_dim)).astype(np.float32)
    k *= rng.uniform(0.3, 1.2, (keys, 1)).astype(np.float32)
    v[7] = 0
    counts = [1, 15, 128, 129, 256, 299, 300]
    bias = None
    if bias_kind != "none":
        bias = rng.standard_normal((rows, keys)).astype(np.float32)
        if bias_kind == "strict":
            bias[rng.random(bias.shape) < 0.7] = np.finfo(np.float32).min
        if bias_kind == "hidden":
            bias[:] = np.finfo(np.float32).min
    out, mass = ops.attend(isa, kv, q, k, v, bias, counts)
    want, want_mass = twin.attention(q, twin.cached(k, kv), twin.cached(v, kv), bias, counts)
    assert np.isfinite(out).all()
    assert twin.nmse(out, want) < 1e-12
    assert twin.nmse(mass, want_mass) < 1e-12
    np.testing.assert_allclose(mass.sum(1), 1, rtol=2e-6)
    for r in range(rows):
        one, _ = ops.attend(isa, kv, q[r : r + 1], k, v, None if bias is None else bias[r : r + 1], counts[r : r + 1])
        np.testing.assert_array_equal(one[0], out[r])


@isas
def test_half(isa: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    x = bits.view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.array([0, -0.0, 6e-8, 2.9e-8, 65504, 65519, 65520, 1e9, -1e9])])
    x = x.astype(np.float32)
    x = np.concatenate([x, (rng.standard_normal(50_003) * 10.0 ** rng.integers(-9, 5, 50_003)).astype(np.float32)])
    want = np.clip(x, -65504, 65504).astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(ops.to_half(need(isa), x), want)


@isas
@pytest.mark.parametrize(("bits", "dtype"), [("words", np.int32), ("halves", np.uint16), ("bytes", np.int8)])
@pytest.mark.parametrize("columns", [1, 7, 16, 31, 32, 48, 63, 64, 66, 80, 128, 132, 200])
def test_groups_of_keys_are_turned(isa: str, bits: str, dtype: type[np.integer[Any]], columns: int) -> None:
    limits = np.iinfo(dtype)
    rows = np.random.default_rng(columns).integers(limits.min, limits.max, (16, columns), dtype, endpoint=True)
    np.testing.assert_array_equal(getattr(ops, f"turn_{bits}")(need(isa), rows), rows.T)


@isas
@pytest.mark.parametrize("vocab", [1, 2, 127, 128, 129, 1000])
def test_greedy_choice(isa: str, vocab: int) -> None:
    need(isa)
    rng = np.random.default_rng(vocab)
    for trial in range(20):
        logits = (5 * rng.standard_normal(vocab)).astype(np.float32)
        if trial % 2:
            logits = np.round(logits)  # many ties: the lowest id wins
        generated = [int(i) for i in rng.integers(0, vocab, 5)]
        suppressed = [int(i) for i in rng.integers(0, vocab, 5)] if vocab > 10 else []
        token, logprob, _, _ = ops.choose(isa, logits, generated, 1.3, suppressed, 0.0, 0, 1.0, 0)
        assert token == int(np.argmax(twin.adjusted(logits, generated, 1.3, suppressed)))
        assert abs(logprob - twin.log_softmax(logits)[token]) < 2e-6 * max(1, abs(logprob))


@isas
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1, 0, 1), (0.7, 5, 1), (1.5, 0, 0.8), (1, 40, 0.3), (2, 1, 1)]
)
def test_sampling(isa: str, temperature: float, top_k: int, top_p: float) -> None:
    need(isa)
    rng = np.random.default_rng(3)
    for seed in range(10):
        logits = np.round(4 * rng.standard_normal(200), 1).astype(np.float32)
        args = (isa, logits, [3, 3, 9], 1.2, [7, 8], temperature, top_k, top_p, seed)
        token, logprob, ids, probabilities = ops.choose(*args)
        scores = twin.adjusted(logits, [3, 9], 1.2, [7, 8])
        want_ids, want_probabilities = twin.candidates(scores, temperature, top_k, top_p)
        assert ids == want_ids
        np.testing.assert_allclose(probabilities, want_probabilities, rtol=1e-9)
        u = twin.splitmix(seed, 1)[0]
        assert token == ids[min(int(np.searchsorted(np.cumsum(probabilities), u, side="right")), len(ids) - 1)]
        assert abs(logprob - twin.log_softmax(logits)[token]) < 1e-5
        assert ops.choose(*args)[0] == token


def test_random() -> None:
    # First values of SplitMix64 from seed 1234567, as published with the algorithm.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert twin.splitmix(1234567, 3) == [(v >> 11) * 2.0**-53 for v in published]
    assert ops.random(1234567, 100) == twin.splitmix(1234567, 100)
    assert abs(np.mean(ops.random(5, 20000)) - 0.5) < 0.01


@isas
def test_logits_that_are_not_finite(isa: str) -> None:
    for bad in (np.nan, np.inf):
        logits = np.zeros(300, np.float32)
        logits[200] = bad
        with pytest.raises(RuntimeError, match="not finite"):
            ops.choose(need(isa), logits, [], 1.0, [], 0.0, 0, 1.0, 0)
