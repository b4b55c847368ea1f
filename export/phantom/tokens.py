# SPDX-License-Identifier: Apache-2.0
"""The demo model's tokenizer: byte-level BPE learnt from the phantom grammar."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .config import END_OF_TEXT, VOCAB
from .grammar import corpus


def train_tokenizer(out: Path, texts: int = 20000, seed: int = 5) -> Tokenizer:
    """Learn the vocabulary and write ``tokenizer.json``; the end-of-text token gets the last id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(texts, seed), trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.save(str(out))
    return tokenizer
