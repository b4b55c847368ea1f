# SPDX-License-Identifier: Apache-2.0
"""Small encoder-decoders with cross-attention that learn from phantoms: a ViT that two kinds of decoders read.

They are not shipped. They show on labels, not on random weights, what an export of such a model costs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from .config import END_OF_TEXT
from .grammar import corpus
from .tokens import train_tokenizer

IMAGE_SIZE, PATCH = 224, 16
HIDDEN, LAYERS, HEADS = 256, 3, 4
POSITIONS = 160
WORD_PIECES = 1024
FAMILIES = ("gpt2-cross", "bert-cross")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def tokenizer_for(family: str, path: Path, texts: int = 20000) -> Tokenizer:
    """The family's tokenizer, learnt from the grammar and kept: byte-level BPE (GPT-2) or WordPiece (BERT)."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    if family == "gpt2-cross":
        return train_tokenizer(path, texts)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=WORD_PIECES, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(texts, 5), trainer)
    tokenizer.save(str(path))
    return tokenizer


def special_ids(family: str, tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the token before a text, of its end and of the padding."""
    names = (END_OF_TEXT,) * 3 if family == "gpt2-cross" else ("[CLS]", "[SEP]", "[PAD]")
    keys = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    return {key: tokenizer.token_to_id(name) for key, name in zip(keys, names, strict=True)}


def build_model(family: str, tokenizer: Tokenizer) -> Any:
    """A ``VisionEncoderDecoderModel`` with fresh weights, without dropout."""
    import torch
    import transformers as hf

    encoder = hf.ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    ids = special_ids(family, tokenizer)
    shared = {"vocab_size": tokenizer.get_vocab_size(), "is_decoder": True, "add_cross_attention": True, **ids}
    decoder: Any
    if family == "gpt2-cross":
        decoder = hf.GPT2Config(
            n_positions=POSITIONS,
            n_embd=HIDDEN,
            n_layer=LAYERS,
            n_head=HEADS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=ids["decoder_start_token_id"],
            **shared,
        )
    else:
        decoder = hf.BertConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * HIDDEN,
            max_position_embeddings=POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **shared,
        )
    model = hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name and "wte" not in name and "wpe" not in name:
                torch.nn.init.xavier_uniform_(parameter)
        embeddings = model.encoder.embeddings
        torch.nn.init.xavier_uniform_(embeddings.patch_embeddings.projection.weight.view(192, -1))
        embeddings.position_embeddings[0, 1:] = 0.5 * _waves(IMAGE_SIZE // PATCH, 192)
    return model


def _waves(side: int, width: int) -> Any:
    """Sines and cosines of a patch's row and column, [side * side, width]: where training's positions start."""
    import torch

    rates = 1.0 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    one = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([one.repeat_interleave(side, 0), one.repeat(side, 1)], 1)


def write_folder(model: Any, family: str, tokenizer: Tokenizer, folder: Path, max_new_tokens: int) -> None:
    """What ``edge-export`` takes: model, tokenizer, preprocessor and generation configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = special_ids(family, tokenizer)
    generation = model.generation_config
    for key, value in ids.items():
        setattr(generation, key, value)
    generation.bos_token_id = ids["decoder_start_token_id"]
    generation.max_new_tokens, generation.max_length = max_new_tokens, None
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    processor = {
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
