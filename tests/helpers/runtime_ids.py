# SPDX-License-Identifier: Apache-2.0
"""Token ids of a bundle, straight from pixels, and how they are compared with a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from reference_model import ReferenceTexts

    from edge.vision import VisionOutput

NEAR_TIE = 2e-4
"""Two scores closer than this may come in either order in float32, after which the texts differ for good."""


class Runtime:
    """Graph and kernel of a bundle, without the film door."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        from edge.bundle import Bundle
        from edge.decoder import Decoder
        from edge.vision import VisionSession

        self.bundle = Bundle.open(folder)
        self.manifest = self.bundle.manifest
        self.vision = VisionSession(self.bundle, threads=threads)
        weights = self.bundle.file(self.manifest.weights_file)
        self.decoder = Decoder.from_files(self.manifest.decoder, weights, threads=threads)
        self._seen: dict[tuple[bytes, bool], VisionOutput] = {}

    def see(self, pixels: np.ndarray, bias: bool) -> VisionOutput:
        """Outputs of the graph, kept: the modes ``all`` and ``prefill`` share them."""
        key = (pixels.tobytes(), bias)
        if key not in self._seen:
            self._seen[key] = self.vision.run(pixels, bias=bias)
        return self._seen[key]

    def ids(self, pixels: np.ndarray, rows: str, penalty: float, count: int) -> list[int]:
        """Greedy ids of one picture, float32 [1, 3, H, W]."""
        from edge.decoder import GenerationOptions

        seen = self.see(pixels, rows != "none")
        first_logits = seen.fill(self.decoder)
        generation = self.manifest.generation
        options = GenerationOptions(
            max_new_tokens=count,
            repetition_penalty=penalty,
            bias_rows=rows,  # type: ignore[arg-type]
            begin_ids=generation.begin_ids,
            suppressed_ids=generation.suppressed_ids,
        )
        return self.decoder.generate(first_logits, options).token_ids


def assert_same(texts: list[list[int]], want: ReferenceTexts, ties: int) -> None:
    """Equal ids; at most ``ties`` texts may leave the reference, and only where the reference all but tied."""
    left = 0
    for text, ids, margins in zip(texts, want.ids.tolist(), want.margins, strict=True):
        assert len(text) == len(ids)
        different = [i for i, (a, b) in enumerate(zip(text, ids, strict=True)) if a != b]
        if different:
            first = different[0]
            assert margins[first] < NEAR_TIE, f"differs at {first}, margin {margins[first]}"
            left += 1
    assert left <= ties
