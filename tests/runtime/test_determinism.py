# SPDX-License-Identifier: Apache-2.0
"""The demo bundle, from the film to the text: the same ids for any number of threads, drafting on or off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge
from edge.film import read_film

SAMPLE = Path(__file__).parents[2] / "examples" / "phantom.dcm"


@pytest.mark.parametrize("draft", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_same_ids(monkeypatch: pytest.MonkeyPatch, threads: int, draft: bool) -> None:
    monkeypatch.setattr("edge.threads.BYTES_PER_THREAD", 1)  # or so small a decoder would always take one thread
    engine = edge.load(threads=threads, draft=draft)
    assert engine._decoder.threads == threads
    for name, source in films().items():
        report = engine.report(source, repetition_penalty=1.1)
        ids = (report.token_ids, report.stop_reason)
        assert len(ids[0]) > 20
        assert (report.decoding["accepted"] > 0) == draft
        assert EXPECTED.setdefault(name, ids) == ids


EXPECTED: dict[str, object] = {}


def films() -> dict[str, np.ndarray]:
    """The sample film, its mirror image, and a piece of it."""
    pixels = read_film(SAMPLE).pixels
    return {"whole": pixels, "mirrored": pixels[:, ::-1], "piece": pixels[100:-200, 80:-60]}
