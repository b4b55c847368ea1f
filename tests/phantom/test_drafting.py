# SPDX-License-Identifier: Apache-2.0
"""The demo bundle's draft table: the same reports in fewer passes."""

from __future__ import annotations

from edge_export.phantom.drafting import compare, table


def test_a_few_unseen_phantoms() -> None:
    """A small sample of what `edge-phantom evaluate --drafting` runs on 500; speed is not asserted here."""
    found = compare(6, 78, long_side=512, threads=2)
    assert found["identical"] == 6
    assert found["tokens_per_pass"] >= 2.5
    assert found["passes"] + found["accepted"] == found["tokens"]  # a stop token is chosen by a pass too,
    # a first token by none: the graph gives its logits
    assert "tokens per pass" in table(found)
