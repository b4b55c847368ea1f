# SPDX-License-Identifier: Apache-2.0
"""Drafts on the device: the text is that of one token per pass, bit for bit, and the passes are the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_export.draft_table import Piece, build_table
from small import decoder_of, prefix_of, spec_of, weights_of
from stand_in import StandIn
from test_cuda_decoder import cuda_of

import edge._kernel as kernel

SPEC = spec_of(layers=1, hidden=32, heads=2, kv_heads=2, mlp=64, vocab=60, max_positions=64, position_offset=2)
WEIGHTS = weights_of(SPEC, seed=3)
PREFIX = prefix_of(SPEC, 20)
FIRST = PREFIX["first_logits"]


def same(plain: kernel.GenerationResult, drafted: kernel.GenerationResult) -> None:
    assert drafted.token_ids == plain.token_ids
    assert drafted.stop_reason == plain.stop_reason
    np.testing.assert_array_equal(drafted.logprobs, plain.logprobs)
    np.testing.assert_array_equal(drafted.evidence, plain.evidence)
    assert plain.drafted == 0
    assert drafted.passes + drafted.accepted == plain.passes


def counts(result: kernel.GenerationResult) -> tuple[Any, ...]:
    return result.token_ids, result.stop_reason, result.passes, result.drafted, result.accepted


@pytest.fixture(params=["steps", "persistent"])
def decoders(request: pytest.FixtureRequest, library: Path) -> tuple[kernel.CudaDecoder, kernel.Decoder]:
    return (
        cuda_of(library, SPEC, WEIGHTS, PREFIX, evidence_layers=[0], way=request.param),
        decoder_of(SPEC, WEIGHTS, PREFIX, threads=1, evidence_layers=[0]),
    )


def test_any_draft(decoders: tuple[kernel.CudaDecoder, kernel.Decoder]) -> None:
    """Right drafts, half right ones, noise, one word again and again; penalties, stops, suppressed ids, prompts."""
    cuda, cpu = decoders
    rng = np.random.default_rng(11)
    accepted = 0
    for number in range(2):
        ids = lambda most: [int(i) for i in rng.integers(0, 60, rng.integers(0, most + 1))]  # noqa: E731
        options = {
            "begin_ids": ids(2), "forced_ids": ids(4), "bias_rows": str(rng.choice(["all", "prefill", "none"])),
            "max_new_tokens": int(rng.integers(12, 18)), "repetition_penalty": float(rng.choice([1.0, 1.2, 0.8, 3.0])),
            "stop_ids": ids(2), "suppressed_ids": ids(4),
        }  # fmt: skip
        plain = cuda.generate(FIRST, **options)
        rows = cuda.text_rows
        text = plain.token_ids
        script = [
            [text[at : at + 15], text[at : at + at % 4] + ids(9), ids(20), [int(rng.integers(60))] * 17][number % 4]
            for at in range(45)
        ]
        drafted = cuda.generate(FIRST, **options, draft_script=script)
        same(plain, drafted)
        assert cuda.text_rows == rows
        assert counts(drafted) == counts(cpu.generate(FIRST, **options, draft_script=script))
        accepted += drafted.accepted
    assert accepted > 4


def test_a_table(decoders: tuple[kernel.CudaDecoder, kernel.Decoder]) -> None:
    cuda, cpu = decoders
    plain = cuda.generate(FIRST, max_new_tokens=40)
    table = kernel.DraftTable(**build_table([Piece(plain.token_ids)] * 9), vocab=60)
    options = {
        "max_new_tokens": 40,
        "draft": True,
        "draft_table": table,
        "draft_costs": [1.0 + i / 20 for i in range(16)],
    }
    drafted = cuda.generate(FIRST, **options)
    same(plain, drafted)
    assert drafted.accepted > 20
    assert counts(drafted) == counts(cpu.generate(FIRST, **options))


@pytest.mark.parametrize(("way", "kv"), [("steps", "fp32"), ("persistent", "fp32"), ("steps", "int8")])
def test_a_wrong_draft_that_is_no_number(library: Path, way: str, kv: str) -> None:
    """A row of the embedding that is not finite, drafted and refuted, leaves no trace in the rows before it."""
    spec = SPEC | {"tied_head": False, "max_positions": 160}
    weights, prefix = weights_of(spec, seed=3), prefix_of(spec, 122)  # the text's keys end a block and begin one
    first, options = prefix["first_logits"], {"max_new_tokens": 12, "repetition_penalty": 1.3}
    text = decoder_of(spec, weights, prefix, threads=1, kv_dtype=kv).generate(first, **options).token_ids
    bad = next(i for i in range(60) if i not in text)
    weights["embed.weight"][bad, ::5] = np.nan
    cuda = cuda_of(library, spec, weights, prefix, kv_dtype=kv, way=way, evidence_layers=[0])
    plain = cuda.generate(first, **options)
    for right in (0, 2, 6):
        ids = plain.token_ids
        script = [[*ids[at : at + right], bad, *ids[at + right :]] for at in range(12)]
        same(plain, cuda.generate(first, **options, draft_script=script))


def test_stopping_inside_a_pass(decoders: tuple[kernel.CudaDecoder, kernel.Decoder]) -> None:
    cuda, cpu = decoders
    text = cuda.generate(FIRST, max_new_tokens=30).token_ids
    script = [text[at : at + 9] for at in range(30)]
    for end in (0, 4, 11):
        told: list[int] = []

        def on_token(token: int, logprob: float, told: list[int] = told, end: int = end) -> bool:
            told.append(token)
            return len(told) <= end

        result = cuda.generate(FIRST, max_new_tokens=30, on_token=on_token, draft_script=script)
        assert result.token_ids == told == text[: end + 1]
        assert (result.stop_reason, cuda.text_rows) == ("cancelled", end)
        cpu.generate(FIRST, max_new_tokens=end + 1)
        # The rows of the pass that came too many are written over.
        got, want = (d.forward(np.array([1, 2], np.int32), True) for d in (cuda, cpu))
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_chunks_are_recorded_once(host_library: Path, stand_in: StandIn) -> None:
    """A pass of any number of rows is one replay; nothing is launched by itself but the first choice."""
    decoder = cuda_of(host_library, SPEC, WEIGHTS, PREFIX)
    text = decoder.generate(FIRST, max_new_tokens=40).token_ids
    script = [text[at : at + 2 + at % 9] for at in range(40)]
    decoder.generate(FIRST, max_new_tokens=40, draft_script=script)
    before = stand_in.get("replays"), stand_in.get("records")
    result = decoder.generate(FIRST, max_new_tokens=40, draft_script=script)
    assert stand_in.get("replays") - before[0] == result.passes
    assert stand_in.get("records") == before[1]
    assert result.accepted > 25


def test_bad_drafts(host_library: Path) -> None:
    decoder = cuda_of(host_library, SPEC, WEIGHTS, PREFIX)
    with pytest.raises(ValueError, match="draft_script holds 60"):
        decoder.generate(FIRST, draft_script=[[60]])
    with pytest.raises(ValueError, match="cannot be drafted"):
        decoder.generate(FIRST, draft_script=[[1]], temperature=1.0)
    table = kernel.DraftTable(**build_table([Piece([1, 2, 3])] * 9), vocab=61)
    with pytest.raises(ValueError, match="another vocabulary"):
        decoder.generate(FIRST, draft=True, draft_table=table)
