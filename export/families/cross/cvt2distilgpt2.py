# SPDX-License-Identifier: Apache-2.0
"""CvT2DistilGPT2's Lightning checkpoint: CvT under its authors' names, a projection without a norm, DistilGPT2."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...checkpoint import read_state, shape_of
from ...errors import BadCheckpoint
from ...options import ImageOptions
from ...tokenizer_files import END_OF_TEXT, load_tokenizer
from .image import image_section

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .load import Loaded

BEGIN, PAD = "[BOS]", "[PAD]"
PICTURE, EDGE = 384, 448
LENGTH, BEAMS = 128, 4
"""Of a text with its begin token; both as in the published configurations."""
_HEADS = {(64, 192, 384): [1, 3, 6], (192, 768, 1024): [3, 12, 16]}
"""Of the published CvTs, by the widths of their stages: the weights do not tell."""
_HEAD_WIDTH = 64
_PARTS = {
    "patch_embed.proj": "embedding.convolution_embeddings.projection",
    "patch_embed.norm": "embedding.convolution_embeddings.normalization",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    **{
        f"attn.proj_{a}": f"attention.attention.projection_{b}"
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"))
    },
    **{
        f"attn.conv_proj_{a}.{c}": f"attention.attention.convolution_projection_{b}.convolution_projection.{d}"
        for a, b in (("q", "query"), ("k", "key"), ("v", "value"))
        for c, d in (("conv", "convolution"), ("bn", "normalization"))
    },
}
_IGNORED = re.compile(r"encoder\.cvt\.(norm|head)\..*|(val|test)_.*|decoder\.encoder_decoder\.encoder\..*")


def recognises(names: Collection[str]) -> bool:
    """Whether a flat state dict is one of these, from its weights' names."""
    needed = ("encoder.cvt.stage0.patch_embed.proj.weight", "encoder_projection.projection.weight")
    return all(name in names for name in needed)


def load(path: Path, tokenizer: Path | None = None) -> Loaded:
    """Load a checkpoint.

    Parameters
    ----------
    path : Path
    tokenizer : Path, optional
        Folder of the tokenizer: DistilGPT2's, with or without the two tokens that the published code adds.

    Raises
    ------
    BadCheckpoint, CannotRead, CorruptInput
    """
    from .load import Loaded, build

    state = {new: t for name, t in read_state(path).items() if (new := renamed(name)) is not None}
    words = _words(tokenizer or path.parent)
    model = build(_config(state, path.name), state, path.name)
    vocab = model.config.decoder.vocab_size
    if words.get_vocab_size() > vocab:
        raise BadCheckpoint(f"the tokenizer holds {words.get_vocab_size()} tokens, the model {vocab}")
    processor = {
        "size": {"shortest_edge": EDGE},
        "do_center_crop": True,
        "crop_size": PICTURE,
        "resample": 2,
        "image_mean": ImageOptions().mean,
        "image_std": ImageOptions().std,
    }
    layers = model.config.decoder.n_layer
    generation = {
        "max_new_tokens": LENGTH - 1,
        "repetition_penalty": 1.0,
        "stop_ids": [words.token_to_id(END_OF_TEXT)],
        "suppressed_ids": [],
        "begin_ids": [words.token_to_id(BEGIN)],
        "cut_at_sentence": False,
        "evidence_layers": list(range(layers // 2, layers)),
        "beams": BEAMS,
        "length_penalty": 1.0,
        "early_stopping": "no",
    }
    notes = ["Pictures, begin token, beams and length are those of CvT2DistilGPT2's published code."]
    image = image_section(processor, PICTURE, ImageOptions())
    return Loaded(model, image, generation, notes, words=words, kind="cvt2distilgpt2")


def renamed(name: str) -> str | None:
    """A weight's name as in a folder; None for what is no part of the model."""
    if _IGNORED.fullmatch(name):
        return None
    if name.startswith("encoder_projection."):
        return name.replace("encoder_projection.", "encoder.projection_head.", 1)
    if name.startswith("decoder.encoder_decoder.decoder."):
        return name.replace("decoder.encoder_decoder.decoder.", "decoder.", 1)
    found = re.fullmatch(r"encoder\.cvt\.stage(\d+)\.(?:blocks\.(\d+)\.)?(.+)", name)
    if found is None:
        return name
    stage, block, rest = found.groups()
    stem = f"encoder.cvt.encoder.stages.{stage}" + (f".layers.{block}" if block is not None else "")
    part, _, leaf = rest.rpartition(".")
    return f"{stem}.{rest}" if part not in _PARTS else f"{stem}.{_PARTS[part]}.{leaf}"


def _words(folder: Path) -> Tokenizer:
    from tokenizers import AddedToken

    words = load_tokenizer(folder)
    new = [token for token in (BEGIN, PAD) if words.token_to_id(token) is None]
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new])
    if words.token_to_id(END_OF_TEXT) is None:
        raise BadCheckpoint(f"the tokenizer has no {END_OF_TEXT}: it is not GPT-2's")
    return words


def _config(state: dict[str, Tensor], name: str) -> Any:
    """Configurations that follow from the weights' shapes; GPT-2's heads are 64 wide."""
    from transformers import CvtConfig, GPT2Config, VisionEncoderDecoderConfig

    stages = "encoder.cvt.encoder.stages"
    patches = [f"{stages}.{i}.embedding.convolution_embeddings.projection.weight" for i in range(3)]
    widths = tuple(shape_of(state, key, 4, name)[0] for key in patches)
    vocab, hidden = shape_of(state, "decoder.transformer.wte.weight", 2, name)
    positions, _ = shape_of(state, "decoder.transformer.wpe.weight", 2, name)

    def count(pattern: str) -> int:
        return 1 + max((int(m.group(1)) for key in state if (m := re.match(pattern, key))), default=-1)

    if widths not in _HEADS:
        raise BadCheckpoint(f"{name}: not supported: a CvT of the widths {widths}, whose heads no weight tells")
    depth = [count(rf"{re.escape(stages)}\.{i}\.layers\.(\d+)\.") for i in range(3)]
    encoder = CvtConfig(embed_dim=list(widths), num_heads=_HEADS[widths], depth=depth)
    layers = count(r"decoder\.transformer\.h\.(\d+)\.")
    if not 1 <= layers <= 256 or not all(1 <= n <= 256 for n in depth) or hidden % _HEAD_WIDTH:
        raise BadCheckpoint(f"{name}: {layers} layers of width {hidden} are no decoder of this family")
    decoder = GPT2Config(
        vocab_size=vocab, n_positions=positions, n_embd=hidden, n_layer=layers, n_head=hidden // _HEAD_WIDTH
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config._attn_implementation = "eager"
    for part in (config.encoder, config.decoder):
        part._attn_implementation = "eager"
    return config
