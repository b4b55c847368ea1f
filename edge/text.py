# SPDX-License-Identifier: Apache-2.0
"""Text: token ids to characters, characters to sentences, and what in a text deserves a warning."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from edge.errors import BundleError, UsageError
from edge.growth import MOST, check_growth, longest, part

_REPLACEMENT = "\ufffd"
_Result = TypeVar("_Result")
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str) -> str:
    """Drop what a terminal could act on: control characters but line breaks and tabs, direction marks.

    Works character by character, so cleaning pieces of a text gives the pieces of the cleaned text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _UNSAFE)


class TextDecoder:
    """The bundle's tokenizer (a Hugging Face ``tokenizer.json``), reduced to what a report needs.

    Raises
    ------
    BundleError
        The file is not a tokenizer, or it knows more tokens than the decoder.
    """

    def __init__(self, path: Path, vocab: int) -> None:
        try:
            self._source = path.read_bytes()
            check_growth(self._source)
            self._tokenizer = _tokenizer(self._source)
            parts = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer, self._tokenizer.decoder
            self._normalizer, self._pieces, self._joined = map(part, parts)
        except (KeyboardInterrupt, MemoryError, BundleError):
            raise
        except BaseException:  # the library's own panics are no Exceptions
            raise BundleError(f"{path.name} is not a tokenizer this version can read") from None
        self._sizes = _Sizes(self._tokenizer)
        if (size := self._tokenizer.get_vocab_size()) > vocab:
            raise BundleError(f"{path.name} holds {size} tokens, the decoder {vocab}: they do not match")

    def decode(self, ids: Sequence[int]) -> str:
        """The cleaned text of `ids`, special tokens skipped; characters not yet complete end as U+FFFD.

        Raises
        ------
        BundleError
            The tokens are far too long for any text.
        """
        ids = list(ids)
        if longest(self._joined, sum(map(self._sizes.__getitem__, ids))) > MOST:
            raise BundleError(f"tokenizer.json: {len(ids)} of its tokens could be a text of more than {MOST} bytes")
        return clean(_quietly(lambda: self._tokenizer.decode(ids, skip_special_tokens=True)))

    def encode(self, text: str) -> list[int]:
        """Token ids of a forced text prefix, with no token added.

        Raises
        ------
        BundleError
            The tokenizer fails on it.
        UsageError
            It is too long for the tokenizer.
        """
        self._check_text(text, "prompt")
        return list(_quietly(lambda: self._tokenizer.encode(text, add_special_tokens=False).ids))

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a text from outside: what looks like a special token in it is spelt out; errors as of
        :meth:`encode`."""
        self._check_text(text, "context")
        return list(_quietly(lambda: self._plain.encode(text, add_special_tokens=False).ids)) if text else []

    def _check_text(self, text: object, what: str) -> None:
        """Refuse what no tokenizer takes (other types, and halves of characters: lone surrogates), and what this one
        could make too long."""
        if not isinstance(text, str):
            raise UsageError(f"{what} must be a text")
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise UsageError(f"{what} holds half a character") from None
        unknown = getattr(self._tokenizer.model, "unk_token", None) or ""  # one of them for each character, at most
        if longest(self._pieces, longest(self._normalizer, size)) * (1 + len(unknown) // 128) > MOST:
            raise UsageError(f"the {what} of {size} bytes is too long for this model's tokenizer: shorten it")

    @cached_property
    def _plain(self) -> Any:
        # Not of the other one's own text: the library names ids without a token on stdout when it makes that.
        plain = _tokenizer(self._source)
        plain.encode_special_tokens = True
        return plain

    def agreeing(self, begun: str) -> list[int]:
        """The tokens whose text begins with `begun`, or that `begun` begins with; in the order of their ids.

        Tokens without a text of their own (special ones, bytes within a character) are none of them.
        """
        ids, texts = self._sorted
        longer = range(bisect_left(texts, begun), bisect_right(texts, begun + "\U0010ffff"))
        found = [ids[at] for at in longer if texts[at].startswith(begun)]
        for size in range(1, len(begun)):
            at = bisect_left(texts, begun[:size])
            while at < len(texts) and texts[at] == begun[:size]:
                found.append(ids[at])
                at += 1
        return sorted(found)

    @cached_property
    def _sorted(self) -> tuple[list[int], list[str]]:
        """Ids and texts of the tokens that have one, by text."""
        count = self._tokenizer.get_vocab_size()
        texts = self._tokenizer.decode_batch([[token] for token in range(count)], skip_special_tokens=True)
        known = sorted((text, token) for token, text in enumerate(texts) if text and _REPLACEMENT not in text)
        return [token for _, token in known], [text for text, _ in known]

    def ends(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Decode step by step.

        Returns
        -------
        text : str
            The text of all `ids`.
        ends : list of int
            For each token how many characters of `text` are there once it is known. A token that only begins
            a character adds none.
        """
        text = self.decode(ids)
        ends = [len(self.decode(ids[: i + 1]).rstrip(_REPLACEMENT)) for i in range(len(ids))]
        if ends:
            ends[-1] = len(text)
        return text, ends


def _tokenizer(source: bytes) -> Any:
    """Of a ``tokenizer.json``, without the lengths of a training's batches and what is put around its texts: texts here
    are as they are."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(source)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.post_processor = None
    return tokenizer


class _Sizes(dict[int, int]):
    """Bytes of every token that was asked for, and one more."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> int:
        size = self[token] = 1 + len((self._tokenizer.id_to_token(token) or "").encode())
        return size


def _quietly(call: Callable[[], _Result]) -> _Result:
    """What the library gives; its panics, which are no Exceptions, and errors as one of ours."""
    try:
        return call()
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException:
        raise BundleError("tokenizer.json fails on this text: export the bundle again") from None


class TextStream:
    """Turns token ids into text pieces that, put together, are the final text.

    A piece never ends inside a character, and white space at either end of the text is held back. With
    `whole_sentences` a piece always ends with a sentence.
    """

    def __init__(self, decoder: TextDecoder, forced: Sequence[int] = (), *, whole_sentences: bool = False) -> None:
        self._decoder = decoder
        self._ids = list(forced)
        self._whole = whole_sentences
        self._sent = 0

    def push(self, token: int) -> str:
        """The text that became certain with `token`; often empty."""
        self._ids.append(token)
        text = self._decoder.decode(self._ids).rstrip(_REPLACEMENT).strip()
        if self._whole:
            spans = sentence_spans(text)
            text = text[: spans[-2][1]] if len(spans) > 1 else ""
        return self._advance(text)

    def finish(self, text: str) -> str:
        """The rest, given the final text."""
        return self._advance(text)

    def _advance(self, text: str) -> str:
        piece, self._sent = text[self._sent :], max(self._sent, len(text))
        return piece


_ABBREVIATIONS = frozenset(
    "dr mr mrs ms prof st vs e.g i.e cf approx ca resp incl dept fig figs ref min max avg est "  # noqa: SIM905
    "lat ant post sup inf int ext sec hrs ft lt rt".split()
)
_MAYBE = frozenset({"a.m", "p.m", "etc", "al", "jr", "sr", "no", "nos"})
"""Abbreviations that may also end a sentence; what follows decides."""
_STOP = re.compile(r"(?<![.!?])[.!?]+[\"')\]]*(?=\s|$)|\n[^\S\n]*\n")  # a row of stops is looked at once
_VISIBLE = re.compile(r"\S")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Split a report into sentences.

    A stop ends a sentence unless it belongs to an abbreviation (``Dr.``), an initial (``L. lung``), or a
    number that begins a line (``1. Lines``); decimals hold no stop followed by a space. A blank line always
    ends one. Takes time proportional to the length of the text, whatever stands in it.

    Returns
    -------
    list of (int, int)
        Begin and end of each sentence in `text`, white space outside.
    """
    spans: list[tuple[int, int]] = []
    begin = 0
    for stop in _STOP.finditer(text):
        if _ends_sentence(text, begin, stop):
            _add(spans, text, begin, stop.end())
            begin = stop.end()
    _add(spans, text, begin, len(text))
    return spans


def _add(spans: list[tuple[int, int]], text: str, begin: int, end: int) -> None:
    piece = text[begin:end]
    stripped = piece.strip()
    if not stripped:
        return
    begin += len(piece) - len(piece.lstrip())
    if spans and not any(c.isalnum() or c == "_" for c in stripped):
        spans[-1] = (spans[-1][0], begin + len(stripped))  # a lone ". ." belongs to what it follows
    else:
        spans.append((begin, begin + len(stripped)))


def _ends_sentence(text: str, begin: int, stop: re.Match[str]) -> bool:
    if stop.group()[0] != ".":
        return True
    at, word = _last_word(text, begin, stop.start())
    if not word:
        return True
    bare = word.lower()
    visible = _VISIBLE.search(text, stop.end())
    if visible is None:
        return True
    follows = visible.group()
    if bare in _MAYBE:
        return follows.isupper() if bare not in ("no", "nos") else not follows.isdigit()
    if bare in _ABBREVIATIONS:
        return False
    if len(bare) == 1 and bare.isalpha():
        return not word.isupper()
    if len(bare) <= 2 and bare.isdigit():  # "1. Heart": a number that begins a sentence or a line
        return not _begins_line(text, begin, at)
    return True


def _last_word(text: str, begin: int, end: int) -> tuple[int, str]:
    """Where the word begins that ends ``text[begin:end]``, and the word, without an opening bracket or quotation mark;
    a line break may stand behind it. No more of the text is looked at: it may be long, and is asked often."""
    if end > begin and text[end - 1] == "\n":
        end -= 1
    at = end
    while at > begin and not text[at - 1].isspace() and text[at - 1] not in "([\"'":
        at -= 1
    return at, text[at:end]


def _begins_line(text: str, begin: int, end: int) -> bool:
    """Whether only blanks stand between `end` and the line break before it, or only white space down to `begin`."""
    at = end
    while at > begin and text[at - 1] in " \t":
        at -= 1
    if at > begin and text[at - 1] == "\n":
        return True
    while at > begin and text[at - 1].isspace():
        at -= 1
    return at == begin


def cut_at_sentence(text: str) -> str:
    """`text` without its last sentence if that is not ended; unchanged if it is the only one."""
    spans = sentence_spans(text)
    if len(spans) > 1 and not re.search(r"[.!?][\"')\]]*$", text[: spans[-1][1]]):
        spans.pop()
    return text[: spans[-1][1]] if spans else text


_PRIOR = re.compile(
    r"\b(?:unchanged|compar(?:ed|ison)|interval(?:ly)?|again|stable|previous(?:ly)?|prior|redemonstrated|"
    r"re-demonstrated|new(?:ly)? since|since the|persist(?:s|ent|ing)|improv(?:ed|ing|ement)|"
    r"worsen(?:ed|ing)|resolv(?:ed|ing)|no longer)\b",
    re.IGNORECASE,
)


def text_warnings(text: str, *, prior: bool = False) -> list[str]:
    """Warnings about what the model wrote: removed names, and comparison with films it has not seen.

    With `prior` it has read an earlier report.
    """
    warnings = []
    if "___" in text:
        warnings.append("the text holds ___, where the training texts had a name or a date removed")
    words = sorted({match.group().lower() for match in _PRIOR.finditer(text)})
    if words:
        seen = "has seen none of them, only what was reported" if prior else "has seen only this one"
        warnings.append(f"the text compares with earlier films ({', '.join(words[:4])}), but the model {seen}")
    return warnings
