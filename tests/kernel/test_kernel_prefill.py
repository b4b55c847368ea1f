# SPDX-License-Identifier: Apache-2.0
"""The prefill against its twin: products in panels, and the whole prefix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import twin
from numpy.typing import NDArray
from small import caches, isas, need, precisions, quantise, quantise4, spec_of, weights_of

import edge._kernel as kernel
from edge.errors import BundleError
from edge.weights import check_weights

LOWEST = np.finfo(np.float32).min
# Squared error over squared signal against float64: activations of quantized products have about 14 bits, and the
# weights of int4 are rounded anew.
TOLERANCE = {"fp32": 1e-11, "int8": 1e-6, "int4": 1e-5, "mixed": 1e-5}
ROWS = (1, 2, 5, 6, 7, 47, 48)


def panels(
    isa: str, w: Any, scale: Any, x: Any, bias: Any = None, start: Any = None, first: int = 0, narrow: bool = False
) -> NDArray[Any]:
    bits = scale.view(np.uint16) if scale is not None and scale.dtype == np.float16 else scale
    return kernel.ops.matmul_panels(isa, w, bits, x, bias, start, first, narrow)


@isas
@pytest.mark.parametrize(("out", "cols"), [(1, 1), (16, 2), (33, 7), (50, 384), (17, 385), (96, 769)])
def test_float_products(isa: str, out: int, cols: int) -> None:
    need(isa)
    rng = np.random.default_rng(out)
    for rows in ROWS:
        w, x = (rng.standard_normal((n, cols), dtype=np.float32) for n in (out, rows))
        bias, start = rng.standard_normal(out, dtype=np.float32), rng.standard_normal((rows, out), dtype=np.float32)
        assert twin.nmse(panels(isa, w, None, x, bias), twin.matmul(w, None, x, bias)) < 1e-12
        assert twin.nmse(panels(isa, w, None, x, bias, start), twin.matmul(w, None, x, bias) + start) < 1e-12


@isas
@pytest.mark.parametrize(("out", "cols"), [(1, 1), (16, 2), (33, 7), (50, 384), (17, 385), (40, 3072)])
def test_int8_products_to_the_bit(isa: str, out: int, cols: int) -> None:
    """The sums are integers: nothing is left to the order of additions."""
    need(isa)
    rng = np.random.default_rng(out)
    for rows in ROWS:
        w, scale = quantise(rng.standard_normal((out, cols), dtype=np.float32))
        x = rng.standard_normal((rows, cols), dtype=np.float32) * 10.0 ** rng.integers(-3, 4, (rows, 1))
        x[0] = 0
        x = x.astype(np.float32)
        bias, start = rng.standard_normal(out, dtype=np.float32), rng.standard_normal((rows, out), dtype=np.float32)
        want = twin.matmul_integers(w, scale, x, bias)
        np.testing.assert_array_equal(panels(isa, w, scale, x, bias), want)
        np.testing.assert_array_equal(panels(isa, w, scale, x, bias, start), start + want)
        assert twin.nmse(want, twin.matmul(w, scale, x, bias)) < 1e-6


@isas
def test_the_largest_sums_stay_inside_32_bits(isa: str) -> None:
    need(isa)
    for cols in (1, 2, 768, 3072, 10_000):
        w, scale = np.full((17, cols), -127, np.int8), np.ones(17, np.float32)
        x = np.full((3, cols), -2.5, np.float32)
        np.testing.assert_allclose(panels(isa, w, scale, x), np.full((3, 17), 127 * 2.5 * cols), rtol=1e-3)


@isas
@pytest.mark.parametrize(("out", "cols"), [(1, 32), (33, 96), (20, 768)])
def test_int4_products_to_the_bit(isa: str, out: int, cols: int) -> None:
    need(isa)
    rng = np.random.default_rng(out)
    w, scale = quantise4(rng.standard_normal((out, cols), dtype=np.float32))
    x = rng.standard_normal((7, cols), dtype=np.float32)
    got = panels(isa, w, scale, x)
    np.testing.assert_array_equal(got, twin.matmul_integers(w, scale, x, None))
    assert twin.nmse(got, twin.matmul(w, scale, x, None)) < 1e-5


@isas
@pytest.mark.parametrize(("out", "cols"), [(1, 1), (16, 2), (33, 7), (50, 384), (17, 385), (40, 3072), (33, 96)])
@pytest.mark.parametrize("bits", [8, 4])
def test_narrow_products_to_the_bit(isa: str, out: int, cols: int, bits: int) -> None:
    """Activations of 8 bits: the same integers whether the processor multiplies bytes or not."""
    need(isa)
    if bits == 4 and cols % 32:
        return
    rng = np.random.default_rng(out)
    for rows in ROWS:
        w, scale = (quantise if bits == 8 else quantise4)(rng.standard_normal((out, cols), dtype=np.float32))
        x = rng.standard_normal((rows, cols), dtype=np.float32) * 10.0 ** rng.integers(-3, 4, (rows, 1))
        x += rng.integers(-2, 3, (rows, 1))  # of one sign, too
        x[0] = 0
        x = x.astype(np.float32)
        bias, start = rng.standard_normal(out, dtype=np.float32), rng.standard_normal((rows, out), dtype=np.float32)
        want = twin.matmul_narrow(w, scale, x, bias)
        np.testing.assert_array_equal(panels(isa, w, scale, x, bias, narrow=True), want)
        np.testing.assert_array_equal(panels(isa, w, scale, x, bias, start, narrow=True), start + want)
        assert twin.nmse(want, twin.matmul(w, scale, x, bias)) < 5e-4


@isas
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_narrow_sums_stay_inside_32_bits(isa: str, sign: int) -> None:
    need(isa)
    for cols in (1, 768, 32768, 32769):
        w, scale = np.full((17, cols), -127, np.int8), np.ones(17, np.float32)
        x = np.full((3, cols), 2.5 * sign, np.float32)
        got = panels(isa, w, scale, x, narrow=True)
        np.testing.assert_allclose(got, np.full((3, 17), -127 * 2.5 * sign * cols), rtol=1e-3)


@isas
def test_outputs_before_the_first_panel_stay(isa: str) -> None:
    need(isa)
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((100, 20), dtype=np.float32), rng.standard_normal((5, 20), dtype=np.float32)
    got, whole = panels(isa, w, None, x, first=70), panels(isa, w, None, x)
    np.testing.assert_array_equal(got[:, 70:], whole[:, 70:])
    assert not got[:, :32].any()


@isas
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("narrow", [False, True])
def test_what_is_not_finite_is_not_hidden(isa: str, value: float, narrow: bool) -> None:
    need(isa)
    w, scale = quantise(np.ones((5, 40), np.float32))
    x = np.ones((3, 40), np.float32)
    x[1, 7] = value
    got = panels(isa, w, scale, x, narrow=narrow)
    assert np.isfinite(got).all(1).tolist() == [True, False, True]


SHAPES: dict[str, dict[str, Any]] = {
    "small": {},
    "odd": {"layers": 2, "hidden": 60, "heads": 5, "kv_heads": 5, "head_dim": 12, "mlp": 100, "vocab": 333},
    "erf_untied_offset": {"layers": 2, "activation": "gelu_erf", "tied_head": False, "position_offset": 2},
    "one_layer": {"layers": 1},
    "deep": {"layers": 5, "vocab": 40},
}


def film(spec: dict[str, Any], length: int, seed: int = 1) -> dict[str, Any]:
    """Embeddings, and biases: a soft one, a strict one whose first keys are hidden, one longer than the prefix."""
    rng = np.random.default_rng(seed)
    soft = rng.random((spec["layers"], length), dtype=np.float32) * 2
    strict = np.where(rng.random(soft.shape) < 0.6, LOWEST, soft).astype(np.float32)
    strict[:, : length // 3] = LOWEST
    strict[-1, length // 3 :] = soft[-1, length // 3 :]
    everything = np.full_like(soft, LOWEST)
    return {
        "embeddings": rng.standard_normal((length, spec["hidden"]), dtype=np.float32),
        "soft": soft,
        "strict": strict,
        "everything": everything,
        "long": rng.random((spec["layers"], length + 20), dtype=np.float32) * 2,
        None: None,
    }


@isas
@precisions
@pytest.mark.parametrize(
    ("shape", "bias"),
    [
        *(("small", bias) for bias in (None, "soft", "strict", "everything", "long")),
        *((shape, "strict") for shape in SHAPES if shape != "small"),
    ],
)
def test_prefill(isa: str, precision: str, shape: str, bias: str | None) -> None:
    need(isa)
    spec = spec_of(**SHAPES[shape])
    weights = weights_of(spec, precision)
    seen = film(spec, 140)
    decoder = kernel.Decoder(spec, weights, threads=2, isa=isa)
    logits, keys, values = decoder.prefill(seen["embeddings"], seen[bias], with_cache=True)
    want = twin.prefill(spec, weights, seen["embeddings"], seen[bias])
    for got, right in zip((logits, keys, values), want, strict=True):
        assert twin.nmse(got, right) < TOLERANCE[precision]


@isas
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("shape", "bias", "length"),
    [
        *(("small", bias, 140) for bias in (None, "soft", "strict", "everything", "long")),
        *(("small", "soft", length) for length in (1, 2, 15, 17, 128, 129, 300)),
        *((shape, "strict", 140) for shape in SHAPES if shape != "small"),
    ],
)
def test_attention_in_integers(isa: str, precision: str, shape: str, bias: str | None, length: int) -> None:
    """Beside a cache that is not float32: near its twin, whose integers are those of the kernel but where a weight lies
    on the border between two, and near attention in float32."""
    need(isa)
    spec = spec_of(**SHAPES[shape])
    weights = weights_of(spec, precision)
    seen = film(spec, length)
    decoder = kernel.Decoder(spec, weights, threads=2, isa=isa, kv_dtype="fp16")
    got = decoder.prefill(seen["embeddings"], seen[bias], with_cache=True)
    twins = [twin.prefill(spec, weights, seen["embeddings"], seen[bias], whole=whole) for whole in (True, False)]
    for one, right, exact in zip(got, *twins, strict=True):
        assert twin.nmse(one, right) < max(1e-7, TOLERANCE[precision])
        assert twin.nmse(one, exact) < max(1e-6, TOLERANCE[precision])
    if precision == "fp32" and spec["layers"] > 1 and length > 2:
        assert twin.nmse(got[0], twins[1][0]) > 1e-10  # it is another way
    eighth = kernel.Decoder(spec, weights, threads=1, isa=isa, kv_dtype="int8")
    for one, other in zip(eighth.prefill(seen["embeddings"], seen[bias], with_cache=True), got, strict=True):
        np.testing.assert_array_equal(one, other)


@isas
@pytest.mark.parametrize("head_dim", [1, 2, 7, 16, 33, 64, 160])
def test_integers_of_any_head(isa: str, head_dim: int) -> None:
    need(isa)
    spec = spec_of(layers=2, heads=2, kv_heads=2, head_dim=head_dim, hidden=2 * head_dim, mlp=40, vocab=50)
    weights, seen = weights_of(spec), film(spec, 150)
    # Values and keys of very different size, row by row.
    seen["embeddings"] *= 10.0 ** np.random.default_rng(3).integers(-3, 4, (150, 1)).astype(np.float32)
    decoder = kernel.Decoder(spec, weights, threads=2, isa=isa, kv_dtype="fp16")
    got = decoder.prefill(seen["embeddings"], seen["soft"], with_cache=True)
    want = twin.prefill(spec, weights, seen["embeddings"], seen["soft"], whole=True)
    for one, right in zip(got, want, strict=True):
        assert twin.nmse(one, right) < 1e-7


@isas
@pytest.mark.parametrize("place", ["k", "v"])
def test_a_key_that_is_not_finite_is_not_hidden_by_integers(isa: str, place: str) -> None:
    need(isa)
    spec = spec_of(layers=2)
    weights, seen = weights_of(spec), film(spec, 40)
    # Only the products of one row overflow: its embedding is large, and so are the weights of its column.
    seen["embeddings"][3, 5] = 3e30
    name, at = "layers.0.qkv.weight", {"k": 1, "v": 2}[place] * spec["hidden"]
    weights[name] = weights[name].copy()
    weights[name][at : at + 4] *= np.float32(1e38)
    for bias in (None, "soft"):
        logits = kernel.Decoder(spec, weights, threads=1, isa=isa, kv_dtype="fp16").prefill(
            seen["embeddings"], seen[bias]
        )
        assert not np.isfinite(logits).all()


@isas
@pytest.mark.parametrize("kv", ["fp32", "fp16"])
def test_a_film_that_was_not_finite_leaves_nothing(isa: str, kv: str) -> None:
    need(isa)
    spec = spec_of(layers=4)
    weights, seen = weights_of(spec, "int8"), film(spec, 140)
    used, fresh = (kernel.Decoder(spec, weights, threads=2, isa=isa, kv_dtype=kv) for _ in range(2))
    bad = film(spec, 200)["embeddings"]
    bad[:, 3] = np.nan
    assert not np.isfinite(used.prefill(bad)).any()
    for length in (140, 138, 3):
        got = used.prefill(seen["embeddings"][:length], seen["soft"][:, :length])
        np.testing.assert_array_equal(got, fresh.prefill(seen["embeddings"][:length], seen["soft"][:, :length]))
        assert np.isfinite(got).all()


@isas
@pytest.mark.parametrize("precision", ["int8", "int4", "mixed"])
@pytest.mark.parametrize("shape", ["small", "odd"])
def test_prefill_with_narrow_products(isa: str, precision: str, shape: str) -> None:
    need(isa)
    spec = spec_of(**SHAPES[shape])
    weights = weights_of(spec, precision)
    seen = film(spec, 140)
    parts = ("qkv", "attn_out", "mlp_in", "mlp_out")
    every = [f"layers.{i}.{part}" for i in range(spec["layers"]) for part in parts]
    results = []
    loose = 1 if precision == "int8" else 5
    for some in (every, every[1:6], every[::2], []):
        decoder = kernel.Decoder(spec, weights, threads=2, isa=isa, prefill_int8=some)
        results.append(decoder.prefill(seen["embeddings"], seen["soft"], with_cache=True))
        stored = [name for name in some if weights[f"{name}.weight"].dtype != np.float32]
        want = twin.prefill(spec, weights, seen["embeddings"], seen["soft"], stored)
        # A number on the border between two levels may fall to either side; the logits are those of a single row.
        for got, right, limit in zip(results[-1], want, (2e-4, 2e-5, 2e-5), strict=True):
            assert twin.nmse(got, right) < limit * loose
    assert 1e-5 < twin.nmse(results[0][1], results[-1][1]) < 1e-3


def with_prefill(spec: dict[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """int4 weights with int8 ones for the prefill beside them, and the same in int8 throughout the layers."""
    four, eight = weights_of(spec, "int4"), weights_of(spec, "int8")
    inside = [n for n, a in eight.items() if a.dtype == np.int8 and n.startswith("layers.")]
    beside = {f"prefill.{n}{end}": eight[f"{n}{end}"] for n in inside for end in ("", ".scale")}
    return four | beside, four | {n.removeprefix("prefill."): a for n, a in beside.items()}


@isas
def test_int8_matrices_beside_int4_ones(isa: str) -> None:
    """The prefill takes them, and what follows does not."""
    need(isa)
    spec = spec_of(vocab=100)
    both, eight = with_prefill(spec)
    seen, ids = film(spec, 140), np.arange(20, dtype=np.int32)
    narrow = ["layers.0.mlp_in", "layers.1.qkv"]
    pair = [kernel.Decoder(spec, w, threads=2, isa=isa, prefill_int8=narrow) for w in (both, eight)]
    got, want = (decoder.prefill(seen["embeddings"], seen["soft"], with_cache=True) for decoder in pair)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    four = kernel.Decoder(spec, weights_of(spec, "int4"), threads=2, isa=isa)
    four.set_prefix(got[1], got[2], seen["soft"])
    np.testing.assert_array_equal(pair[0].forward(ids, True), four.forward(ids, True))
    assert not np.array_equal(four.prefill(seen["embeddings"], seen["soft"]), got[0])
    check_weights(both, spec)


def test_what_may_stand_beside_an_int4_matrix() -> None:
    spec = spec_of(vocab=100)
    both, eight = with_prefill(spec)
    name = "prefill.layers.1.mlp_in.weight"

    def refused(weights: dict[str, NDArray[Any]], *words: str) -> None:
        with pytest.raises(ValueError, match=words[0]):
            kernel.Decoder(spec, weights, threads=1)
        with pytest.raises(BundleError, match=words[-1]):
            check_weights(weights, spec)

    refused(both | {name: both[name].astype(np.float32)}, "must be int8")
    refused(both | {name: both["layers.1.mlp_in.weight"]}, "shape", "must be int8")
    refused(both | {name: both[name][:5]}, "has shape", "instead of")
    refused({n: a for n, a in both.items() if n != f"{name}.scale"}, "missing", "must be float32")
    refused(eight | {n: both[n] for n in (name, f"{name}.scale")}, "unexpected", "is unknown")
    head = {
        "prefill.embed.weight": np.zeros((100, 64), np.int8),
        "prefill.embed.weight.scale": np.ones(100, np.float32),
    }
    refused(both | head, "unexpected", "is unknown")
    bad = both | {f"{name}.scale": np.full_like(both[f"{name}.scale"], np.nan)}
    with pytest.raises(BundleError, match="not scales"):
        check_weights(bad, spec)


def test_a_matrix_that_is_not_there_cannot_be_narrow() -> None:
    spec = spec_of()
    for name in ("layers.3.qkv", "layers.0.cross_q", "head", ""):
        with pytest.raises(ValueError, match=f"prefill_int8: there is no matrix '{name}'"):
            kernel.Decoder(spec, weights_of(spec, "int8"), threads=1, prefill_int8=[name])


@isas
@caches
@pytest.mark.parametrize("length", [1, 16, 17, 129])
def test_the_cache_goes_on_where_the_prefill_ends(isa: str, kv: str, length: int) -> None:
    """Rows after a prefill are those after a prefix set from its keys and values, bit for bit."""
    need(isa)
    spec = spec_of(vocab=100)
    weights, seen = weights_of(spec, "int8"), film(spec, length)
    ids = np.arange(20, dtype=np.int32)
    for bias in (None, "soft", "long"):
        one, two = (kernel.Decoder(spec, weights, threads=3, isa=isa, kv_dtype=kv) for _ in range(2))
        first, keys, values = one.prefill(seen["embeddings"], seen[bias], with_cache=True)
        two.set_prefix(keys, values, seen[bias])
        np.testing.assert_array_equal(one.forward(ids, True), two.forward(ids, True))
        a, b = (d.generate(first, max_new_tokens=10) for d in (one, two))
        assert a.token_ids == b.token_ids
        assert one.prefix_rows == length


@isas
@precisions
@pytest.mark.parametrize("bias", ["soft", "strict"])
def test_same_bits_for_any_threads(isa: str, precision: str, bias: str) -> None:
    need(isa)
    spec = spec_of(layers=4, vocab=50)
    weights, seen = weights_of(spec, precision), film(spec, 200)
    results = []
    for threads in (1, 2, 4, 7):
        decoder = kernel.Decoder(spec, weights, threads=threads, isa=isa, kv_dtype="fp16")
        for _ in range(2):  # the second film of a decoder finds its buffers used
            results.append(decoder.prefill(seen["embeddings"], seen[bias], with_cache=True))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


@isas
@caches
def test_hidden_keys_are_dropped(isa: str, kv: str) -> None:
    need(isa)
    spec = spec_of(vocab=100)
    weights, seen = weights_of(spec, "int8"), film(spec, 200)
    ids = np.arange(20, dtype=np.int32)
    full, less = (kernel.Decoder(spec, weights, threads=2, isa=isa, kv_dtype=kv) for _ in range(2))
    one = full.prefill(seen["embeddings"], seen["strict"])
    two = less.prefill(seen["embeddings"], seen["strict"], drop_hidden=True)
    np.testing.assert_array_equal(one, two)
    assert full.kept_keys == seen["strict"].size
    assert less.kept_keys == (seen["strict"] > LOWEST).sum()
    assert twin.nmse(less.forward(ids, True), full.forward(ids, True)) < 1e-10
    with pytest.raises(ValueError, match="hidden keys were left out"):
        less.forward(ids, False)


def test_the_bias_can_be_for_the_text_alone() -> None:
    spec = spec_of(vocab=100)
    weights, seen = weights_of(spec), film(spec, 100)
    decoder = kernel.Decoder(spec, weights, threads=2)
    plain = decoder.prefill(seen["embeddings"])
    np.testing.assert_array_equal(decoder.prefill(seen["embeddings"], seen["soft"], bias=False), plain)
    ids = np.arange(5, dtype=np.int32)
    biased = decoder.forward(ids, True)
    decoder.rewind(0)
    assert not np.array_equal(biased, decoder.forward(ids, False))


def test_shapes_that_do_not_fit() -> None:
    spec = spec_of(max_positions=64)
    decoder = kernel.Decoder(spec, weights_of(spec), threads=2)

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    for wrong in (zeros(0, 64), zeros(65, 64), zeros(10, 63), zeros(10), zeros(1, 10, 64)):
        with pytest.raises(ValueError, match=r"embeddings|prefix"):
            decoder.prefill(wrong)
    for wrong in (zeros(3, 9), zeros(2, 10), zeros(10), zeros(3, 65)):
        with pytest.raises(ValueError, match="key_bias"):
            decoder.prefill(zeros(10, 64), wrong)
    with pytest.raises(ValueError, match="set_prefix must be called first"):
        decoder.forward(np.array([1], np.int32), False)
