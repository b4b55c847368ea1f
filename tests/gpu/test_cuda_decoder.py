# SPDX-License-Identifier: Apache-2.0
"""The whole decoder in the CUDA library, against the NumPy twin and the CPU's kernel."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import twin
from small import decoder_of, prefix_of, spec_of, weights_of
from stand_in import StandIn

import edge._kernel as kernel

# Squared error over squared signal, as in the CPU's tests.
TOLERANCE = {"fp32": 2e-11, "fp16": 2e-7}

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"layers": 2, "mlp": 96},
    "odd": {"layers": 2, "hidden": 60, "heads": 5, "kv_heads": 5, "head_dim": 12, "mlp": 100, "vocab": 333},
    "erf_untied_offset": {"layers": 2, "mlp": 64, "activation": "gelu_erf", "tied_head": False, "position_offset": 2},
}


def cuda_of(
    library: Path, spec: dict[str, Any], weights: dict[str, Any], prefix: dict[str, Any], bias: str | None = "soft",
    **options: Any,
) -> kernel.CudaDecoder:  # fmt: skip
    options = {"kv_dtype": "fp32", "weight_dtype": "fp32"} | options
    decoder = kernel.CudaDecoder(spec, weights, library=str(library), **options)
    decoder.set_prefix(prefix["keys"], prefix["values"], prefix[bias] if bias else None)
    return decoder


@pytest.mark.parametrize(
    ("shape", "precision", "kv", "bias"),
    [
        ("small", "fp32", "fp32", "strict"),
        ("small", "mixed", "fp16", "long"),
        ("small", "int8", "fp32", "soft"),
        ("small", "int4", "fp16", None),
        ("odd", "fp32", "fp16", "soft"),
        ("odd", "int8", "fp32", "strict"),
        ("erf_untied_offset", "fp32", "fp32", "long"),
        ("erf_untied_offset", "int4", "fp32", "soft"),
    ],
)
def test_forward(library: Path, shape: str, precision: str, kv: str, bias: str | None) -> None:
    spec = spec_of(**SHAPES[shape])
    weights, prefix = weights_of(spec, precision), prefix_of(spec, 120)
    decoder = cuda_of(library, spec, weights, prefix, bias, kv_dtype=kv)
    ids = np.random.default_rng(5).integers(0, spec["vocab"], 21).astype(np.int32)
    got = np.concatenate([decoder.forward(ids[:17], True), decoder.forward(ids[17:], False)])
    if shape == "odd":  # the others against the CPU's kernel, which has been compared with the twin, to save time
        slow = twin.Twin(spec, weights, kv)
        slow.set_prefix(prefix["keys"], prefix["values"], prefix[bias] if bias else None)
        want = np.stack([slow.step(int(t), i < 17)[0] for i, t in enumerate(ids)])
    else:
        cpu = decoder_of(spec, weights, prefix, bias, kv_dtype=kv)
        want = np.concatenate([cpu.forward(ids[:17], True), cpu.forward(ids[17:], False)])
    assert twin.nmse(got, want) < TOLERANCE[kv]
    # Row by row the same bits, across a block of keys.
    decoder.rewind(3)
    again = [decoder.forward(ids[i : i + 1], i < 17) for i in range(3, 12)]
    np.testing.assert_array_equal(np.concatenate(again), got[3:12])


@pytest.mark.parametrize(("kept", "limit"), [("fp16", 1e-5), ("bf16", 1e-3)])
def test_weights_rounded_at_load(library: Path, kept: str, limit: float) -> None:
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec), prefix_of(spec, 40)
    ids = np.arange(7, dtype=np.int32)
    got = cuda_of(library, spec, weights, prefix, weight_dtype=kept).forward(ids, True)
    want = decoder_of(spec, weights, prefix).forward(ids, True)
    assert 0 < twin.nmse(got, want) < limit

    kinds = ("embed", "qkv", "attn_out", "mlp_in", "mlp_out")
    for name in weights:
        if name.endswith(".weight") and name.split(".")[-2] in kinds:
            weights[name] = rounded_to(kept, weights[name])
    assert twin.nmse(got, decoder_of(spec, weights, prefix).forward(ids, True)) < 2e-11


def rounded_to(kept: str, w: np.ndarray) -> np.ndarray:
    if kept == "fp16":
        return w.astype(np.float16).astype(np.float32)
    bits = w.view(np.uint32)
    return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).view(np.float32)


@pytest.mark.parametrize("kv", ["fp16", "int8"])
@pytest.mark.parametrize("kept", ["fp16", "bf16", "int8", "int4"])
def test_weights_by_caches(library: Path, kept: str, kv: str) -> None:
    """Every format of weights with every small cache: rows, chunks of rows, and a text with drafts are the CPU's."""
    spec = spec_of(layers=2, hidden=32, heads=2, kv_heads=2, mlp=64)
    weights, prefix = weights_of(spec, kept if kept.startswith("int") else "fp32"), prefix_of(spec, 126)
    on_cpu = dict(weights)
    if kept in ("fp16", "bf16"):
        for name in weights:
            if name.endswith(".weight") and name.split(".")[-2] in ("embed", "qkv", "attn_out", "mlp_in", "mlp_out"):
                on_cpu[name] = rounded_to(kept, weights[name])
    floats = kept if kept in ("fp16", "bf16") else "fp32"
    cuda = cuda_of(library, spec, weights, prefix, kv_dtype=kv, weight_dtype=floats, evidence_layers=[1])
    cpu = decoder_of(spec, on_cpu, prefix, kv_dtype=kv, evidence_layers=[1])
    ids = np.arange(5, dtype=np.int32)
    got, want = cuda.forward(ids, True), cpu.forward(ids, True)
    # A value of the cache may round the other way.
    assert twin.nmse(got, want) < (2e-7 if kv == "fp16" else 1e-5)
    cuda.rewind(2)
    np.testing.assert_array_equal(np.concatenate([cuda.forward(ids[i : i + 1], True) for i in (2, 3, 4)]), got[2:])
    options = {"max_new_tokens": 9, "repetition_penalty": 1.2}
    text, other = (d.generate(prefix["first_logits"], **options) for d in (cuda, cpu))
    assert text.token_ids == other.token_ids
    np.testing.assert_allclose(text.logprobs, other.logprobs, atol=5e-3)
    np.testing.assert_allclose(text.evidence, other.evidence, atol=1e-4)
    script = [text.token_ids[at : at + 3] for at in range(9)]
    drafted = cuda.generate(prefix["first_logits"], **options, draft_script=script)
    assert drafted.accepted > 4
    np.testing.assert_array_equal(drafted.logprobs, text.logprobs)


@pytest.mark.parametrize("way", ["steps", "persistent"])
def test_strict_masks(library: Path, way: str) -> None:
    """Rows over hidden keys: the CPU leaves these out of its cache, the device gives them no weight; one text."""
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec), prefix_of(spec, 140)
    prefix["strict"][1, :128] = np.finfo(np.float32).min  # a whole block of keys
    cuda = cuda_of(library, spec, weights, prefix, "strict", way=way, evidence_layers=[0, 1])
    cpu = decoder_of(spec, weights, prefix, "strict", evidence_layers=[0, 1])
    cpu.set_prefix(prefix["keys"], prefix["values"], prefix["strict"], True)
    assert cpu.kept_keys < cuda.kept_keys == 280
    options = {"max_new_tokens": 8, "repetition_penalty": 1.2, "forced_ids": [3, 4]}
    got, want = (d.generate(None, **options) for d in (cuda, cpu))
    assert got.token_ids == want.token_ids
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
    np.testing.assert_allclose(got.evidence, want.evidence, atol=2e-6)


def test_int8_cache(library: Path) -> None:
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec), prefix_of(spec, 140)
    ids = np.arange(20, dtype=np.int32)
    got = cuda_of(library, spec, weights, prefix, kv_dtype="int8").forward(ids, True)
    assert 0 < twin.nmse(got, decoder_of(spec, weights, prefix).forward(ids, True)) < 1e-3


@pytest.mark.parametrize(
    ("precision", "prompt", "rows"), [("fp32", False, "all"), ("fp32", True, "prefill"), ("int4", True, "all")]
)
def test_same_text_as_the_cpu(library: Path, precision: str, prompt: bool, rows: str) -> None:
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec, precision), prefix_of(spec, 120)
    decoders = [
        cuda_of(library, spec, weights, prefix, evidence_layers=[0, 1]),
        decoder_of(spec, weights, prefix, evidence_layers=[0, 1]),
    ]
    options = {"begin_ids": [5], "forced_ids": [9, 17, 4] * 6} if prompt else {}
    first = None if prompt else prefix["first_logits"]
    got, want = (
        d.generate(first, **options, bias_rows=rows, max_new_tokens=15, repetition_penalty=1.2, suppressed_ids=[3, 8])
        for d in decoders
    )
    assert got.token_ids == want.token_ids
    assert (got.stop_reason, got.forced_ids) == (want.stop_reason, want.forced_ids)
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-4)
    assert got.evidence.shape == (15, 120)
    np.testing.assert_allclose(got.evidence, want.evidence, atol=2e-6)
    assert decoders[0].text_rows == decoders[1].text_rows


def test_stops_and_caps(library: Path) -> None:
    spec = spec_of(layers=1, mlp=96, max_positions=60)
    weights, prefix = weights_of(spec), prefix_of(spec, 50)
    decoder, cpu = cuda_of(library, spec, weights, prefix), decoder_of(spec, weights, prefix)
    for options in ({"max_new_tokens": 0}, {"max_new_tokens": 1}, {"max_new_tokens": 99}, {"forced_ids": [1] * 10}):
        got, want = (d.generate(prefix["first_logits"], **options) for d in (decoder, cpu))
        assert (got.token_ids, got.stop_reason) == (want.token_ids, want.stop_reason)
        assert decoder.text_rows == cpu.text_rows
    free = decoder.generate(prefix["first_logits"], max_new_tokens=9, repetition_penalty=1.2)
    for at in (0, 4):
        stop = free.token_ids[at]
        cut = decoder.generate(prefix["first_logits"], max_new_tokens=9, repetition_penalty=1.2, stop_ids=[210, stop])
        assert cut.stop_reason == "stop"
        assert cut.token_ids == free.token_ids[: free.token_ids.index(stop)]
        np.testing.assert_array_equal(cut.logprobs, free.logprobs[: len(cut.token_ids)])
    only = sorted(set(range(211)) - {5})
    assert decoder.generate(prefix["first_logits"], max_new_tokens=3, suppressed_ids=only).token_ids == [5] * 3
    with pytest.raises(RuntimeError, match="not finite"):
        decoder.generate(np.full(211, np.nan, np.float32))
    assert (
        decoder.generate(prefix["first_logits"], max_new_tokens=9, repetition_penalty=1.2).token_ids == free.token_ids
    )


def test_callbacks(library: Path) -> None:
    spec = spec_of(layers=1, mlp=96)
    weights, prefix = weights_of(spec), prefix_of(spec, 20)
    decoder = cuda_of(library, spec, weights, prefix)
    seen: list[int] = []
    result = decoder.generate(prefix["first_logits"], max_new_tokens=8, on_token=lambda token, _: seen.append(token))
    assert seen == result.token_ids
    cut = decoder.generate(prefix["first_logits"], max_new_tokens=8, on_token=lambda token, _: False)
    assert (cut.stop_reason, cut.token_ids) == ("cancelled", result.token_ids[:1])
    assert decoder.text_rows == 0

    def fail(token: int, logprob: float) -> None:
        raise KeyError("from the callback")

    with pytest.raises(KeyError, match="from the callback"):
        decoder.generate(prefix["first_logits"], on_token=fail)
    with pytest.raises(kernel.BusyError):
        decoder.generate(prefix["first_logits"], on_token=lambda *_: decoder.rewind(0))
    cancel = kernel.CancelToken()
    timer = threading.Timer(0.05, cancel.cancel)
    timer.start()
    long = spec_of(layers=1, mlp=32, max_positions=20_000)
    slow = cuda_of(library, long, weights_of(long), prefix)
    result = slow.generate(prefix["first_logits"], max_new_tokens=19_000, cancel=cancel)
    assert result.stop_reason == "cancelled"
    assert 0 < len(result.token_ids) < 19_000


def test_sampling_is_the_cpu_s(library: Path) -> None:
    spec = spec_of(layers=1, mlp=96)
    weights, prefix = weights_of(spec), prefix_of(spec, 30)
    decoders = [make(spec, weights, prefix) for make in (lambda *a: cuda_of(library, *a), decoder_of)]
    for prompt in ([], [4, 8]):
        texts = [
            d.generate(
                None if prompt else prefix["first_logits"], forced_ids=prompt, max_new_tokens=8, temperature=1.3,
                top_k=50, top_p=0.9, seed=4,
            ).token_ids
            for d in decoders
        ]  # fmt: skip
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_ids": [211]}, "stop_ids holds 211"),
        ({"forced_ids": [-1]}, "forced_ids holds -1"),
        ({"suppressed_ids": list(range(211))}, "whole vocabulary"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"forced_ids": [1] * 301}, "does not fit"),
    ],
)
def test_bad_options(host_library: Path, options: dict[str, Any], message: str) -> None:
    spec = spec_of(layers=1, mlp=96)
    prefix = prefix_of(spec, 20)
    decoder = cuda_of(host_library, spec, weights_of(spec), prefix)
    with pytest.raises(ValueError, match=message):
        decoder.generate(prefix["first_logits"], **options)


def test_any_order_of_threads(host_library: Path, stand_in: StandIn) -> None:
    """Threads and blocks in three orders, the same bits: no barrier is missing, no result depends on a race."""
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec, "mixed"), prefix_of(spec, 120)
    ids = np.arange(11, dtype=np.int32)
    results = []
    for order in (0, 1, 2):
        stand_in.set("order", order)
        decoder = cuda_of(host_library, spec, weights, prefix, "strict", kv_dtype="int8", evidence_layers=[1])
        logits = decoder.forward(ids, True)
        results.append((logits, decoder.generate(prefix["first_logits"], max_new_tokens=6, repetition_penalty=1.2)))
    for logits, text in results[1:]:
        np.testing.assert_array_equal(logits, results[0][0])
        assert text.token_ids == results[0][1].token_ids
        np.testing.assert_array_equal(text.logprobs, results[0][1].logprobs)
        np.testing.assert_array_equal(text.evidence, results[0][1].evidence)


def test_a_text_is_replayed_steps(host_library: Path, stand_in: StandIn) -> None:
    """One recorded step per token, and a few more at most when a text stops early; no launch from the host."""
    spec = spec_of(layers=2, mlp=96)
    prefix = prefix_of(spec, 20)
    decoder = cuda_of(host_library, spec, weights_of(spec), prefix)
    free = decoder.generate(prefix["first_logits"], max_new_tokens=10, repetition_penalty=1.2)
    for options, most in (({}, 9), ({"stop_ids": [free.token_ids[5]]}, 5 + 3)):
        before = stand_in.get("replays")
        result = decoder.generate(prefix["first_logits"], max_new_tokens=10, repetition_penalty=1.2, **options)
        assert len(result.token_ids) - 1 <= stand_in.get("replays") - before <= most


def test_memory_is_given_back(host_library: Path, stand_in: StandIn) -> None:
    spec = spec_of(layers=1, mlp=96)
    prefix = prefix_of(spec, 20)
    before = stand_in.get("allocations")
    decoder = cuda_of(host_library, spec, weights_of(spec), prefix, evidence_layers=[0])
    decoder.generate(prefix["first_logits"], max_new_tokens=3)
    assert stand_in.get("allocations") > before
    stand_in.set("fail_launch", 5)
    with pytest.raises(RuntimeError, match="the GPU failed"):
        decoder.forward(np.arange(3, dtype=np.int32), True)
    del decoder
    assert stand_in.get("allocations") == before
