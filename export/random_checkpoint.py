# SPDX-License-Identifier: Apache-2.0
"""Random checkpoints of true shapes, for benchmarks and conformance tests where trained weights cannot be
had.

The numbers are scaled so that the model behaves like a trained one where it matters to an engine: masks are
partial, attention is neither flat nor one-hot, and greedy text is not one token for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from .errors import OutputError, UsageError
from .families.lana.anatomy import BiasConfig
from .families.lana.model import LanaConfig, LanaModel, SegmenterConfig

END_OF_TEXT = "<|endoftext|>"
LUNG_SHARE, HEART_SHARE = 0.3, 0.12
"""Share of the picture that the random segmenters mark."""


def tiny_config() -> LanaConfig:
    """64-pixel input, 4 x 4 patches, 3 decoder layers: for tests."""
    return LanaConfig(
        image_size=64,
        encoder_hidden=48,
        encoder_layers=2,
        encoder_heads=3,
        encoder_mlp=96,
        segmenter=SegmenterConfig([8, 16, 24, 32], [1, 1, 2, 1], [24, 16, 12, 8]),
        decoder_hidden=64,
        decoder_layers=3,
        decoder_heads=4,
        vocab=320,
        positions=192,
    )


def demo_config() -> LanaConfig:
    """The demo model's geometry."""
    from .phantom.config import demo_config as config

    return config()


SHAPES: dict[str, Callable[[], LanaConfig]] = {
    "reference": LanaConfig,
    "demo": demo_config,
    "tiny": tiny_config,
}


def config_of(shape: str, layout: str = "flat") -> LanaConfig:
    """Geometry of a named shape. The ``hf`` layout is LAnA's: mlp4 connector, one skipped token,
    layerwise."""
    if shape not in SHAPES:
        raise UsageError(f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    config = SHAPES[shape]()
    if layout == "hf":
        config.skip_tokens, config.connector, config.bias = 1, "mlp4", BiasConfig("layerwise", 2.0)
    return config


def random_model(config: LanaConfig, seed: int = 0) -> LanaModel:
    """A model with random weights; the same numbers for the same configuration and seed."""
    with torch.random.fork_rng(devices=[]), _no_default_init():
        torch.manual_seed(seed)
        model = LanaModel(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(_draw(name, parameter))
            if model.segmenter is not None:
                _share_trunk(model)
                _calibrate(model)
    return model


class _no_default_init:
    """Skip the default initialisation of layers, whose numbers are overwritten anyway."""

    def __enter__(self) -> None:
        self.saved = [(kind, kind.reset_parameters) for kind in (nn.Linear, nn.Conv2d, nn.Embedding)]
        for kind, _ in self.saved:
            kind.reset_parameters = lambda self: None  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        for kind, method in self.saved:
            kind.reset_parameters = method  # type: ignore[method-assign]


def _draw(name: str, parameter: Tensor) -> Tensor:
    noise = torch.randn_like(parameter)
    if name.endswith("lambda1"):
        return 0.3 + 0.05 * noise
    if name.endswith("gamma"):
        return 0.2 + 0.05 * noise
    if "wte" in name:
        return 0.3 * noise
    if "wpe" in name:
        return 0.1 * noise
    if parameter.ndim == 1:
        # A vector called weight is a norm's.
        return 1.0 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
    if name.startswith("decoder."):
        gain = 2.0 if "c_attn" in name else 1.0
        return gain * noise / parameter.shape[0] ** 0.5
    if parameter.ndim >= 2 and ("token" in name):
        return 0.5 * noise
    fan_in = parameter[0].numel()
    return noise * (1.4 if ".decoder." in name else 1.0) / fan_in**0.5


def _share_trunk(model: LanaModel) -> None:
    """Both segmenters of the paper start from one frozen trunk."""
    lung, heart = model.segmenter.lung_model, model.segmenter.heart_model
    heart.encoder.load_state_dict(lung.encoder.state_dict())


def _calibrate(model: LanaModel) -> None:
    """Shift the last biases of the segmenters so that a random picture gives a partial mask."""
    size = model.config.image_size
    pixels = torch.from_numpy(smooth_pixels(size, np.random.default_rng(0)))
    lung, heart = model.segmenter.logits(pixels, shared_trunk=True)
    model.segmenter.lung_model.decoder[-1].bias -= lung.quantile(1 - LUNG_SHARE)
    margin = heart[:, 2] - heart[:, :2].amax(dim=1)
    model.segmenter.heart_model.decoder[-1].bias[2] -= margin.quantile(1 - HEART_SHARE)


def smooth_pixels(size: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random grey picture with a little noise, normalised: float32 [1, 3, size, size]."""
    coarse = torch.from_numpy(rng.random((1, 1, 7, 7), dtype=np.float32))
    picture = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    picture = picture + torch.from_numpy(rng.standard_normal(picture.shape, dtype=np.float32)) * 0.03
    gray = picture.clamp(0, 1).numpy().repeat(3, axis=1)
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    return np.ascontiguousarray((gray - mean) / std, dtype=np.float32)


def random_tokenizer(vocab: int, seed: int = 0) -> Tokenizer:
    """A byte-level BPE with made-up merges that fills ``vocab`` ids; the last id is the end of text."""
    rng = np.random.default_rng(seed)
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab <= len(tokens):
        raise UsageError(f"a byte-level tokenizer needs more than {len(tokens)} ids")
    known, merges = set(tokens), []
    letters = [*"etaoinshrdlucmfpgbv", "\u0120"]
    starts, ends = letters.copy(), letters[:-1]  # short pieces, so that nearly every pair makes a new token
    while len(tokens) < vocab - 1:
        left = starts[int(rng.integers(len(starts)))]
        right = ends[int(rng.integers(len(ends)))]
        piece = left + right
        if piece in known:
            continue
        known.add(piece)
        tokens.append(piece)
        merges.append((left, right))
        if len(piece) <= 8:
            starts.append(piece)
        if len(piece) <= 4 and not piece.startswith("\u0120"):
            ends.append(piece)
    tokens.append(END_OF_TEXT)
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def make(shape: str, seed: int, layout: str, out: Path) -> Path:
    """Write a random checkpoint with its tokenizer and, where shapes do not tell all, its configuration.

    Parameters
    ----------
    shape : str
        ``reference``, ``demo`` or ``tiny``.
    seed : int
    layout : str
        ``flat``: ``out`` is a ``.pth`` or ``.safetensors`` file; ``hf``: a folder.
    out : Path
        ``tokenizer.json`` is written beside the file, or into the folder.

    Returns
    -------
    Path
        What to hand to ``edge-export``: ``out``.
    """
    from .families.lana import layouts

    if layout not in layouts.LAYOUTS:
        raise UsageError(f"layout must be one of {', '.join(layouts.LAYOUTS)}, not {layout!r}")
    config = config_of(shape, layout)
    model = random_model(config, seed)
    folder = out if layout == "hf" else out.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        random_tokenizer(config.vocab, seed).save(str(folder / "tokenizer.json"))
        if layout == "hf":
            layouts.save_hf(model, out)
        else:
            layouts.save_flat(model, out)
            config_path = out.with_suffix(".config.json")
            config_path.write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror or type(error).__name__})") from None
    return out
