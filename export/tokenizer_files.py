# SPDX-License-Identifier: Apache-2.0
"""A tokenizer in any form a checkpoint brings it, as one ``tokenizer.json``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.growth import check_growth

from .checkpoint import read_json
from .errors import BadCheckpoint, BundleError, CannotRead, CorruptInput, UsageError
from .sentence_pieces import model_file, read_sentence_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(source: Path) -> Tokenizer:
    """Read ``tokenizer.json``, GPT-2's ``vocab.json`` and ``merges.txt``, BERT's ``vocab.txt``, or a SentencePiece
    model, from a folder.

    Parameters
    ----------
    source : Path
        Folder, or a ``tokenizer.json`` itself.

    Raises
    ------
    BadCheckpoint
        It could make a text too long for memory: the runtime would refuse it.
    CannotRead
        Neither form is there.
    CorruptInput
        The files are not a tokenizer of that kind.
    """
    from tokenizers import Tokenizer

    whole = source if source.is_file() else source / "tokenizer.json"
    if whole.is_file():
        try:
            check_growth(data := whole.read_bytes())
            return whole_texts(Tokenizer.from_buffer(data))
        except (KeyboardInterrupt, MemoryError):
            raise
        except BundleError as error:
            raise BadCheckpoint(str(error)) from None
        except BaseException:  # the library's own panics are no Exceptions
            raise CorruptInput(f"{whole.name} is not a tokenizer this version can read") from None
    if (source / "vocab.txt").is_file():
        return _word_pieces(source)
    if (pieces := model_file(source)) is not None:
        return read_sentence_pieces(pieces)
    vocab, merges = source / "vocab.json", source / "merges.txt"
    if not vocab.is_file() or not merges.is_file():
        raise CannotRead(
            f"no tokenizer in {source}: --tokenizer wants a folder with tokenizer.json, vocab.json and merges.txt, "
            "vocab.txt, or a SentencePiece model"
        )
    return _byte_level(vocab, merges)


def _word_pieces(folder: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    config = folder / "tokenizer_config.json"
    lower = bool(read_json(config).get("do_lower_case", True)) if config.is_file() else True
    try:
        lines = (folder / "vocab.txt").read_text("utf-8").splitlines()
        tokens = {token: index for index, token in enumerate(lines)}
        tokenizer = Tokenizer(models.WordPiece(vocab=tokens, unk_token="[UNK]"))
    except KeyboardInterrupt:
        raise
    except BaseException:
        raise CorruptInput("vocab.txt is not a list of word pieces") from None
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in tokens]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def _byte_level(vocab: Path, merges: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = read_json(vocab)
    try:
        lines = merges.read_text("utf-8").splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
        tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=pairs))
    except KeyboardInterrupt:
        raise
    except BaseException:
        raise CorruptInput(f"{vocab.name} and {merges.name} are not a byte-level BPE") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if END_OF_TEXT in tokens:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def whole_texts(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` without padding and truncation: those of its file are of a training's batches."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def write_tokenizer(source: Path, target: Path, vocab: int) -> Tokenizer:
    """Write ``target`` (a ``tokenizer.json``) and return the tokenizer.

    Raises
    ------
    BadCheckpoint
        It knows more tokens than the model, or others.
    """
    tokenizer = load_tokenizer(source)
    check_ids(tokenizer, source, vocab)
    tokenizer.save(str(target))
    return tokenizer


def check_ids(tokenizer: Tokenizer, source: Path, vocab: int) -> None:
    """Refuse a tokenizer with tokens that the model has not: of one id far away the library would list every other id
    below it, on stdout, when it is saved.

    Raises
    ------
    BadCheckpoint
    """
    if (size := tokenizer.get_vocab_size()) > vocab:
        raise BadCheckpoint(f"the tokenizer in {source} holds {size} tokens, the model {vocab}")
    if (last := max(tokenizer.get_vocab().values(), default=0)) >= vocab:
        raise BadCheckpoint(f"the tokenizer in {source} has a token of id {last}, the model {vocab} tokens")


def special_tokens(folder: Path, words: Tokenizer) -> dict[str, int]:
    """Ids of ``bos_token``, ``eos_token``, ``sep_token``, ... as a folder's tokenizer files name them."""
    named: dict[str, int] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        for name, token in (read_json(file) if file.is_file() else {}).items():
            text = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(text, str) and (number := words.token_to_id(text)) is not None:
                named.setdefault(name, number)
    return named


def report_sections(tokenizer: Tokenizer, given: list[str]) -> list[dict[str, Any]]:
    """Tokens that begin a section of a report, for the manifest.

    Parameters
    ----------
    given : list of str
        ``NAME=TOKEN``; without any, special tokens called findings or impression are taken.

    Raises
    ------
    UsageError
        The tokenizer has no such token.
    """
    if not given:
        special = [(i, t.content) for i, t in tokenizer.get_added_tokens_decoder().items() if t.special]
        named = [(i, re.fullmatch(r"[\[<]\|?(findings|impression)\|?[\]>]", token, re.I)) for i, token in special]
        return [{"token_id": i, "name": found.group(1).lower()} for i, found in named if found]
    sections = []
    for text in given:
        name, _, token = text.partition("=")
        number = tokenizer.token_to_id(token)
        if not name or number is None:
            raise UsageError(f"--section {text}: NAME=TOKEN, a token of the tokenizer, is needed")
        sections.append({"token_id": number, "name": name})
    return sections
