# SPDX-License-Identifier: Apache-2.0
"""What a decoder is told before it writes: begin tokens, contexts, several films; from options and the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...tokenizer_files import load_tokenizer, special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .load import Loaded

CONTEXT_TOKENS = 128
"""Longest text of a context, where the positions allow it."""


class Words:
    """A folder's tokenizer, read when something is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder)

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens that the folder names."""
        return special_tokens(self.folder if self.folder.is_dir() else self.folder.parent, self.tokenizer)

    def start_and_ends(self, start: Any, ends: list[int], notes: list[str]) -> tuple[Any, list[int]]:
        """Start and end of a text where the configurations do not name both."""
        special = self.special
        begin = next((special[name] for name in ("bos_token", "cls_token") if name in special), None)
        end = next((special[name] for name in ("eos_token", "sep_token") if name in special), None)
        if not isinstance(start, int) and begin is not None:
            notes.append("The start token is the tokenizer's: no configuration names one.")
            start = begin
        if not ends and end is not None:
            notes.append("The end token is the tokenizer's: no configuration names one.")
            ends = [end]
        return start, ends


@dataclass
class Prompt:
    """Options of an export.

    Attributes
    ----------
    begin : str
        Tokens with which every text begins ("[BOS] [FINDINGS]"), instead of the configuration's; empty: those.
    context : list of str
        ``NAME=TOKENS`` or ``NAME=TOKENS:ABSENT``: a text that the model reads first, the tokens that announce it, and
        those that stand for it where there is none.
    images : int or None
        Films of one study that the model looks at together, at most.
    """

    begin: str = ""
    context: list[str] = field(default_factory=list)
    images: int | None = None

    def apply(self, loaded: Loaded, words: Tokenizer) -> None:
        """Put the options into a loaded model's sections of the manifest.

        Raises
        ------
        UsageError
            They are not what they must be.
        """
        generation = loaded.generation
        if self.begin:
            generation["begin_ids"] = _ids(words, self.begin, "--begin")
            generation.pop("counted_begin", None)
        if self.context:
            generation["context"] = self._context(loaded, words)
        if self.images is not None:
            if not 1 <= self.images <= 16:
                raise UsageError("--images must be from 1 to 16")
            loaded.images = self.images
        rows = prompt_rows(generation)
        room = decoder_positions(loaded.model) - rows
        if room < 1:
            raise UsageError(f"a prompt of up to {rows} tokens leaves no room for a text in the decoder's positions")
        generation["max_new_tokens"] = min(generation["max_new_tokens"], room)

    def _context(self, loaded: Loaded, words: Tokenizer) -> list[dict[str, Any]]:
        left = decoder_positions(loaded.model) - len(loaded.generation["begin_ids"])
        most = max(1, min(CONTEXT_TOKENS, left // (2 * len(self.context))))
        parts = []
        for text in self.context:
            name, equals, tokens = text.partition("=")
            before, _, absent = tokens.partition(":")
            if not name or not equals:
                raise UsageError(f"--context {text[:40]}: NAME=TOKENS or NAME=TOKENS:ABSENT is needed")
            parts.append(
                {
                    "name": name,
                    "before": _ids(words, before, "--context") if before else [],
                    "absent": _ids(words, absent, "--context") if absent else [],
                    "max_tokens": most,
                }
            )
        return parts


def _ids(words: Tokenizer, text: str, option: str) -> list[int]:
    """Ids of a prompt's tokens: special ones by their names, separated by spaces or not; words as the tokenizer cuts
    them."""
    special = {token.content: number for number, token in words.get_added_tokens_decoder().items()}
    pieces = text.split()
    if pieces and all(piece in special for piece in pieces):
        return [special[piece] for piece in pieces]
    ids = list(words.encode(text, add_special_tokens=False).ids)
    if not ids:
        raise UsageError(f"{option} {text[:40]!r}: the tokenizer makes nothing of it")
    return ids


def prompt_rows(generation: dict[str, Any]) -> int:
    """Most rows before a text."""
    rows = len(generation["begin_ids"])
    for part in generation.get("context", ()):
        rows += max(len(part["before"]) + part["max_tokens"], len(part["absent"]))
    return rows + len(generation.get("states", {}).get("findings", ()))


def decoder_positions(model: Any) -> int:
    """Rows that a decoder's position table allows."""
    config = model.decoder.config
    rows = int(getattr(config, "max_position_embeddings", 1024))
    return rows - config.pad_token_id - 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else rows


def without_context(generation: dict[str, Any]) -> Sequence[int]:
    """The prompt's ids where no context is given, states of findings left out."""
    absent = [i for part in generation.get("context", ()) for i in part["absent"]]
    return [*absent, *generation["begin_ids"]]
