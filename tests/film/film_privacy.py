# SPDX-License-Identifier: Apache-2.0
"""What no error may hold."""

from __future__ import annotations


def check_private(error: BaseException) -> None:
    """No patient data in an error, its hint, or the errors behind it."""
    seen: BaseException | None = error
    while seen is not None:
        text = f"{seen} {seen!r} {seen.args} {vars(seen)}"
        assert "ZZSECRET" not in text
        seen = seen.__cause__ or seen.__context__
