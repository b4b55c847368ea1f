# SPDX-License-Identifier: Apache-2.0
"""Which coded findings a text states as present, read with the table of its bundle.

A sentence is cut into words, the table's phrases are found in it, and the sides, places and sizes around each phrase
are paired with it. Careful rather than complete: what is denied or uncertain is no finding, and a phrase whose side,
place or size is not clear is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product

from edge.coding.table import GAP, MAX_GAP, CodingTable, Finding, Label, Phrase

_TOKEN = re.compile(r"[a-z0-9']+|[,;:]")
_SEPARATORS = frozenset({",", ";", ":", "and"})
_MAX_TOKENS = 1000

Item = tuple[str, tuple[str, ...]]
"""An attribute and the values that a word gives it."""


@dataclass(frozen=True)
class CodedFinding:
    """A finding that a text states as present.

    Attributes
    ----------
    label : Label
    sentence : int
        Index of the sentence that states it first.
    """

    label: Label
    sentence: int


@dataclass(frozen=True)
class Reading:
    """What was read in a text.

    Attributes
    ----------
    findings : tuple of CodedFinding
        Each label once, in the order of the text.
    left_out : int
        Phrases that state a finding whose attributes are not clear, or for whose attributes there is no label.
    """

    findings: tuple[CodedFinding, ...]
    left_out: int


@dataclass(frozen=True)
class _Match:
    start: int
    end: int
    finding: str | None


def read_sentences(sentences: Sequence[str], table: CodingTable) -> Reading:
    """The coded findings of a report's sentences."""
    found: dict[str, CodedFinding] = {}
    left_out = 0
    for index, sentence in enumerate(sentences):
        labels, unclear = read_sentence(sentence, table)
        left_out += unclear
        for label in labels:
            found.setdefault(label.name, CodedFinding(label, index))
    return Reading(tuple(found.values()), left_out)


def read_sentence(sentence: str, table: CodingTable) -> tuple[list[Label], int]:
    """Labels that a sentence states as present, and how many phrases of it were not clear."""
    tokens = _TOKEN.findall(re.sub(r"[\u2010-\u2015/-]", " ", sentence.lower()))[:_MAX_TOKENS]
    denied = set(_spans(tokens, table.negations))
    matches = list(_matches(tokens, table, {start for start, _ in denied}))
    ends = [start for start, _ in _spans(tokens, table.ends)]
    doubts = denied | set(_spans(tokens, table.hedges))
    after = set(_spans(tokens, table.negations_after)) | set(_spans(tokens, table.hedges))
    labels: list[Label] = []
    unclear: list[str] = []
    consumed = 0
    for index, match in enumerate(matches):
        stop = _stop(tokens, match, matches[index + 1] if index + 1 < len(matches) else None, ends, denied)
        begin, consumed = consumed, stop
        if match.finding is None or _is_denied(match, doubts, ends) or _is_denied_after(tokens, match, after, ends):
            continue
        finding = table.findings[match.finding]
        before = _items(tokens[_start(tokens, match, begin, table) : match.end], finding, table)
        behind = _items(tokens[match.end : stop], finding, table)
        found = [table.labels.get((match.finding, values)) for values in _values(before, behind, finding, table)]
        stated = [label for label in found if label is not None]
        if len(stated) < len(found) or not found:
            unclear.append(match.finding)
        labels += [label for label in stated if label not in labels]
    # "Blunting of the left costophrenic angle, suggesting an effusion" says the same twice, the second time less.
    said = {finding for (finding, _), label in table.labels.items() if label in labels}
    return labels, sum(name not in said for name in unclear)


def _spans(tokens: Sequence[str], phrases: Sequence[Phrase]) -> Iterator[tuple[int, int]]:
    """Where these phrases stand."""
    for phrase in phrases:
        for start in range(len(tokens) - len(phrase) + 1):
            if tuple(tokens[start : start + len(phrase)]) == phrase:
                yield start, start + len(phrase)


def _matches(tokens: Sequence[str], table: CodingTable, denied: set[int]) -> Iterator[_Match]:
    """The findings' phrases from left to right, the longest first, none over another."""
    at = 0
    while at < len(tokens):
        for phrase, finding in table.phrases.get(tokens[at], ()):
            end = _end(tokens, at, phrase, denied)
            if end is not None:
                yield _Match(at, end, finding)
                at = end - 1
                break
        at += 1


def _end(tokens: Sequence[str], at: int, phrase: Phrase, denied: set[int]) -> int | None:
    """Where a phrase that begins at `at` ends; ``None`` where it does not stand there."""
    for i, word in enumerate(phrase):
        if word == GAP:
            for skip in range(1, MAX_GAP + 1):
                if at + skip > len(tokens) or tokens[at + skip - 1] in (",", ";", ":") or at + skip - 1 in denied:
                    return None
                end = _end(tokens, at + skip, phrase[i + 1 :], denied)
                if end is not None:
                    return end
            return None
        if at >= len(tokens) or tokens[at] != word:
            return None
        at += 1
    return at


def _stop(
    tokens: Sequence[str], match: _Match, following: _Match | None, ends: list[int], denied: set[tuple[int, int]]
) -> int:
    """How far words behind a phrase may describe it."""
    stop = min([len(tokens), *(at for at in ends if at >= match.end), *(at for at, _ in denied if at >= match.end)])
    if following is not None and following.start < stop:
        # What follows the last separator belongs to the next phrase.
        between = range(following.start - 1, match.end - 1, -1)
        stop = next((at for at in between if tokens[at] in _SEPARATORS), following.start)
    return stop


def _start(tokens: Sequence[str], match: _Match, begin: int, table: CodingTable) -> int:
    """From where on words before a phrase may describe it."""
    for at in range(match.start - 1, begin - 1, -1):
        if tokens[at] in table.verbs or tokens[at] in (",", ";", ":"):
            return at + 1
    return begin


def _is_denied(match: _Match, doubts: set[tuple[int, int]], ends: list[int]) -> bool:
    return any(end <= match.start and not any(end <= at <= match.start for at in ends) for _, end in doubts)


def _is_denied_after(tokens: Sequence[str], match: _Match, after: set[tuple[int, int]], ends: list[int]) -> bool:
    return any(
        start >= match.end
        and not any(match.end <= at <= start for at in ends)
        and not any(token in (",", ";", ":") for token in tokens[match.end : start])
        for start, _ in after
    )


def _items(tokens: Sequence[str], finding: Finding, table: CodingTable) -> list[Item]:
    return [
        (name, table.attributes[name].words[token])
        for token in tokens
        for name in finding.attributes
        if token in table.attributes[name].words
    ]


def _values(
    before: list[Item], behind: list[Item], finding: Finding, table: CodingTable
) -> list[tuple[tuple[str, str], ...]]:
    """The combinations of values that are stated, each in the order of the attributes' names; none: not clear."""
    complete = {name for name, _ in before} == set(finding.attributes)
    items = before if complete else before + behind
    groups: list[tuple[str, list[str]]] = []
    for name, part in groupby(items, key=lambda item: item[0]):
        values = list(dict.fromkeys(value for _, some in part for value in some))
        if table.attributes[name].exclusive and len(values) > 1:
            return []
        groups.append((name, values))
    said = {name for name, _ in groups}
    fixed = {name: value for name, value in finding.default.items() if name not in said}
    if said | set(fixed) != set(finding.attributes):
        return []
    if len(said) < 2:
        whole: dict[str, list[str]] = {name: [value] for name, value in fixed.items()}
        for name, values in groups:
            whole.setdefault(name, []).extend(values)
        return _combined([whole])
    if len(groups) % 2:  # "small right, large" and the like
        return []
    pairs = zip(groups[::2], groups[1::2], strict=True)
    return _combined([{first[0]: first[1], second[0]: second[1]} for first, second in pairs])


def _combined(parts: Sequence[Mapping[str, Sequence[str]]]) -> list[tuple[tuple[str, str], ...]]:
    found: dict[tuple[tuple[str, str], ...], None] = {}
    for part in parts:
        names = sorted(part)
        for values in product(*(part[name] for name in names)):
            found[tuple(zip(names, values, strict=True))] = None
    return list(found)
