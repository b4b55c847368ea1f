# SPDX-License-Identifier: Apache-2.0
"""Numbers that callers hand in, as Python's own: NumPy's scalars are numbers, too, and truth values are none."""

from __future__ import annotations

import numbers


def as_whole(value: object) -> int | None:
    """`value` as an int; ``None`` where it is no whole number by its type (2.0 is not, ``True`` is not)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value)


def as_real(value: object) -> float | None:
    """`value` as a float; ``None`` where it is no real number by its type, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
