# SPDX-License-Identifier: Apache-2.0
"""A choice between two as likely may fall either way in float32, whether it is the first or the last of a text."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edge_export.families.lana.reference import ReferenceDecoder
from edge_export.verify import NEAR_TIE, Verification
from tiny import tiny_model

LITTLE, MUCH = NEAR_TIE / 2, NEAR_TIE * 2


def shares(margin: float, row: int, *, quantized: bool) -> float:
    """Of rows with the model's likeliest choice, where one of four has another, behind by `margin`."""
    want = np.zeros((4, 5), np.float32)
    want[:, 2], want[:, 3] = 1.0, 1.0 - margin
    got = want.copy()
    got[row, 3] = 1.5
    result = Verification(1, 4)
    result.compare_choices("choices", got, want, 1.0, quantized)
    assert result.passed == (result.stages["choices"].worst == 1.0)
    return result.stages["choices"].worst


@pytest.mark.parametrize("row", range(4))
def test_rows_by_themselves(row: int) -> None:
    assert shares(LITTLE, row, quantized=False) == 1.0
    assert shares(MUCH, row, quantized=False) == 0.75
    assert shares(LITTLE, row, quantized=True) == 0.75  # there it is a figure of the model card


def test_another_than_the_second_choice() -> None:
    """It is not excused by the second one's being close."""
    want = np.array([[1.0, 1.0 - LITTLE, 0.5]], np.float32)
    result = Verification(1, 1)
    result.compare_choices("choices", np.array([[0.0, 0.0, 1.0]], np.float32), want, 1.0, False)
    assert not result.passed


@pytest.mark.parametrize("at", range(4))
def test_texts(at: int) -> None:
    """The fourth choice is the stop."""
    want = [5, 6, 7]
    got = [*want[:at], 9, 9]
    for close, quantized, share in (
        (True, False, 1.0),
        (False, False, at / max(3, at + 2)),
        (True, True, at / max(3, at + 2)),
    ):
        margins = [MUCH] * 4
        if close:
            margins[at] = LITTLE
        result = Verification(1, 4)
        result.compare_texts(got, want, margins, 1.0, quantized)
        (stage,) = result.stages.values()
        assert stage.worst == share
        assert result.passed == (quantized or close)


def test_the_stop_has_a_margin_as_any_token() -> None:
    import torch

    model = tiny_model(segmenter=False).eval()
    embeddings = torch.randn(
        model.config.prefix_length, model.config.decoder_hidden, generator=torch.Generator().manual_seed(1)
    )
    logits = ReferenceDecoder(model, embeddings, None, sequence_length=64, prefill_bias=False).first_logits
    first = int(logits.argmax())
    decoder = ReferenceDecoder(model, embeddings, None, sequence_length=64, prefill_bias=False)
    text = decoder.greedy(5, bias_rows="none", penalty=1.0, stop_ids=[first])
    best = logits.topk(2).values
    assert (text.ids, text.margins) == ([], [pytest.approx(float(best[0] - best[1]))])
