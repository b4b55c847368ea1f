# SPDX-License-Identifier: Apache-2.0
"""``coding.json`` of a bundle: phrases, attributes and codes of the findings that a model writes about.

Data only, and from anywhere: every value is checked, phrases are plain words (no patterns that could take for ever),
and what is not known is refused. See docs/coding.md for what the parts mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.errors import BundleError
from edge.strict import Section, load_json, short

CODING_VERSION = 1
GAP = ".."
"""In a phrase, once: 1 to `MAX_GAP` words, none of them a comma or a negation."""
MAX_GAP = 6
_MAX_PHRASES = 4096
_MAX_ATTRIBUTES = 2

_WORD = re.compile(r"[a-z0-9']{1,32}|[,;:]")
_SCHEMES = re.compile(r"[A-Za-z0-9_]{1,16}")

Phrase = tuple[str, ...]
Values = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 section 8.8): value, scheme (``SCT``, ``DCM``, ``RADLEX``, ...) and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Site:
    """Where a finding is: a place, and perhaps a side of it."""

    place: Code
    laterality: Code | None


@dataclass(frozen=True)
class Attribute:
    """Something that a finding has a value of, such as a side.

    Attributes
    ----------
    words : mapping of str to tuple of str
        What a word says: a value, or several of them ("both").
    exclusive : bool
        A finding has one value of it at a time: two of them together are not understood.
    """

    words: Mapping[str, tuple[str, ...]]
    exclusive: bool


@dataclass(frozen=True)
class Finding:
    """A kind of finding: the attributes that its labels need, and values for those that a text may leave out."""

    attributes: tuple[str, ...]
    default: Mapping[str, str]


@dataclass(frozen=True)
class Label:
    """A coded finding: its name in the manifest's ``labels``, and its codes."""

    name: str
    code: Code
    sites: tuple[Site, ...]
    evaluations: tuple[tuple[Code, Code], ...]
    """Further properties: what, and which value."""


@dataclass(frozen=True)
class CodingTable:
    """A validated table.

    Attributes
    ----------
    phrases : mapping of str to tuple of (phrase, finding)
        By their first word, the longest first; the finding is ``None`` for what must not be taken for one.
    findings, attributes : mapping
        By name.
    labels : mapping of (str, values) to Label
        By finding and the values of its attributes, in the order of their names.
    negations, negations_after, hedges, ends : tuple of phrase
        What denies a finding that follows, or one that came before; what makes it uncertain; where both end.
    verbs : frozenset of str
        Words before which nothing describes the finding that follows.
    """

    phrases: Mapping[str, tuple[tuple[Phrase, str | None], ...]]
    findings: Mapping[str, Finding]
    attributes: Mapping[str, Attribute]
    labels: Mapping[tuple[str, Values], Label]
    negations: tuple[Phrase, ...]
    negations_after: tuple[Phrase, ...]
    hedges: tuple[Phrase, ...]
    ends: tuple[Phrase, ...]
    verbs: frozenset[str]


def parse_coding(data: bytes, labels: Iterable[str]) -> CodingTable:
    """Parse and validate the bytes of a table.

    Parameters
    ----------
    data
    labels
        The manifest's: the table's must be among them.

    Raises
    ------
    BundleError
        Naming the first value that is missing, unknown, of a wrong type or out of range.
    """
    top = Section(load_json(data, "coding.json"), "coding")
    version = top.integer("coding_version", 0, 1 << 31)
    if version != CODING_VERSION:
        raise BundleError(f"coding.json has version {version}, this edge-report reads {CODING_VERSION}")
    top.choice("language", ("en",))
    negation = top.section("negation")
    attributes = _attributes(top.section("attributes"))
    phrases: dict[str, list[tuple[Phrase, str | None]]] = {}
    findings: dict[str, Finding] = {}
    section = top.section("findings")
    for name in _names(section, 256):
        one = section.section(name)
        findings[name] = _finding(one, attributes)
        _add(phrases, _phrases(one, "phrases", gaps=True), name)
        one.done()
    _add(phrases, _phrases(top, "ignored", gaps=True), None)
    table = CodingTable(
        phrases={first: tuple(sorted(rest, key=lambda p: -len(p[0]))) for first, rest in phrases.items()},
        findings=findings,
        attributes=attributes,
        labels=_labels(top.section("labels"), findings, attributes, set(labels)),
        negations=_phrases(negation, "before"),
        negations_after=_phrases(negation, "after"),
        hedges=_phrases(top, "hedges"),
        ends=_phrases(negation, "ends"),
        verbs=frozenset(word for phrase in _phrases(top, "verbs") for word in phrase),
    )
    negation.done()
    section.done()
    top.done()
    return table


def _names(section: Section, most: int) -> list[str]:
    names = list(section.value)
    if not 1 <= len(names) <= most:
        raise BundleError(f"{section.where} must hold 1 to {most} entries")
    for name in names:
        if not name.isprintable() or not 1 <= len(name) <= 64:
            raise BundleError(f"{section.where}: {short(name)} is not a plain name")
    return names


def _phrases(section: Section, key: str, *, gaps: bool = False) -> tuple[Phrase, ...]:
    found = []
    for text in section.strings(key, _MAX_PHRASES, 200):
        words = tuple(text.split())
        plain = all(_WORD.fullmatch(word) or (gaps and word == GAP) for word in words)
        if not 1 <= len(words) <= 12 or not plain or GAP in (words[0], words[-1]) or words.count(GAP) > 1:
            section.fail(key, "phrases of 1 to 12 plain words in small letters")
        found.append(words)
    return tuple(found)


def _add(phrases: dict[str, list[tuple[Phrase, str | None]]], more: tuple[Phrase, ...], finding: str | None) -> None:
    for phrase in more:
        phrases.setdefault(phrase[0], []).append((phrase, finding))
    if sum(map(len, phrases.values())) > _MAX_PHRASES:
        raise BundleError(f"coding: more than {_MAX_PHRASES} phrases")


def _attributes(section: Section) -> dict[str, Attribute]:
    found = {}
    for name in _names(section, 16):
        one = section.section(name)
        words: dict[str, tuple[str, ...]] = {}
        values = one.section("words")
        for word in _names(values, 256):
            if not _WORD.fullmatch(word):
                raise BundleError(f"{values.where}: {short(word)} is not a plain word in small letters")
            words[word] = values.strings(word, 16, 64)
            if not words[word]:
                values.fail(word, "a list of values")
        values.done()
        found[name] = Attribute(words, one.boolean("exclusive"))
        one.done()
    section.done()
    return found


def _finding(section: Section, attributes: Mapping[str, Attribute]) -> Finding:
    names = section.strings("attributes", _MAX_ATTRIBUTES, 64)
    if not set(names) <= set(attributes) or len(set(names)) != len(names):
        section.fail("attributes", "a list of names of attributes")
    default = section.section("default")
    values = {key: default.text(key, 64, empty=False) for key in list(default.value)}
    default.done()
    if not set(values) <= set(names):
        section.fail("default", "values of its attributes")
    return Finding(names, values)


def _labels(
    section: Section, findings: Mapping[str, Finding], attributes: Mapping[str, Attribute], known: set[str]
) -> dict[tuple[str, Values], Label]:
    found: dict[tuple[str, Values], Label] = {}
    for name in _names(section, 4096):
        if name not in known:
            raise BundleError(f"coding.labels: {short(name)} is not one of the manifest's labels")
        one = section.section(name)
        finding = one.text("finding", 64, empty=False)
        if finding not in findings:
            one.fail("finding", "the name of a finding")
        values = one.section("values")
        chosen = {key: values.text(key, 64, empty=False) for key in list(values.value)}
        values.done()
        sayable = {key: {v for said in attribute.words.values() for v in said} for key, attribute in attributes.items()}
        if set(chosen) != set(findings[finding].attributes) or any(v not in sayable[k] for k, v in chosen.items()):
            one.fail("values", "a value for each attribute of its finding")
        key = finding, tuple(sorted(chosen.items()))
        if key in found:
            raise BundleError(f"coding.labels: {short(name)} and {short(found[key].name)} are the same finding")
        found[key] = Label(
            name,
            _code(one, one.take("code", "a code")),
            tuple(_site(one, item) for item in one.array("sites", 8)),
            tuple(_evaluation(one, item) for item in one.array("evaluations", 8)),
        )
        one.done()
    section.done()
    return found


def _code(section: Section, value: Any) -> Code:
    """``[value, scheme, meaning]``, within what DICOM allows (SH, SH and LO)."""
    fine = isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value)
    if fine:
        code, scheme, meaning = (part.strip() for part in value)
        fine = (
            1 <= len(code) <= 16
            and 1 <= len(meaning) <= 64
            and (code + meaning).isprintable()
            and "\\" not in code + meaning
            and bool(_SCHEMES.fullmatch(scheme))
        )
    if not fine:
        raise BundleError(f"{section.where}: {short(value)} is no code, which is [value, scheme, meaning]")
    return Code(code, scheme, meaning)


def _site(section: Section, value: Any) -> Site:
    one = Section(value, f"{section.where}.sites")
    laterality = one.take("laterality", "a code or null")
    site = Site(_code(one, one.take("place", "a code")), None if laterality is None else _code(one, laterality))
    one.done()
    return site


def _evaluation(section: Section, value: Any) -> tuple[Code, Code]:
    one = Section(value, f"{section.where}.evaluations")
    pair = _code(one, one.take("name", "a code")), _code(one, one.take("value", "a code"))
    one.done()
    return pair
