# SPDX-License-Identifier: Apache-2.0
"""A SentencePiece model as a ``tokenizers`` tokenizer, by way of the converters that ``transformers`` has for the
decoders supported here. The model file is data (a protocol buffer); nothing of the folder runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .checkpoint import read_json
from .errors import BadCheckpoint, CorruptInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "sentencepiece.model")
_KINDS = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "mbart": "MBartTokenizer",
    "camembert": "CamembertTokenizer",
}
"""Tokenizers of decoders, where the folder does not name one."""
_CLASSES = {*_KINDS.values(), "MBart50Tokenizer"}
_SPECIAL = re.compile(r"<s>|</s>|<pad>|<unk>|<mask>|<s>NOTUSED|</s>NOTUSED|<unk>NOTUSED|[a-z]{2}_[A-Z]{2}")
_MAX_BYTES = 64 << 20


def model_file(folder: Path) -> Path | None:
    """A folder's SentencePiece model, where it has one."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_sentence_pieces(file: Path) -> Tokenizer:
    """Convert a SentencePiece model; the ids are those of the tokenizer class that its folder names.

    Raises
    ------
    BadCheckpoint
        Another class, or a model that is not a unigram one; the message says what to do.
    CorruptInput
        The file is no SentencePiece model.
    """
    from tokenizers import AddedToken
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS, import_protobuf

    name = _class_of(file.parent)
    todo = "save it as tokenizer.json: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    if name not in _CLASSES:
        raise BadCheckpoint(f"{file.name}: a SentencePiece model of the class {name[:40] or 'unknown'!r}; {todo}")
    if file.stat().st_size > _MAX_BYTES:
        raise CorruptInput(f"{file.name} is too large for a SentencePiece model")
    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception:
        proto = None
    if proto is None or not proto.pieces:
        raise CorruptInput(f"{file.name} is not a SentencePiece model")
    if proto.trainer_spec.model_type != 1:
        raise BadCheckpoint(f"{file.name}: not a unigram model; {todo}")
    stub = SimpleNamespace(vocab_file=str(file), convert_tokens_to_ids=lambda _token: 0)
    try:
        converter: Any = SLOW_TO_FAST_CONVERTERS[name](stub)
        converter.post_processor = lambda: None  # no token is ever added around a text here
        tokenizer: Tokenizer = converter.converted()
    except KeyboardInterrupt:
        raise
    except BaseException:  # the library's own panics are no Exceptions
        raise CorruptInput(f"{file.name} is not a SentencePiece model that can be converted") from None
    special = sorted((number, token) for token, number in tokenizer.get_vocab().items() if _SPECIAL.fullmatch(token))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for _, token in special])
    return tokenizer


def _class_of(folder: Path) -> str:
    file = folder / "tokenizer_config.json"
    named = read_json(file).get("tokenizer_class") if file.is_file() else None
    if isinstance(named, str):
        return named.removesuffix("Fast")
    file = folder / "config.json"
    decoder = read_json(file).get("decoder") if file.is_file() else None
    kind = decoder.get("model_type") if isinstance(decoder, dict) else None
    return _KINDS.get(kind, "") if isinstance(kind, str) else ""
