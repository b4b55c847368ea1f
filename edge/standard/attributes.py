# SPDX-License-Identifier: Apache-2.0
"""Header values of a film as they may stand in another object: decoded to Unicode, and valid for their VR.

Values are decoded here and not by pydicom, for two reasons: its warnings quote them, and it cuts a person name at
every byte ``3D`` (``=``), also at one inside a two-byte character (JIS X 0208 has thousands of those).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge.film.header import valid_uid
from edge.film.quiet import quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ZONE = re.compile(r"[+-](?:(?:0\d|1[0-3])[0-5]\d|1400)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_ITEMS = 64
_LONG_STRING = 64
"""Characters of a Long String (LO, PS3.5 section 6.2), however many bytes they are."""


class Attributes:
    """Values of one dataset or sequence item, by keyword; what is missing or not usable is an empty string.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Raw elements, as read from a file, or converted ones.
    encodings : sequence of str or None
        Python codecs of the raw texts; ``None``: as the dataset says.
    """

    def __init__(self, dataset: Dataset, encodings: Sequence[str] | None = None) -> None:
        self._dataset = dataset
        self._elements: dict[int, Any] = dataset._dict  # type: ignore[assignment]
        self.damaged = False
        """Whether a text was not in the character set that the film names."""
        own = self._codecs()
        self._encodings = own or list(encodings or []) or self._guess()

    def text(self, keyword: str) -> str:
        """A text value (LO, SH, PN, LT, ST): its characters, without control characters."""
        whole = _CONTROL.sub(" ", self._whole(keyword)).strip()
        return whole.replace("\\", " ") if keyword != "PatientName" else whole.split("\\")[0]

    def description(self, keyword: str) -> str:
        """A text value that describes for a reader and by which nothing is matched (LO): as much of it as its VR
        allows. A dataset with a longer one is refused as a whole by readers that check lengths."""
        return self.text(keyword)[:_LONG_STRING].rstrip()

    def date(self, keyword: str) -> str:
        """A date as YYYYMMDD (PS3.5 section 6.2, and the dotted form of old files)."""
        match = _DATE.fullmatch(self._first(keyword))
        if match is None:
            return ""
        try:
            datetime.date(*map(int, match.groups()))
        except ValueError:
            return ""
        return "".join(match.groups())

    def time(self, keyword: str) -> str:
        """A time as HHMMSS.FFFFFF or a beginning of it."""
        match = _TIME.fullmatch(self._first(keyword))
        return "".join(part or "" for part in match.groups()) if match else ""

    def age(self, keyword: str) -> str:
        match = _AGE.fullmatch(self._first(keyword).upper())
        return f"{int(match[1]):03d}{match[2]}" if match else ""

    def code(self, keyword: str, allowed: Sequence[str] = ()) -> str:
        """A code string; with `allowed`, one of these."""
        value = self._first(keyword).upper()
        return value if _CODE.fullmatch(value) and (not allowed or value in allowed) else ""

    def uid(self, keyword: str) -> str:
        value = self._first(keyword)
        return value if valid_uid(value) else ""

    def decimal(self, keyword: str) -> str:
        value = self._first(keyword)
        return value if len(value) <= 16 and _DECIMAL.fullmatch(value) else ""

    def integer(self, keyword: str) -> int | None:
        value = self._first(keyword)
        return int(value) if re.fullmatch(r"[+-]?\d{1,9}", value) else None

    def zone(self, keyword: str = "TimezoneOffsetFromUTC") -> str:
        value = self._first(keyword)
        return value if _ZONE.fullmatch(value) else ""

    def items(self, keyword: str) -> list[Attributes]:
        """The items of a sequence; none where it cannot be walked."""
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        if tag is None or tag not in self._elements:
            return []
        try:
            with quiet():
                value = self._dataset[tag].value
                return [Attributes(item, self._encodings) for item in list(value)[:_MAX_ITEMS]]
        except (Exception, RecursionError):  # a damaged sequence; it is not worth a refusal
            return []

    def _first(self, keyword: str) -> str:
        return self._whole(keyword).split("\\")[0].strip(" \0\t\r\n")

    def _whole(self, keyword: str) -> str:
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        element = self._elements.get(tag) if tag is not None else None
        value = None if element is None else element.value
        if value is None:
            return ""
        if isinstance(value, (bytes, bytearray)):
            return self._decode(bytes(value[:10240]), keyword)
        if isinstance(value, str) or not isinstance(value, Sequence):
            return str(value)  # a person name decodes itself
        return "\\".join(str(part) for part in value)

    def _codecs(self) -> list[str]:
        """Python codecs of the Specific Character Set (PS3.3 section C.12.1.1.2); none where it is missing."""
        element = self._elements.get(0x00080005)
        value = None if element is None else element.value
        if isinstance(value, (bytes, bytearray)):
            terms = bytes(value).decode("ascii", "replace").split("\\")
        else:
            terms = [value] if isinstance(value, str) else [str(part) for part in value or []]
        terms = [term.strip(" \0") for term in terms]
        if not any(terms):
            return []
        from pydicom.charset import convert_encodings

        try:
            with quiet():
                return list(convert_encodings(terms))
        except (LookupError, ValueError):
            return []

    def _guess(self) -> list[str]:
        """Codec of texts whose set is not named: UTF-8 where all are UTF-8, else Latin-1."""
        for element in self._elements.values():
            if getattr(element, "VR", "") in ("OB", "OW", "SQ", "UN"):
                continue
            value = element.value
            if isinstance(value, (bytes, bytearray)) and not value.isascii():
                try:
                    bytes(value).decode("utf-8")
                except UnicodeDecodeError:
                    return ["iso8859"]
        return ["utf-8"]

    def _decode(self, value: bytes, keyword: str) -> str:
        if value.isascii() and b"\x1b" not in value and "shift_jis" not in self._encodings[0]:
            return value.decode("ascii")
        from pydicom.charset import decode_bytes
        from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

        delimiters = PN_DELIMS if keyword.endswith(("Name", "Names")) else TEXT_VR_DELIMS
        try:
            with quiet():
                text: str = decode_bytes(value, self._encodings, delimiters)
        except (LookupError, ValueError):
            text = value.decode("ascii", "replace")
        if "�" in text:
            self.damaged = True
        return text
