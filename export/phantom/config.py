# SPDX-License-Identifier: Apache-2.0
"""Geometry and texts of the demo model: the paper's family at a size a CPU can train."""

from __future__ import annotations

from ..families.lana.anatomy import BiasConfig
from ..families.lana.model import LanaConfig, SegmenterConfig

NAME = "edge-phantom-demo"
VOCAB = 768
END_OF_TEXT = "<|endoftext|>"
NOTICE = (
    "the demo model was trained on synthetic phantoms only; its text means nothing for a real patient "
    "and is not for clinical use"
)
INTENDED_USE = (
    "Trying out and testing the engine. Trained on drawn phantoms only, never on a radiograph. "
    "Not a medical device, not for clinical use."
)


def demo_config() -> LanaConfig:
    """256-pixel input, 16 x 16 patches, 4 decoder layers; one ConvNeXt trunk in both segmenters."""
    return LanaConfig(
        image_size=256,
        patch_size=16,
        encoder_hidden=192,
        encoder_layers=6,
        encoder_heads=3,
        encoder_mlp=768,
        registers=4,
        skip_tokens=5,
        connector="linear",
        segmenter=SegmenterConfig(hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 3, 1], head=[128, 64, 48, 32]),
        decoder_hidden=192,
        decoder_layers=4,
        decoder_heads=3,
        vocab=VOCAB,
        positions=384,
        bias=BiasConfig(),
    )
