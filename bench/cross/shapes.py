# SPDX-License-Identifier: Apache-2.0
"""Published sizes with random weights: the folder a user would have, and what is made of it once.

Nothing here knows how a text comes out: weights are random, and every text is as long as asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.errors import ProcessingError

from ..peers.job import made_once
from ..reference import cache_folder

VERSION = 1
"""Part of the folders' names: raise it when what is made changes."""
Say = Callable[[str], None]

_DISTILGPT2 = {"vocab_size": 50259, "n_positions": 1024, "n_embd": 768, "n_layer": 6, "n_head": 12}
_SWINV2_BASE = {
    "image_size": 256,
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
    "window_size": 8,
}
_BERT2 = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
# ``optimum_cache``: whether optimum exports the decoder with a key-value cache; None: not the model at all.
SHAPES: dict[str, dict[str, Any]] = {
    "dinov2-distilgpt2": {
        "what": "DINOv2-B/14 at 518 pixels (1370 tokens) and DistilGPT2, as MLRG",
        "encoder": ("dinov2", {"image_size": 518, "patch_size": 14}),
        "decoder": ("gpt2", _DISTILGPT2),
        "size": 518,
        "optimum_cache": True,
    },
    "swinv2-bert": {
        "what": "SwinV2-B at 256 pixels (64 tokens) and two BERT layers, as the baselines of CheXpert Plus",
        "encoder": ("swinv2", _SWINV2_BASE),
        "decoder": ("bert", _BERT2),
        "size": 256,
        "optimum_cache": False,  # it exports BERT decoders without one
    },
}


def home(shape: str) -> Path:
    """Folder of all that is made of a shape."""
    return cache_folder() / f"cross-{shape}-v{VERSION}"


def folder(shape: str, say: Say = lambda line: None) -> Path:
    """The Hugging Face folder of a shape."""

    def make(path: Path) -> None:
        say(f"{shape}: drawing random weights")
        _write(SHAPES[shape], path)

    return made_once(home(shape) / "folder", make)


def bundle(shape: str, quantize: str, say: Say = lambda line: None) -> Path:
    """The bundle that ``edge-export`` makes of it; a quantized one has the vision graph for OpenVINO, too.

    Raises
    ------
    ProcessingError
        The export failed; it has said why.
    """
    source = folder(shape, say)
    more = [] if quantize == "none" else ["--openvino-graph"]

    def make(path: Path) -> None:
        from edge_export.cli import main

        say(f"{shape}: exporting ({quantize})")
        # Not None: to nowhere it could not say what it wrote, and that is a failure.
        with contextlib.redirect_stdout(io.StringIO()):
            code = main([str(source), "--out", str(path), "--quantize", quantize, "--synthetic", "-q", *more])
        if code != 0:
            raise ProcessingError(f"{shape}: edge-export ended with code {code}")

    return made_once(home(shape) / f"bundle-{quantize}{'-openvino' if more else ''}", make)


def optimum_folder(shape: str, say: Say = lambda line: None) -> Path:
    """What optimum makes of it."""
    source = folder(shape, say)

    def make(path: Path) -> None:
        from optimum.onnxruntime import ORTModelForVision2Seq

        say(f"{shape}: exporting with optimum")
        cache = SHAPES[shape]["optimum_cache"]
        ORTModelForVision2Seq.from_pretrained(source, export=True, use_cache=cache).save_pretrained(path)

    return made_once(home(shape) / "optimum", make)


def _write(shape: dict[str, Any], path: Path) -> None:
    import torch
    import transformers as hf
    from edge_export.random_checkpoint import random_tokenizer

    (encoder, encoder_values), (decoder, decoder_values) = shape["encoder"], shape["decoder"]
    vocab = decoder_values["vocab_size"]
    ids = {"bos_token_id": 0, "eos_token_id": vocab - 1, "pad_token_id": 1, "decoder_start_token_id": 2}
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        hf.AutoConfig.for_model(encoder, **encoder_values),
        hf.AutoConfig.for_model(decoder, is_decoder=True, add_cross_attention=True, **ids, **decoder_values),
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.VisionEncoderDecoderModel(config).eval()
    generation = model.generation_config
    generation.max_length, generation.decoder_start_token_id = 128, 2
    generation.eos_token_id, generation.pad_token_id = vocab - 1, 1
    model.save_pretrained(path)
    random_tokenizer(vocab).save(str(path / "tokenizer.json"))
    side = {"height": shape["size"], "width": shape["size"]}
    processor = {"do_resize": True, "size": side, "resample": 3, "do_rescale": True, "do_normalize": True}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
