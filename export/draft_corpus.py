# SPDX-License-Identifier: Apache-2.0
"""Texts to learn phrasing from (``--draft-corpus FILE``), and the draft table made of them.

The file may come from anywhere and is only ever read as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.text import sentence_spans

from .draft_table import Piece, build_table
from .errors import CannotRead, CorruptInput, UsageError
from .tokenizer_files import whole_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_BYTES = 1 << 28
MOST_LINE = 1 << 16
"""Characters of one line: no report is longer."""


def read_corpus(path: Path) -> list[str]:
    """The lines of a corpus: one report, or one sentence, each. Empty lines are left out.

    Raises
    ------
    CannotRead
        There is no such file.
    CorruptInput
        It is not UTF-8, holds NUL characters or a line that is no report.
    UsageError
        It is too large, or empty.
    """
    try:
        if not path.is_file():
            raise CannotRead(f"the draft corpus {path.name} is not a file; check the name")
        with open(path, "rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise CannotRead(f"the draft corpus {path.name} cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"the draft corpus is larger than {MOST_BYTES >> 20} MiB: give a sample of it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CorruptInput(f"the draft corpus is not UTF-8 text (line {line})") from None
    if "\0" in text:
        raise CorruptInput("the draft corpus holds NUL characters: it is not a text")
    lines = [line.strip() for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if len(line) > MOST_LINE:
            raise CorruptInput(f"line {number} of the draft corpus is longer than {MOST_LINE} characters: no report is")
    lines = [line for line in lines if line]
    if not lines:
        raise UsageError("the draft corpus holds no text to learn from")
    return lines


def corpus_table(texts: Iterable[str], tokenizer: Tokenizer, stop_ids: Iterable[int]) -> dict[str, np.ndarray]:
    """The draft table of these texts (:func:`edge_export.draft_table.build_table`).

    A report is followed by the first of the `stop_ids`. A lone sentence is also learnt as what follows another one.
    """
    tokenizer = whole_texts(tokenizer)
    end = list(stop_ids)[:1]
    pieces: list[Piece] = []
    for text in texts:
        pieces.append(Piece([*tokenizer.encode(text, add_special_tokens=False).ids, *end]))
        if len(sentence_spans(text)) == 1:
            pieces.append(Piece(tokenizer.encode(f" {text}", add_special_tokens=False).ids, begins=False))
    return build_table(pieces)
