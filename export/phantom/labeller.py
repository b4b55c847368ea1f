# SPDX-License-Identifier: Apache-2.0
"""Rule-based labeller of findings text: terms, negation scopes, and the sides, sizes and zones around them.

It knows nothing of the phantoms' grammar: sentences are cut into clauses and negation segments, finding terms
are looked up in word lists, and the modifiers before and after each term are paired with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from . import labeller_terms as terms
from .labels import LABELS

_TOKEN = re.compile(r"[a-z0-9']+|,")
_SENTENCE = re.compile(r"[.!?;](?=\s|$)|\n+")
_SIDED = {"pneumothorax": "pneumothorax_{}", "hemidiaphragm": "elevated_hemidiaphragm_{}"}

Sides = tuple[str, ...]
Item = tuple[str, str | Sides]


@dataclass
class _Term:
    name: str
    start: int
    end: int
    negated: bool = False


@dataclass
class _Clause:
    """One clause: tokens, the negation segment of each token, and the terms found in it."""

    tokens: list[str]
    segments: list[int] = field(default_factory=list)
    found: list[_Term] = field(default_factory=list)
    cues: list[int] = field(default_factory=list)


def _normalise(text: str) -> str:
    text = text.lower()
    for pattern, replacement in terms.REWRITES:
        text = pattern.sub(replacement, text)
    return text.replace(":", " is ").replace("(", ", ").replace(")", " , ")


def _matches(pattern: re.Pattern[str], tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Token spans at which ``pattern`` matches the joined tokens."""
    text = " ".join(tokens)
    for match in pattern.finditer(text):
        first = text.count(" ", 0, match.start())
        yield first, first + match.group().strip().count(" ") + 1


def _find_terms(tokens: Sequence[str]) -> list[_Term]:
    taken = [False] * len(tokens)
    found: list[_Term] = []
    for name, pattern in terms.TERMS:
        for start, end in _matches(pattern, tokens):
            if not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                found.append(_Term(name, start, end))
    return sorted((t for t in found if t.name != "none"), key=lambda t: t.start)


def _starts_segment(tokens: Sequence[str], i: int, begin: int, cues: Sequence[int]) -> bool:
    """Whether token ``i`` opens a new negation segment; ``begin`` is where the current one began."""
    token = tokens[i]
    before = tokens[i - 1]
    if token == "there":
        return True
    if token == "with":
        return before not in terms.WITH_KEPT
    if token not in (",", "and") or before == ",":
        return False
    rest = list(tokens[i + 1 :])
    if rest[:1] == ["and"]:
        rest = rest[1:]
    if not rest:
        return False
    if before in terms.VERBS or rest[0] in ("there", "the", "both", "this", "it"):
        return True
    head = rest[: next((k for k, word in enumerate(rest) if word == "with" or word in terms.FINITE), len(rest))]
    listed = any(word in ("or", "nor") for word in head) and any(begin <= cue < i for cue in cues)
    if listed:
        return False
    if rest[0] in terms.DETERMINERS or rest[0] in terms.SIZES or rest[0] in terms.SUBJECTS:
        return True
    return rest[0] in terms.SIDES and any(word in terms.FINITE for word in rest)


def _parse(tokens: list[str]) -> _Clause:
    clause = _Clause(tokens)
    clause.cues = [start for start, _ in _matches(terms.NEGATION, tokens)]
    segment = begin = 0
    for i in range(len(tokens)):
        if i and _starts_segment(tokens, i, begin, clause.cues):
            segment, begin = segment + 1, i
        clause.segments.append(segment)
    clause.found = _find_terms(tokens)
    after = [(start, clause.segments[start]) for start, _ in _matches(terms.NEGATION_AFTER, tokens)]
    for term in clause.found:
        here = clause.segments[term.start]
        term.negated = any(
            term.start <= cue < term.end or (cue < term.start and clause.segments[cue] == here) for cue in clause.cues
        ) or any(start >= term.end and where == here for start, where in after)
    return clause


def _items(tokens: Sequence[str], attributes: dict[str, str], skip: Sequence[range] = ()) -> list[Item]:
    """Sides and attribute words of ``tokens`` in order."""
    out: list[Item] = []
    for i, token in enumerate(tokens):
        if any(i in span for span in skip):
            continue
        if token in terms.SIDES:
            out.append(("side", terms.SIDES[token]))
        elif token in attributes:
            following = tokens[i + 1] if i + 1 < len(tokens) else ""
            if attributes is terms.ZONES and following in terms.ZONE_DECOYS:
                continue
            out.append(("attribute", attributes[token]))
    return out


def _pieces(tokens: Sequence[str]) -> list[list[str]]:
    out: list[list[str]] = [[]]
    for token in tokens:
        if token in (",", "and", "with"):
            out.append([])
        out[-1].append(token)
    return out


def _window_before(clause: _Clause, index: int, consumed: int) -> list[str]:
    """Tokens before a term, and its own, that may modify it."""
    term = clause.found[index]
    low = max(consumed, clause.found[index - 1].end if index else 0)
    segment = clause.segments[term.start]
    start = term.start
    while start > low and clause.segments[start - 1] == segment:
        start -= 1
    if start > low:
        earlier = clause.tokens[low:start]
        if "there" in earlier:
            earlier = earlier[earlier.index("there") + 2 :]
        plain = not any(t in terms.FINITE or t in terms.NORMAL or t == "there" for t in earlier)
        if plain and not any(low <= cue < start for cue in clause.cues):
            start = low
    pieces = _pieces(clause.tokens[start : term.start])
    for i in range(len(pieces) - 1, -1, -1):
        if any(t in terms.NORMAL for t in pieces[i]):
            pieces = pieces[i + 1 :]
            break
    return [t for piece in pieces for t in piece] + clause.tokens[term.start : term.end]


def _window_after(clause: _Clause, index: int, stop: int | None = None) -> int:
    """End (token index) of what may modify a term from behind."""
    term = clause.found[index]
    following = clause.found[index + 1].start if index + 1 < len(clause.found) else None
    if stop is None:
        stop = len(clause.tokens) if following is None else following
    stop = min([stop, *(cue for cue in clause.cues if cue >= term.end)])
    for i in range(term.end, stop):
        if clause.tokens[i] == "there":
            stop = i
            break
    if stop == following:
        for i in range(stop - 1, term.end - 1, -1):
            if clause.tokens[i] in (",", "and"):
                if not any(t in terms.PREPOSITIONS for t in clause.tokens[i:stop]):
                    stop = i
                break
    position = term.end
    for piece in _pieces(clause.tokens[term.end : stop]):
        if any(t in terms.NORMAL for t in piece):
            return position
        position += len(piece)
    return stop


def _pair(items: Sequence[Item], sides: Sides, default: str | None) -> set[tuple[str, str]]:
    """Pair sides with attributes in reading order.

    ``sides`` and ``default`` stand in where no side or no attribute is among ``items``.
    """
    groups: list[tuple[str, list[str]]] = []
    for kind, value in items:
        if not groups or groups[-1][0] != kind:
            groups.append((kind, []))
        groups[-1][1].extend([value] if isinstance(value, str) else value)
    if not any(kind == "side" for kind, _ in groups):
        groups.insert(0, ("side", list(sides)))
    if not any(kind == "attribute" for kind, _ in groups):
        if default is None:
            return set()
        groups.append(("attribute", [default]))
    if groups[0][0] == "attribute" and len(groups) % 2 == 1:
        # Attribute, sides, attribute: the side between two attributes serves the last one too.
        groups.append(groups[-2])
    if groups[0][0] == "side" and len(groups) % 2 == 1:
        if default is None:
            groups.pop()
        else:
            groups.append(groups[-2])
    out: set[tuple[str, str]] = set()
    for first, second in zip(groups[::2], groups[1::2], strict=True):
        side_group, attribute_group = (first, second) if first[0] == "side" else (second, first)
        out.update((s, a) for s in side_group[1] for a in attribute_group[1])
    return out


class _Reader:
    """Walks the clauses of one sentence and collects labels."""

    def __init__(self) -> None:
        self.sides: Sides = ()
        self.pending: list[str] = []
        self.labels: set[str] = set()

    def clause(self, clause: _Clause) -> None:
        if not clause.found:
            self._note_sides(clause.tokens)
            short = len(clause.tokens) <= 4 and not any(t in terms.PREPOSITIONS for t in clause.tokens)
            ends_on_side = clause.tokens[-1] in terms.SIDES
            self.pending = clause.tokens if short and ends_on_side and not clause.cues else []
            return
        if self.pending:
            self._lend(clause.found[0].name)
        consumed = 0
        for index, term in enumerate(clause.found):
            before = _window_before(clause, index, consumed)
            after = _window_after(clause, index)
            consumed = after
            self._note_sides(before)
            if not term.negated:
                self._emit(clause, index, before, clause.tokens[term.end : after])
            self._note_sides(clause.tokens[term.end : after])

    def _lend(self, name: str) -> None:
        """Give the next noun to a side left alone before "but": "a right but not a left effusion"."""
        side = terms.SIDES[self.pending[-1]][0]
        if name in _SIDED:
            self.labels.add(_SIDED[name].format(side))
        elif name == "effusion":
            size = next((terms.SIZES[t] for t in self.pending if t in terms.SIZES), "small")
            self.labels.add(f"effusion_{side}_{size}")
        self.pending = []

    def _note_sides(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            if token in terms.SIDES:
                self.sides = terms.SIDES[token]

    def _emit(self, clause: _Clause, index: int, before: list[str], after: list[str]) -> None:
        term = clause.found[index]
        name = term.name
        if name in ("opacity", "nodule"):
            attributes, default = terms.ZONES, None
        elif name == "effusion":
            attributes, default = terms.SIZES, "small"
        elif name in _SIDED:
            attributes, default = {}, "any"
        else:
            self.labels.add(name)
            return
        items = _items(before, attributes)
        complete = any(k == "side" for k, _ in items) and (not attributes or any(k == "attribute" for k, _ in items))
        late = _items(after, attributes)
        if not complete:
            items = items + late
        if name == "effusion" and {k for k, _ in late} == {"side", "attribute"}:
            # "bilateral effusions, small on the right and large on the left"
            items = late
        window = before + after
        if not items or (name in ("opacity", "nodule") and not any(k == "attribute" for k, _ in items)):
            rest = clause.tokens[term.end : _window_after(clause, index, len(clause.tokens))]
            if name in ("opacity", "nodule") or not self.sides:
                late = _items(rest, attributes if name in ("opacity", "nodule") else {})
                items, window = items + late, window + rest
        sides = self.sides
        if not sides and terms.PLURAL_PLACE.search(" ".join(window)):
            sides = ("right", "left")
        pairs = _pair(items, sides, default)
        if name == "effusion":
            large = {side for side, size in pairs if size == "large"}
            pairs = {(side, "large" if side in large else "small") for side, _ in pairs}
            self.labels.update(f"effusion_{side}_{size}" for side, size in pairs)
        elif name in _SIDED:
            self.labels.update(_SIDED[name].format(side) for side, _ in pairs)
        else:
            self.labels.update(f"{name}_{side}_{zone}" for side, zone in pairs)
        if pairs:
            self.sides = tuple(s for s in ("right", "left") if any(side == s for side, _ in pairs))
        if name == "effusion" and "hydropneumothorax" in clause.tokens[term.start : term.end]:
            self.labels.update(f"pneumothorax_{side}" for side, _ in pairs)


@lru_cache(maxsize=4096)
def _sentence_labels(sentence: str) -> frozenset[str]:
    reader = _Reader()
    for part in terms.CONTRAST.sub("|", sentence).split("|"):
        tokens = _TOKEN.findall(part)
        while tokens and tokens[-1] == ",":
            tokens.pop()
        while tokens and tokens[0] == ",":
            tokens.pop(0)
        if tokens:
            reader.clause(_parse(tokens))
    return frozenset(reader.labels)


def label(text: str) -> frozenset[str]:
    """Read the labels that a findings text states as present.

    Negated and unmentioned findings are not in the result; hedged ones ("possible") are.
    An effusion without a size word is small; sided findings without a side are left out.

    Parameters
    ----------
    text : str
        Findings in English; any case; the last sentence may be cut short.

    Returns
    -------
    frozenset of str
        Names from `LABELS`, with at most one effusion size for each side (the larger).
    """
    out: set[str] = set()
    for sentence in _SENTENCE.split(_normalise(text)):
        out |= _sentence_labels(sentence)
    for side in ("left", "right"):
        if f"effusion_{side}_large" in out:
            out.discard(f"effusion_{side}_small")
    return frozenset(name for name in LABELS if name in out)
