# SPDX-License-Identifier: Apache-2.0
"""The persistent kernel: the bits of the recorded steps, whatever the number of multiprocessors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import prefix_of, spec_of, weights_of
from stand_in import StandIn
from test_cuda_decoder import SHAPES, cuda_of

import edge._kernel as kernel
from edge.cuda import CudaDecoder
from edge.errors import ProcessingError, UsageError


def same(one: kernel.GenerationResult, two: kernel.GenerationResult) -> None:
    assert (one.token_ids, one.stop_reason, one.passes) == (two.token_ids, two.stop_reason, two.passes)
    np.testing.assert_array_equal(one.logprobs, two.logprobs)
    np.testing.assert_array_equal(one.evidence, two.evidence)


@pytest.mark.parametrize(
    ("shape", "precision", "options"),
    [
        ("small", "mixed", {"kv_dtype": "int8"}),
        pytest.param("odd", "fp32", {"kv_dtype": "fp16"}, marks=pytest.mark.slow),
        pytest.param("erf_untied_offset", "int4", {"weight_dtype": "bf16"}, marks=pytest.mark.slow),
    ],
)
def test_same_bits(library: Path, shape: str, precision: str, options: dict[str, Any]) -> None:
    spec = spec_of(**SHAPES[shape])
    weights, prefix = weights_of(spec, precision), prefix_of(spec, 120)
    texts = []
    for way in ("steps", "persistent"):
        decoder = cuda_of(library, spec, weights, prefix, "strict", evidence_layers=[0, 1], way=way, **options)
        plain = {"max_new_tokens": 9, "repetition_penalty": 1.2, "forced_ids": [3, 4]}
        first = decoder.generate(None, **plain)
        script = [first.token_ids[at : at + 1 + at % 6] for at in range(9)]
        texts.append((first, decoder.generate(None, **plain, draft_script=script)))
    same(texts[0][0], texts[1][0])
    same(texts[0][1], texts[1][1])
    assert texts[1][1].token_ids == texts[1][0].token_ids


def test_any_grid_in_any_order(host_library: Path, stand_in: StandIn) -> None:
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec, "mixed"), prefix_of(spec, 125)
    texts = []
    for processors, order in ((1, 0), (2, 1), (5, 2)):
        stand_in.set("processors", processors)
        stand_in.set("order", order)
        decoder = cuda_of(host_library, spec, weights, prefix, evidence_layers=[1], way="persistent")
        texts.append(decoder.generate(prefix["first_logits"], max_new_tokens=6, repetition_penalty=1.2))
    same(texts[0], texts[1])
    same(texts[0], texts[2])


def test_few_launches(host_library: Path, stand_in: StandIn) -> None:
    """Several tokens by one launch; what was started too much ends at once."""
    spec = spec_of(layers=1, mlp=64)
    prefix = prefix_of(spec, 20)
    decoder = cuda_of(host_library, spec, weights_of(spec), prefix, way="persistent")
    names = ("cooperative", "replays", "records")
    before = [stand_in.get(name) for name in names]
    result = decoder.generate(prefix["first_logits"], max_new_tokens=41, repetition_penalty=1.2)
    assert len(result.token_ids) == 41
    assert [stand_in.get(name) - start for name, start in zip(names, before, strict=True)] == [5, 0, 0]
    stop = result.token_ids[3]
    if stop not in result.token_ids[:3]:
        cut = decoder.generate(prefix["first_logits"], max_new_tokens=41, repetition_penalty=1.2, stop_ids=[stop])
        assert (cut.token_ids, cut.stop_reason, cut.passes) == (result.token_ids[:3], "stop", 3)
        assert stand_in.get("cooperative") - before[0] <= 5 + 3


def test_after_a_failure(host_library: Path, stand_in: StandIn) -> None:
    """What was started before a launch failed does not write into the next text."""
    spec = spec_of(layers=1, mlp=64)
    prefix = prefix_of(spec, 20)
    decoder = cuda_of(host_library, spec, weights_of(spec), prefix, way="persistent")
    options = {"max_new_tokens": 40, "repetition_penalty": 1.2}
    want = decoder.generate(prefix["first_logits"], **options)
    stand_in.set("fail_launch", 3)  # after the first choice and one launch of the kernel
    with pytest.raises(RuntimeError, match="the GPU failed to start a text"):
        decoder.generate(prefix["first_logits"] * 0.5, **options)
    same(decoder.generate(prefix["first_logits"], **options), want)


def test_no_cooperative_launch(host_library: Path, stand_in: StandIn) -> None:
    spec = spec_of(layers=1, mlp=32)
    stand_in.set("cooperates", 0)
    with pytest.raises(kernel.ModelUnsupported, match="does not launch cooperative kernels"):
        cuda_of(host_library, spec, weights_of(spec), prefix_of(spec, 20), way="persistent")
    assert not cuda_of(host_library, spec, weights_of(spec), prefix_of(spec, 20), way="auto").has_persistent


def test_less_of_the_device_than_it_tells(host_library: Path, stand_in: StandIn) -> None:
    """Another process has a multiprocessor: found out when the model is loaded, and steps serve."""
    spec = spec_of(layers=1, mlp=32)
    prefix = prefix_of(spec, 20)
    stand_in.set("taken", 1)
    try:
        decoder = cuda_of(host_library, spec, weights_of(spec), prefix, way="auto")
        with pytest.raises(kernel.ModelUnsupported, match="does not launch on this GPU: too many blocks"):
            cuda_of(host_library, spec, weights_of(spec), prefix, way="persistent")
    finally:
        stand_in.set("taken", 0)
    assert not decoder.has_persistent
    assert len(decoder.generate(prefix["first_logits"], max_new_tokens=4).token_ids) == 4
    assert cuda_of(host_library, spec, weights_of(spec), prefix, way="auto").has_persistent


def test_both_ways_of_one_decoder(host_library: Path, stand_in: StandIn) -> None:
    spec = spec_of(layers=1, mlp=64)
    prefix = prefix_of(spec, 20)
    decoder = cuda_of(host_library, spec, weights_of(spec), prefix, way="auto", evidence_layers=[0])
    texts = []
    for persistent in (False, True, False):
        decoder.persistent = persistent
        before = stand_in.get("cooperative")
        texts.append(decoder.generate(prefix["first_logits"], max_new_tokens=9, repetition_penalty=1.2))
        assert (stand_in.get("cooperative") > before) == persistent
    same(texts[0], texts[1])
    same(texts[0], texts[2])


def test_the_way_is_chosen(host_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(layers=1, mlp=32)
    weights = weights_of(spec)
    either = CudaDecoder(spec, weights, library=host_library)
    assert (either.way, either.ways) == ("steps", ("steps", "persistent"))
    monkeypatch.setenv("EDGE_CUDA_WAY", "steps")
    steps = CudaDecoder(spec, weights, library=host_library)
    assert (steps.way, steps.ways) == ("steps", ("steps",))
    with pytest.raises(ProcessingError, match="no persistent kernel"):
        steps.use_way("persistent")
    monkeypatch.setenv("EDGE_CUDA_WAY", "persistent")
    assert CudaDecoder(spec, weights, library=host_library).way == "persistent"
    monkeypatch.setenv("EDGE_CUDA_WAY", "faster")
    with pytest.raises(UsageError, match="'faster' is not one of steps, persistent, auto"):
        CudaDecoder(spec, weights, library=host_library)


def test_trace(host_library: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Where the time goes, stage by stage, on standard error; the text is the same."""
    spec = spec_of(layers=2, mlp=96)
    weights, prefix = weights_of(spec), prefix_of(spec, 40)
    texts = []
    for wanted in (None, "1"):
        if wanted:
            monkeypatch.setenv("EDGE_CUDA_TRACE", wanted)
        decoder = cuda_of(host_library, spec, weights, prefix, way="persistent")
        texts.append(decoder.generate(prefix["first_logits"], max_new_tokens=13, repetition_penalty=1.2))
        told = capfd.readouterr().err.splitlines()
        assert not told or wanted
    same(texts[0], texts[1])
    assert "persistent kernel, first block, 8 passes: " in told[0]
    assert [line.split()[0] for line in told[1:]] == ["stage", "qkv", "attend", "attn_out", "mlp_in", "mlp_out", "head"]
    assert all(float(number) > 0 for line in told[3:] for number in line.split()[1:])


def test_many_blocks_of_keys(host_library: Path) -> None:
    """More than the product behind attention joins by itself."""
    spec = spec_of(layers=1, hidden=32, heads=2, kv_heads=2, mlp=32, vocab=40, max_positions=4300)
    weights, prefix = weights_of(spec), prefix_of(spec, 4100)
    texts = [
        cuda_of(host_library, spec, weights, prefix, evidence_layers=[0], way=way).generate(
            prefix["first_logits"], max_new_tokens=3, repetition_penalty=1.2
        )
        for way in ("steps", "persistent")
    ]
    same(texts[0], texts[1])
