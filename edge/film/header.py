# SPDX-License-Identifier: Apache-2.0
"""The few header values this package needs, from raw DICOM elements.

Values are converted here and not by pydicom: its conversions warn and log with the offending value in the
text, which may be a patient's. Only the tags of :data:`TAGS` are ever kept.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence as Seq
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from edge.errors import CorruptInput
from edge.film.charset import decode
from edge.film.elements import Elements, Irregular, read_items
from edge.film.quiet import quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TAGS: dict[str, int] = {
    "SpecificCharacterSet": 0x00080005,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "PresentationIntentType": 0x00080068,
    "StudyDescription": 0x00081030,
    "SeriesDescription": 0x0008103E,
    "AnatomicRegionSequence": 0x00082218,
    "BodyPartExamined": 0x00180015,
    "ProtocolName": 0x00181030,
    "AcquisitionDeviceProcessingDescription": 0x00181400,
    "ViewPosition": 0x00185101,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "PatientOrientation": 0x00200020,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "PlanarConfiguration": 0x00280006,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "VOILUTFunction": 0x00281056,
    "PaletteDescriptor": 0x00281101,
    "ModalityLUTSequence": 0x00283000,
    "VOILUTSequence": 0x00283010,
    "PixelDataProviderURL": 0x00287FE0,
    "RequestedProcedureDescription": 0x00321060,
    "PerformedProcedureStepDescription": 0x00400254,
    "DirectoryRecordSequence": 0x00041220,
    "EncapsulatedDocument": 0x00420011,
    "ViewCodeSequence": 0x00540220,
    "PresentationLUTShape": 0x20500020,
}

ITEM_TAGS: dict[str, int] = {
    "SpecificCharacterSet": 0x00080005,
    "CodeValue": 0x00080100,
    "CodeMeaning": 0x00080104,
    "LongCodeValue": 0x00080119,
    "LUTDescriptor": 0x00283002,
    "LUTData": 0x00283006,
}

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TERM = re.compile(r"[^A-Z0-9 _.\-]")


def valid_uid(text: str) -> bool:
    """True for a well-formed UID: digits and dots, at most 64 characters (PS3.5 section 9)."""
    return 0 < len(text) <= 64 and _UID.fullmatch(text) is not None


class Values:
    """Reads values by keyword from one dataset (a header or a sequence item).

    Parameters
    ----------
    dataset : pydicom.Dataset or Elements
        Elements may be raw (from a file) or converted (from a caller).
    little_endian, implicit : bool
        Encoding of raw elements.
    tags : dict
        Keyword to tag.
    charset : sequence of str
        Specific Character Set of what holds this, for items that name none.
    """

    def __init__(
        self,
        dataset: Dataset | Elements,
        *,
        little_endian: bool,
        implicit: bool,
        tags: dict[str, int] | None = None,
        charset: Seq[str] = (),
    ) -> None:
        # The raw elements: reading through the dataset would convert them, with pydicom's warnings.
        self._elements: dict[int, Any] = dataset._dict  # type: ignore[assignment]
        self._little = little_endian
        self._implicit = implicit
        self._tags = TAGS if tags is None else tags
        self._charset = self._own_charset() or charset

    def _get(self, keyword: str) -> Any:
        """The element's value (bytes where it is raw), or None."""
        element = self._elements.get(self._tags[keyword])
        return None if element is None else element.value

    @property
    def order(self) -> str:
        """Byte order of raw values, as NumPy and struct write it."""
        return "<" if self._little else ">"

    def __contains__(self, keyword: str) -> bool:
        return self._tags[keyword] in self._elements

    def vr(self, keyword: str) -> str:
        """Value representation as encoded, or an empty string."""
        element = self._elements.get(self._tags[keyword])
        return str(getattr(element, "VR", None) or "")

    def texts(self, keyword: str) -> list[str]:
        """All values of a text element, stripped (:mod:`edge.film.charset`)."""
        value = self._get(keyword)
        if value is None:
            return []
        if isinstance(value, (bytes, bytearray)):
            parts = decode(bytes(value[:4096]), self._charset).split("\\")
        else:
            one = isinstance(value, str) or not isinstance(value, Seq)
            parts = str(value).split("\\") if one else [str(part) for part in value]
            if self.vr(keyword) == "CS":
                parts = [self._again(part) for part in parts]
        return [part.strip(" \0\t\r\n") for part in parts]

    def _again(self, part: str) -> str:
        """A code string as it is meant: pydicom takes its bytes for Latin-1, whatever the character set."""
        if part.isascii() and "\x1b" not in part:
            return part
        try:
            return decode(part.encode("latin-1"), self._charset)
        except UnicodeEncodeError:
            return part

    def _own_charset(self) -> Seq[str]:
        element = self._elements.get(0x00080005)
        value = None if element is None else element.value
        if isinstance(value, (bytes, bytearray)):
            value = bytes(value[:256]).decode("ascii", "replace")
        if isinstance(value, str):
            return value.strip(" \0").split("\\")
        return [str(part) for part in value] if isinstance(value, Seq) else ()

    def text(self, keyword: str) -> str:
        """The whole text as one string."""
        return "\\".join(self.texts(keyword)).strip("\\")

    def term(self, keyword: str) -> str:
        """The first value of a code string, upper case, only A-Z 0-9 space ``_ . -``."""
        values = self.texts(keyword)
        return _TERM.sub(" ", values[0].upper()).strip() if values else ""

    def uid(self, keyword: str) -> str:
        """A well-formed UID, or an empty string."""
        value = self.text(keyword)
        return value if valid_uid(value) else ""

    def numbers(self, keyword: str) -> list[float]:
        """All values of a decimal or integer string.

        Raises
        ------
        CorruptInput
            Where a value is not a finite number.
        """
        out: list[float] = []
        for part in self.texts(keyword):
            if not part:
                continue
            number = _number(part)
            if number is None or not math.isfinite(number):
                raise CorruptInput(f"{keyword} in the header is not a number")
            out.append(number)
        return out

    def number(self, keyword: str) -> float | None:
        """The first number, or None."""
        values = self.numbers(keyword)
        return values[0] if values else None

    def words(self, keyword: str, *, signed: bool = False) -> list[int]:
        """All values of a 16-bit binary element (US, SS or OW)."""
        value = self._get(keyword)
        if value is None:
            return []
        if isinstance(value, (bytes, bytearray)):
            count = len(value) // 2
            return list(struct.unpack(f"{self.order}{count}{'h' if signed else 'H'}", value[: 2 * count]))
        items = value if isinstance(value, Seq) and not isinstance(value, str) else [value]
        try:
            out = [int(v) for v in items]
        except (TypeError, ValueError):
            out = []
        if not out and len(items):
            raise CorruptInput(f"{keyword} in the header is not a number")
        if signed:
            return [v - 0x10000 if v > 0x7FFF else v for v in out]
        return [v & 0xFFFF for v in out]

    def word(self, keyword: str, *, signed: bool = False) -> int | None:
        """The first 16-bit value, or None."""
        values = self.words(keyword, signed=signed)
        return values[0] if values else None

    def data(self, keyword: str) -> bytes | list[int] | None:
        """Bytes of an OW/OB/US element as stored, or the integers a converted element holds."""
        value = self._get(keyword)
        if value is None or isinstance(value, (bytes, bytearray)):
            return None if value is None else bytes(value)
        return self.words(keyword)

    def items(self, keyword: str) -> list[Values]:
        """The items of a sequence.

        Raises
        ------
        CorruptInput
            Where the sequence cannot be walked.
        """
        value = self._get(keyword)
        if value is None:
            return []
        if isinstance(value, (bytes, bytearray)):
            value = self._walk(keyword, bytes(value))
        if not isinstance(value, Seq) or isinstance(value, str):
            raise CorruptInput(f"{keyword} in the header is not a sequence")
        out = []
        for item in value:
            implicit = item.original_encoding[0]
            little = item.original_encoding[1]
            out.append(
                Values(
                    item,
                    little_endian=self._little if little is None else little,
                    implicit=self._implicit if implicit is None else implicit,
                    tags=ITEM_TAGS,
                    charset=self._charset,
                )
            )
        return out

    def _walk(self, keyword: str, value: bytes) -> Any:
        with suppress(Irregular):
            return read_items(value, self._implicit, self._little, frozenset(ITEM_TAGS.values()))
        from pydicom.filereader import read_sequence

        try:
            with quiet():
                return read_sequence(BytesIO(value), self._implicit, self._little, len(value), "iso8859")
        except (Exception, RecursionError):
            pass
        raise CorruptInput(f"{keyword} in the header cannot be read")


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
