# SPDX-License-Identifier: Apache-2.0
"""What is plausible for a radiograph, and how much work an untrusted file may ask for."""

from __future__ import annotations

from edge.errors import UnsupportedPixels

MIN_SIDE = 64
MAX_SIDE = 12_000
MAX_PIXELS = 100_000_000
MIN_BITS = 6

MAX_HEADER_BYTES = 32 << 20
"""Bytes read while walking a DICOM header; values that are skipped do not count."""
MAX_HEADER_READS = 100_000
"""Read calls while walking a header: bounds time and memory for files made of countless tiny elements."""
MAX_VALUE_BYTES = 1 << 20
"""Longer values are skipped in the header; nothing this package looks at is as long."""
MAX_ENCODED_BYTES = 512 << 20
"""Longest compressed picture that is taken."""


def check_size(rows: int, columns: int) -> None:
    """Refuse a claimed size that no chest radiograph has.

    Raises
    ------
    UnsupportedPixels
        A side is under 64 or over 12000 pixels, or the area is over 100 megapixels.
    """
    if rows > MAX_SIDE or columns > MAX_SIDE or rows * columns > MAX_PIXELS:
        raise UnsupportedPixels(
            f"{columns}x{rows} pixels is implausibly large for a radiograph"
            f" (at most {MAX_SIDE} a side, {MAX_PIXELS // 1_000_000} megapixels)"
        )
    if rows < MIN_SIDE or columns < MIN_SIDE:
        raise UnsupportedPixels(f"{columns}x{rows} pixels is too small for a radiograph")


def check_depth(bits: int) -> None:
    """Refuse a depth that no radiograph has, in a file of any kind: a mask, a drawing, a page that was scanned.

    Raises
    ------
    UnsupportedPixels
        Under 6 bits.
    """
    if bits < MIN_BITS:
        raise UnsupportedPixels(f"{bits} bit{'s' * (bits != 1)} per pixel is too few for a radiograph")
