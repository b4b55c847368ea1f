# SPDX-License-Identifier: Apache-2.0
"""Model families: one folder each, with a ``load`` module that knows the family's checkpoints."""

from __future__ import annotations

LANA, CROSS, PROMPTMRG, CVT2DISTILGPT2 = "lana", "vision-encoder-decoder", "promptmrg", "cvt2distilgpt2"
FAMILIES = (LANA, CROSS, PROMPTMRG, CVT2DISTILGPT2)
