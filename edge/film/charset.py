# SPDX-License-Identifier: Apache-2.0
"""Bytes of a header's texts to characters: Specific Character Set, PS3.3 section C.12.1.1.2 and PS3.5 section 6.1.

Not pydicom's: that takes long to import, warns with the text in the warning, and reads code strings as Latin-1, though
modalities write their language into them. Many files hold another encoding than they name, or name none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ESCAPE = 0x1B
_CODECS = {
    "100": "latin-1", "101": "iso8859-2", "109": "iso8859-3", "110": "iso8859-4", "144": "iso8859-5",
    "127": "iso8859-6", "126": "iso8859-7", "138": "iso8859-8", "148": "iso8859-9", "203": "iso8859-15",
    "166": "tis-620", "13": "cp932", "87": "euc-jp", "159": "euc-jp", "149": "euc-kr", "58": "gb2312",
    "18030": "gb18030", "GBK": "gbk",
}  # fmt: skip
"""By what a defined term ends in. Under ISO_IR 13, which is half-width katakana, many write the whole of Shift JIS."""
_TERM = re.compile(r"GBK|\d+$")
_UPPER_HALF = {
    b"-A": "100", b"-B": "101", b"-C": "109", b"-D": "110", b"-L": "144", b"-G": "127", b"-F": "126", b"-H": "138",
    b"-M": "148", b"-b": "203", b"-T": "166", b")I": "13", b"$)C": "149", b"$)A": "58",
}  # fmt: skip
"""Escape sequences that say what bytes from 0x80 on mean (PS3.3 tables C.12-3 and C.12-4)."""
_LOWER_HALF = {b"(B": b"", b"(J": b"", b"$B": b"\xff", b"$@": b"\xff", b"$(D": b"\x8f"}
"""What bytes below 0x80 mean: letters, or pairs of JIS X 0208 and 0212; for these what EUC-JP has before a pair."""
_FRAGMENT = re.compile(rb"\x1b([\x20-\x2f]+[\x30-\x7e])([^\x1b]*)")


def decode(raw: bytes, terms: Sequence[str]) -> str:
    """The characters of a text, never an error.

    In ISO 2022 where there are escape sequences, whatever the file names, and U+FFFD from the first on where that
    fails; else in UTF-8 if it is that (other text hardly ever is by chance); else in the first of the named sets in
    which it is text; else Latin-1, which has a letter for all.

    Parameters
    ----------
    raw : bytes
    terms : sequence of str
        The values of Specific Character Set (0008,0005).
    """
    if _ESCAPE in raw:
        text = _by_escapes(raw, _codec(terms[0]) if terms else "")
        # Its bytes look like letters: "front" in Japanese holds LL, a lateral view.
        return raw[: raw.index(_ESCAPE)].decode("ascii", "replace") + "\ufffd" if text is None else text
    if raw.isascii():
        return raw.decode("ascii")
    for codec in ("utf-8", *(_codec(term) for term in terms)):
        text = _strictly(raw, codec)
        if text is not None:
            return text
    return raw.decode("latin-1")


def _codec(term: str) -> str:
    found = _TERM.search(term.strip())
    return _CODECS.get(found.group(), "") if found else ""


def _strictly(raw: bytes, codec: str) -> str | None:
    try:
        return raw.decode(codec or "ascii")
    except UnicodeDecodeError:
        return None


def _by_escapes(raw: bytes, upper: str) -> str | None:
    """Text with code extensions; None where one is not known, or what stands behind it is not in its set."""
    before = raw[: raw.index(_ESCAPE)]
    parts: list[str | None] = [_strictly(before, upper)]
    end, pair = len(before), b""
    for found in _FRAGMENT.finditer(raw):
        escape, body = found.groups()
        if found.start() != end or (escape not in _UPPER_HALF and escape not in _LOWER_HALF):
            return None
        end, pair = found.end(), _LOWER_HALF.get(escape, b"")  # pairs end at any escape, as writers have it
        upper = _CODECS[_UPPER_HALF[escape]] if escape in _UPPER_HALF else upper
        parts.append(_pairs(body, pair) if pair else _strictly(body, upper))
    whole = [part for part in parts if part is not None]
    return "".join(whole) if end == len(raw) and len(whole) == len(parts) else None


def _pairs(body: bytes, before: bytes) -> str | None:
    if not body.isascii() or len(body) % 2:
        return None
    shifted = bytes(byte | 0x80 for byte in body)
    if before == b"\x8f":
        shifted = b"".join(before + shifted[at : at + 2] for at in range(0, len(shifted), 2))
    return _strictly(shifted, "euc-jp")
