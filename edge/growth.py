# SPDX-License-Identifier: Apache-2.0
"""How long a tokenizer can make a text: a bound from what its file says, before it is given one.

A normalizer that replaces one letter by two, twenty times over, makes a million letters of one. The library behind it
does not survive running out of memory, so no text is given to a tokenizer that could get there.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from edge.errors import BundleError

MOST = 4 << 20
"""Bytes of a text within the library, which takes about 160 bytes of memory for each."""
_LEAST = 1 << 10
"""Bytes of a text that every tokenizer must be able to take."""
_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_STEPS = ("normalizers", "pretokenizers", "decoders")
_FACTORS = {
    **dict.fromkeys(("Strip", "StripAccents", "Nmt", "Fuse", "ByteFallback"), 1),
    **dict.fromkeys(
        (
            *("BertPreTokenizer", "CharDelimiterSplit", "Digits", "FixedLength", "Punctuation", "Split"),
            *("UnicodeScripts", "Whitespace", "WhitespaceSplit"),
        ),
        1,
    ),
    **dict.fromkeys(("Lowercase", "WordPiece", "BPEDecoder", "CTC"), 2),
    **dict.fromkeys(("NFC", "NFD"), 3),
    **dict.fromkeys(("NFKC", "NFKD"), 11),
    "ByteLevel": 4,
    "BertNormalizer": 12,
}
"""Bytes that may become of one. Of the Unicode forms: Unicode's FAQ on normalization, for UTF-8."""
_OTHER = 12
_GROWS = re.compile(
    rb'"(?:pattern|prepend|precompiled_charsmap|replacement|suffix|word_delimiter_token|normalizers|pretokenizers|'
    rb'decoders)"\s*:\s*[^\s\d]'
)
"""What a part that lets a text grow much has in it, where a vocabulary has numbers."""


def check_growth(source: bytes) -> None:
    """Refuse a ``tokenizer.json`` that could make a short text too long, before the library reads it: that normalizes
    added tokens at once.

    Raises
    ------
    BundleError
    ValueError, RecursionError
        It is no JSON, or has a key twice, of which the library would take either.
    """
    if _GROWS.search(source) is None and b"\\u00" not in source:
        return  # no part is made of several or says what it writes: the vocabulary need not be read twice
    whole = json.loads(source, object_pairs_hook=_once)
    for name in _PARTS if isinstance(whole, dict) else ():
        if longest(whole.get(name), _LEAST) > MOST:
            raise BundleError(f"tokenizer.json: its {name} could make more than {MOST} bytes of a text of {_LEAST}")


def part(of_library: Any) -> Any:
    """A normalizer, a pre-tokenizer or a decoder as the library has read it; None where there is none."""
    return None if of_library is None else json.loads(of_library.__getstate__())


def longest(part: Any, size: int) -> int:
    """Bytes that a part of a tokenizer may make of `size` bytes, with one more for every piece; at most a few more than
    needed to know that they are too many.

    Parameters
    ----------
    part
        As in the file. The library takes it without its ``type``, too: its fields then say what it is.
    """
    if not isinstance(part, dict) or not size:
        return size
    for inner in next((part[key] for key in _STEPS if isinstance(part.get(key), list)), ()):
        if size > MOST:
            break
        size = longest(inner, size)
    if any(key in part for key in _STEPS):
        return size
    if "pattern" in part and "content" in part:
        pattern, written = part["pattern"], _bytes(part["content"])
        text = _bytes(pattern.get("String")) if isinstance(pattern, dict) else 0
        # Behind a pattern that fits nothing at all, something is written between any two characters.
        return max(size, -(-size * written // text)) if text else size + (size + 1) * written
    if "prepend" in part:
        return size + _bytes(part["prepend"])
    if "precompiled_charsmap" in part:
        return size * _longest_written(part["precompiled_charsmap"])
    if "replacement" in part:
        return size * (1 + _bytes(part["replacement"]))
    return size * _FACTORS.get(str(part.get("type")), _OTHER)


def _bytes(text: Any) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0


def _longest_written(charsmap: Any) -> int:
    """Of what a SentencePiece normalizer writes for a character: behind the length of a table and the table itself lie
    texts with a zero behind each."""
    data = base64.b64decode(charsmap) if isinstance(charsmap, str) else b""
    begin = 4 + int.from_bytes(data[:4], "little")
    return max(1, *map(len, data[begin:].split(b"\0")))


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("a key is there twice")
    return result
