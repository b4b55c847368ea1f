# SPDX-License-Identifier: Apache-2.0
"""Reading JSON that may be hostile: strict parsing, and objects whose every value is checked when it is taken."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from edge.errors import BundleError

MAX_BYTES = 1 << 20


def load_json(data: bytes, name: str = "manifest.json") -> Any:
    """Parse the bytes of a file of a bundle.

    Raises
    ------
    BundleError
        Too large, not UTF-8 or JSON, nested too deeply, a key twice in one object, or a number that is not finite
        or has more digits than any value of ours.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"{name} is larger than {MAX_BYTES} bytes: this is not a bundle")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {short(twice)} appears twice")
        return result

    def whole(text: str) -> int:
        if len(text) > 19:
            raise ValueError("a number has too many digits")
        return int(text)

    def real(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("a number is out of range")
        return value

    def constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not a JSON number")

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=whole,
            parse_float=real,
            parse_constant=constant,
        )
    except json.JSONDecodeError as error:
        raise BundleError(f"{name} is not JSON ({error.msg}, line {error.lineno})") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else plain(str(error))
        raise BundleError(f"{name} cannot be read: {reason}") from None


class Section:
    """One JSON object of the manifest; `done` refuses what was not asked for."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(f"{where} must be an object, not {short(value)}")
        self.value: dict[str, Any] = value
        self.where = where
        self.left = set(value)

    def fail(self, key: str, expected: str) -> NoReturn:
        got = short(self.value[key]) if key in self.value else "nothing"
        raise BundleError(f"{self.where}: {short(key)} must be {expected}, not {got}")

    def take(self, key: str, expected: str) -> Any:
        if key not in self.value:
            self.fail(key, expected)
        self.left.discard(key)
        return self.value[key]

    def section(self, key: str) -> Section:
        where = f"{self.where}.{key}" if self.where != "manifest" else key
        return Section(self.take(key, "an object"), where)

    def integer(self, key: str, low: int, high: int) -> int:
        expected = f"a whole number from {low} to {high}"
        value = self.take(key, expected)
        if type(value) is not int or not low <= value <= high:
            self.fail(key, expected)
        return value

    def number(self, key: str, low: float, high: float) -> float:
        expected = f"a number from {low:g} to {high:g}"
        value = self.take(key, expected)
        if type(value) not in (int, float) or not low <= value <= high:
            self.fail(key, expected)
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.take(key, "true or false")
        if type(value) is not bool:
            self.fail(key, "true or false")
        return value

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        expected = "one of " + ", ".join(options)
        value = self.take(key, expected)
        if not isinstance(value, str) or value not in options:
            self.fail(key, expected)
        return value

    def text(self, key: str, limit: int, *, empty: bool = True) -> str:
        expected = f"one line of printable text of at most {limit} characters"
        value = self.take(key, expected)
        if not isinstance(value, str) or len(value) > limit or not value.isprintable():
            self.fail(key, expected)
        if not value and not empty:
            self.fail(key, "not empty")
        return value

    def optional_text(self, key: str, limit: int) -> str | None:
        return None if self.take(key, "a text or null") is None else self.text(key, limit)

    def array(self, key: str, limit: int, exactly: int | None = None) -> list[Any]:
        expected = f"a list of {exactly}" if exactly is not None else f"a list of at most {limit}"
        value = self.take(key, expected)
        if not isinstance(value, list) or len(value) > limit or exactly not in (None, len(value)):
            self.fail(key, expected)
        return value

    def integers(self, key: str, limit: int, low: int, high: int, exactly: int | None = None) -> tuple[int, ...]:
        values = self.array(key, limit, exactly)
        if not all(type(v) is int and low <= v <= high for v in values):
            self.fail(key, f"a list of whole numbers from {low} to {high}")
        return tuple(values)

    def numbers(self, key: str, exactly: int, low: float, high: float) -> list[float]:
        values = self.array(key, exactly, exactly)
        if not all(type(v) in (int, float) and low <= v <= high for v in values):
            self.fail(key, f"{exactly} numbers from {low:g} to {high:g}")
        return [float(v) for v in values]

    def strings(self, key: str, limit: int, each: int) -> tuple[str, ...]:
        values = self.array(key, limit)
        if not all(isinstance(v, str) and len(v) <= each and v.isprintable() for v in values):
            self.fail(key, f"a list of printable texts of at most {each} characters")
        return tuple(values)

    def done(self) -> None:
        if self.left:
            names = ", ".join(short(key) for key in sorted(self.left)[:8])
            raise BundleError(
                f"{self.where} holds unknown keys ({names}): the bundle was made for another edge-report; "
                "update edge-report or export again"
            )


def plain(text: str) -> str:
    """`text` without anything a terminal could act on."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short(value: Any) -> str:
    text = plain(repr(value) if not isinstance(value, (dict, list)) else type(value).__name__)
    text = {"dict": "an object", "list": "such a list"}.get(text, text)
    return text if len(text) <= 60 else text[:57] + "..."
