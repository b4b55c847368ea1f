# SPDX-License-Identifier: Apache-2.0
"""The decode loop: stops, caps, callbacks, cancelling, refusals, and threads that sleep when idle."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
from small import caches, decoder_of, prefix_of, spec_of, weights_of

import edge._kernel as kernel

SPEC = spec_of()
WEIGHTS = weights_of(SPEC)
PREFIX = prefix_of(SPEC, 50)


@pytest.fixture
def decoder() -> kernel.Decoder:
    return decoder_of(SPEC, WEIGHTS, PREFIX, "soft")


def generate(decoder: kernel.Decoder, **options: Any) -> kernel.GenerationResult:
    return decoder.generate(PREFIX["first_logits"], **({"max_new_tokens": 20, "repetition_penalty": 1.2} | options))


def test_stop_ids(decoder: kernel.Decoder) -> None:
    free = generate(decoder)
    assert free.stop_reason == "length"
    assert len(free.token_ids) == 20
    for at in (0, 7):
        stop = free.token_ids[at]
        cut = generate(decoder, stop_ids=[stop, 210])
        assert cut.stop_reason == "stop"
        assert cut.token_ids == free.token_ids[: free.token_ids.index(stop)]
        assert len(cut.logprobs) == len(cut.evidence) == len(cut.token_ids)


def test_suppressed_ids(decoder: kernel.Decoder) -> None:
    free = generate(decoder)
    banned = free.token_ids[:4]
    assert not set(banned) & set(generate(decoder, suppressed_ids=banned).token_ids)
    only = sorted(set(range(211)) - {5})
    assert generate(decoder, suppressed_ids=only).token_ids == [5] * 20


@caches
@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
def test_rows_that_a_prompt_shares_with_the_text_are_kept(kv: str, rows: str) -> None:
    """They are the rows that would be computed: everything is the same bit for bit, whatever was there before."""
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 211, 40)]
    options = {"bias_rows": rows, "max_new_tokens": 12, "draft": True}
    used = decoder_of(SPEC, WEIGHTS, PREFIX, "soft", kv_dtype=kv)
    first = generate(used, **options)
    prompts = [[], ids, ids[:20], [*ids[:20], 7, 8], ids, ids, first.token_ids[:9], [*first.token_ids, 3], [5]]
    for number, prompt in enumerate(prompts):
        fresh = decoder_of(SPEC, WEIGHTS, PREFIX, "soft", kv_dtype=kv)
        want, got = (generate(one, forced_ids=prompt, **options) for one in (fresh, used))
        assert got.token_ids == want.token_ids, number
        np.testing.assert_array_equal(got.logprobs, want.logprobs)
        np.testing.assert_array_equal(got.evidence, want.evidence)
        assert used.text_rows == fresh.text_rows
        if number % 3 == 2:  # rows without, or with, the bias: never taken for the others
            generate(used, forced_ids=prompt, **(options | {"bias_rows": "none" if rows != "none" else "all"}))


def test_keep(decoder: kernel.Decoder) -> None:
    ids = np.array([3, 1, 4, 1, 5], np.int32)
    want = decoder.forward(ids, True)
    for other, kept in (([3, 1, 4, 1, 5], 5), ([3, 1, 4, 9], 3), ([7], 0), ([], 0)):
        decoder.rewind(0)
        decoder.forward(ids, True)
        assert decoder.keep(np.array(other, np.int32), True) == kept == decoder.text_rows
        np.testing.assert_array_equal(decoder.forward(ids[kept:], True), want[kept:])
    assert decoder.keep(ids, False) == 0  # other rows
    with pytest.raises(ValueError, match="one dimension"):
        decoder.keep(np.zeros((2, 2), np.int32), True)


def test_forced_ids(decoder: kernel.Decoder) -> None:
    result = generate(decoder, forced_ids=[3, 1, 4])
    assert result.forced_ids == [3, 1, 4]
    logits = None
    decoder.rewind(0)
    logits = decoder.forward(np.array([3, 1, 4], np.int32), True)[-1]
    assert result.token_ids[0] == int(np.argmax(logits))
    # A prompt longer than one chunk.
    long = [int(i) for i in np.random.default_rng(0).integers(0, 211, 50)]
    result = decoder.generate(None, forced_ids=long, max_new_tokens=1, bias_rows="none")
    decoder.rewind(0)
    assert result.token_ids == [int(np.argmax(decoder.forward(np.array(long, np.int32), False)[-1]))]


def test_caps(decoder: kernel.Decoder) -> None:
    assert generate(decoder, max_new_tokens=0).token_ids == []
    assert len(generate(decoder, max_new_tokens=1).token_ids) == 1
    tight = spec_of(max_positions=60)
    weights = weights_of(tight)
    result = generate(decoder_of(tight, weights, PREFIX), max_new_tokens=1000)
    # Ten rows fit after the prefix of fifty; the last of them still yields a token.
    assert len(result.token_ids) == 11
    assert result.stop_reason == "length"
    assert len(generate(decoder_of(tight, weights, PREFIX), forced_ids=[1] * 10).token_ids) == 1
    with pytest.raises(ValueError, match="does not fit"):
        generate(decoder_of(tight, weights, PREFIX), forced_ids=[1] * 11)


def test_callback(decoder: kernel.Decoder) -> None:
    seen: list[tuple[int, float]] = []
    result = generate(decoder, on_token=lambda token, logprob: seen.append((token, logprob)))
    assert [token for token, _ in seen] == result.token_ids
    np.testing.assert_array_equal(np.array([p for _, p in seen], np.float32), result.logprobs)
    cut = generate(decoder, on_token=lambda token, logprob: len(seen) < 0)
    assert cut.stop_reason == "cancelled"
    assert cut.token_ids == result.token_ids[:1]

    def fail(token: int, logprob: float) -> None:
        raise KeyError("from the callback")

    with pytest.raises(KeyError, match="from the callback"):
        generate(decoder, on_token=fail)
    assert generate(decoder).token_ids == result.token_ids


def test_cancel(decoder: kernel.Decoder) -> None:
    cancel = kernel.CancelToken()
    result = generate(decoder, cancel=cancel, on_token=lambda token, logprob: cancel.cancel())
    assert result.stop_reason == "cancelled"
    assert len(result.token_ids) == 1
    assert cancel.cancelled
    # From another thread, which needs the GIL to get there.
    long = decoder_of(spec_of(max_positions=100_000), weights_of(spec_of(max_positions=100_000)), PREFIX)
    cancel = kernel.CancelToken()
    timer = threading.Timer(0.05, cancel.cancel)
    timer.start()
    result = generate(long, cancel=cancel, max_new_tokens=90_000)
    assert result.stop_reason == "cancelled"
    assert 0 < len(result.token_ids) < 90_000


def test_one_generation_at_a_time(decoder: kernel.Decoder) -> None:
    def again(token: int, logprob: float) -> None:
        generate(decoder)

    with pytest.raises(kernel.BusyError, match="already running"):
        generate(decoder, on_token=again)
    assert generate(decoder).stop_reason == "length"


def test_seeds(decoder: kernel.Decoder) -> None:
    texts = [generate(decoder, temperature=1.0, seed=seed).token_ids for seed in range(20)]
    assert len({tuple(t) for t in texts}) > 15
    assert generate(decoder, temperature=1.0, seed=3).token_ids == texts[3]
    assert generate(decoder, temperature=1.0, top_k=1, seed=3).token_ids == generate(decoder).token_ids


@pytest.mark.parametrize("size", [-1e35, 1e35])
def test_nothing_to_draw_from(decoder: kernel.Decoder, size: float) -> None:
    """Scores that a small temperature makes infinite: the likeliest word is left."""
    first = np.full(211, size, np.float32)
    first[7] += 1e34
    drawn = decoder.generate(first, max_new_tokens=1, temperature=1e-6)
    assert drawn.token_ids == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_ids": [211]}, "stop_ids holds 211"),
        ({"forced_ids": [-1]}, "forced_ids holds -1"),
        ({"begin_ids": [2**31 - 1]}, "begin_ids holds"),
        ({"suppressed_ids": [999]}, "suppressed_ids"),
        ({"suppressed_ids": list(range(211))}, "whole vocabulary"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"bias_rows": "some"}, "bias_rows 'some'"),
    ],
)
def test_bad_options(decoder: kernel.Decoder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(decoder, **options)


def test_bad_calls(decoder: kernel.Decoder) -> None:
    with pytest.raises(ValueError, match="prompt"):
        decoder.generate(None)
    with pytest.raises(ValueError, match="first_logits"):
        decoder.generate(np.zeros(210, np.float32))
    with pytest.raises(RuntimeError, match="not finite"):
        decoder.generate(np.full(211, np.nan, np.float32))
    with pytest.raises(ValueError, match="ids holds"):
        decoder.forward(np.array([211], np.int32), True)
    with pytest.raises(ValueError, match="do not fit"):
        decoder.forward(np.zeros(271, np.int32), True)
    with pytest.raises(ValueError, match="ids"):
        decoder.forward(np.zeros((2, 2), np.int32), True)
    fresh = kernel.Decoder(SPEC, WEIGHTS, threads=1)
    for call in (lambda: fresh.forward(np.zeros(1, np.int32), True), lambda: generate(fresh)):
        with pytest.raises(ValueError, match="set_prefix"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": (3, 4, 50, 15)}, "keys must have"),
        ({"keys": (3, 4, 50)}, "keys must have"),
        ({"values": (3, 4, 49, 16)}, "values must have"),
        ({"soft": (3, 49)}, "key_bias has 49"),
        ({"soft": (3, 321)}, "key_bias has 321"),
        ({"soft": (2, 50)}, "key_bias must have"),
        ({"soft": (150,)}, "key_bias must have"),
        ({"keys": (3, 4, 0, 16), "values": (3, 4, 0, 16), "soft": (3, 0)}, "0 rows"),
        ({"keys": (3, 4, 321, 16), "values": (3, 4, 321, 16), "soft": (3, 321)}, "321 rows"),
    ],
)
def test_bad_prefix(decoder: kernel.Decoder, change: dict[str, tuple[int, ...]], message: str) -> None:
    arrays = dict(PREFIX) | {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        decoder.set_prefix(arrays["keys"], arrays["values"], arrays["soft"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_attention": True}, "unknown key 'cross_attention'"),
        ({"norm": "rmsnorm"}, "norm = 'rmsnorm'"),
        ({"norm_position": "sandwich"}, "norm_position = 'sandwich'"),
        ({"activation": "swiglu"}, "activation = 'swiglu'"),
        ({"positions": "rope"}, "positions = 'rope'"),
        ({"kv_heads": 2}, "grouped queries"),
        ({"head_dim": 8}, "heads \\* head_dim = 32"),
        ({"layers": 0}, "layers = 0"),
        ({"layers": 10**12}, "layers = "),
        ({"vocab": 2.5}, "vocab = 2.5"),
        ({"tied_head": 1}, "tied_head = 1"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"position_offset": 320}, "position_offset"),
        ({"layers": None}, "missing key 'layers'"),
    ],
)
def test_bad_spec(change: dict[str, Any], message: str) -> None:
    spec = {k: v for k, v in (SPEC | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        kernel.Decoder(spec, WEIGHTS, threads=1)


def test_bad_weights_are_listed_once() -> None:
    weights = dict(WEIGHTS)
    del weights["layers.1.qkv.bias"]
    weights["layers.2.mlp_in.weight"] = weights["layers.2.mlp_in.weight"][:-1]
    weights["head.weight"] = weights["embed.weight"]
    weights["layers.0.attn_out.weight"] = weights["layers.0.attn_out.weight"].astype(np.int8)
    weights["final_norm.bias"] = weights["final_norm.bias"].astype(np.int8)
    with pytest.raises(ValueError) as error:
        kernel.Decoder(SPEC, weights, threads=1)
    for part in (
        "missing layers.1.qkv.bias [192]", "layers.2.mlp_in.weight has shape [255, 64], not [256, 64]",
        "unexpected head.weight [211, 64]", "missing layers.0.attn_out.weight.scale [64]", "final_norm.bias must be",
    ):  # fmt: skip
        assert part in str(error.value)
    for dtype, words in [(np.float16, "must not be float16"), (np.int16, "int4 .uint8., not int16")]:
        with pytest.raises(ValueError, match=words):
            kernel.Decoder(SPEC, WEIGHTS | {"embed.weight": WEIGHTS["embed.weight"].astype(dtype)}, threads=1)


def test_bad_int4_weights() -> None:
    good = weights_of(SPEC, "int4")
    name = "layers.0.qkv.weight"
    packed, scale = good[name], good[f"{name}.scale"]
    for change, words in [
        ({name: packed[:, :-16]}, r"has shape \[192, 16\], not \[192, 32\]"),
        ({f"{name}.scale": scale[:, :1]}, r"scale has shape \[192, 1\], not \[192, 2\]"),
        ({f"{name}.scale": scale.astype(np.float32)}, "scale must be float16"),
        ({name: good[name].view(np.int8)}, r"has shape \[192, 32\], not \[192, 64\]"),
        ({"final_norm.bias": np.zeros(64, np.uint8)}, "final_norm.bias must be float32"),
    ]:
        with pytest.raises(ValueError, match=words):
            kernel.Decoder(SPEC, good | change, threads=1)
    narrow = spec_of(hidden=60, heads=5, kv_heads=5, head_dim=12)
    weights = weights_of(narrow) | {
        "embed.weight": np.zeros((211, 30), np.uint8),
        "embed.weight.scale": np.zeros((211, 1), np.float16),
    }
    with pytest.raises(ValueError, match="60 columns are not whole groups of 32"):
        kernel.Decoder(narrow, weights, threads=1)


def test_bad_construction() -> None:
    for options, message in (
        ({"threads": 0}, "threads"), ({"threads": 5000}, "threads"), ({"kv_dtype": "fp8"}, "kv_dtype"),
        ({"evidence_layers": [3]}, "evidence layer 3"), ({"isa": "avx1024"}, "choices here: generic"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            kernel.Decoder(SPEC, WEIGHTS, **({"threads": 1} | options))


def test_instruction_set_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.isa_supported()[0] == "generic"
    monkeypatch.delenv("EDGE_ISA", raising=False)
    assert kernel.isa_selected() == kernel.isa_supported()[-1]
    monkeypatch.setenv("EDGE_ISA", "generic")
    assert kernel.isa_selected() == "generic"
    assert kernel.Decoder(SPEC, WEIGHTS, threads=1).isa == "generic"
    monkeypatch.setenv("EDGE_ISA", "mmx")
    with pytest.raises(ValueError, match="unknown instruction set 'mmx'; choices here: generic"):
        kernel.isa_selected()
    missing = [i for i in ("avx2", "avx512", "avx512vnni", "neon", "neondot") if i not in kernel.isa_supported()]
    for isa in missing:
        monkeypatch.setenv("EDGE_ISA", isa)
        with pytest.raises(ValueError, match="cannot run on this machine"):
            kernel.Decoder(SPEC, WEIGHTS, threads=1)


def test_threads_sleep_when_idle() -> None:
    decoder = decoder_of(SPEC, WEIGHTS, PREFIX, threads=4)
    generate(decoder)
    time.sleep(0.02)  # the bounded spin after the last token
    start = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - start < 0.02
    # Also while a callback keeps the decode waiting.
    spent: list[float] = []

    def slow(token: int, logprob: float) -> None:
        before = time.process_time()
        time.sleep(0.05)
        spent.append(time.process_time() - before)

    generate(decoder, max_new_tokens=4, on_token=slow)
    assert max(spent) < 0.02


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_is_refused(decoder: kernel.Decoder) -> None:
    generate(decoder)
    child = os.fork()
    if child == 0:
        try:
            generate(decoder)
        except RuntimeError as error:
            os._exit(0 if "fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
