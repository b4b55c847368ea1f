# SPDX-License-Identifier: Apache-2.0
"""The report: findings, sentence by sentence, with confidence, evidence, provenance and timings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edge.errors import NotCoded, UsageError
from edge.text import clean, sentence_spans

if TYPE_CHECKING:
    from datetime import datetime
    from os import PathLike
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from edge.coding import CodingTable, Reading
    from edge.film import Film
    from edge.prompt import FindingState
    from edge.standard.filmheader import FilmHeader

    FilmSource: TypeAlias = str | PathLike[str] | Dataset | FilmHeader | Sequence[Any]

BOX_MASS = 0.6
"""Share of a sentence's attention that its box holds."""


@dataclass(frozen=True)
class Evidence:
    """Where on the image the model looked while it wrote a sentence.

    Attributes
    ----------
    grid : (int, int)
        Rows and columns of patches.
    heat : tuple of tuple of float
        Attention over the patches, row by row; the sum is 1.
    peak : (int, int)
        Row and column of the largest value.
    box : (float, float, float, float)
        Smallest rectangle that holds 60 % of it: left, top, right, bottom as shares of the picture.
    film : int
        Which film of a study it is on, from 1: the one looked at most. 0 where there is one film.
    """

    grid: tuple[int, int]
    heat: tuple[tuple[float, ...], ...]
    peak: tuple[int, int]
    box: tuple[float, float, float, float]
    film: int = 0

    @classmethod
    def from_mass(cls, mass: NDArray[np.floating[Any]], grid: tuple[int, int]) -> Evidence | None:
        """Evidence from attention per patch [films * grid_h * grid_w]; ``None`` where there is none."""
        import numpy as np

        films = np.maximum(np.nan_to_num(np.asarray(mass, np.float64)), 0.0).reshape(-1, *grid)
        film = int(films.sum((1, 2)).argmax())
        heat = films[film]
        total = float(heat.sum())
        if not total > 0.0:
            return None
        heat = heat / total
        row, column = divmod(int(heat.argmax()), grid[1])
        return cls(
            grid=grid,
            heat=tuple(tuple(round(float(v), 6) for v in line) for line in heat),
            peak=(row, column),
            box=_smallest_box(heat, BOX_MASS),
            film=film + 1 if len(films) > 1 else 0,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists, as in the JSON; ``film`` only of a study."""
        values = {
            "grid": list(self.grid),
            "heat": [list(line) for line in self.heat],
            "peak": list(self.peak),
            "box": list(self.box),
        }
        return values | ({"film": self.film} if self.film else {})


def _smallest_box(heat: NDArray[np.float64], share: float) -> tuple[float, float, float, float]:
    """The rectangle of fewest patches that holds `share` of the heat, as shares of the picture."""
    import numpy as np

    rows, columns = heat.shape
    sums = np.zeros((rows + 1, columns + 1))
    sums[1:, 1:] = heat.cumsum(0).cumsum(1)
    width = np.arange(columns + 1)[None, :] - np.arange(columns + 1)[:, None]  # [left, right]
    best, area = (0, 0, columns, rows), rows * columns
    for top in range(rows):
        strips = sums[top + 1 :] - sums[top]  # [bottom, column]
        mass = strips[:, None, :] - strips[:, :, None]  # [bottom, left, right]
        size = np.arange(1, rows - top + 1)[:, None, None] * np.maximum(width, 0)
        size = np.where((mass >= share - 1e-9) & (width > 0), size, rows * columns + 1)
        at = int(size.argmin())
        if size.flat[at] < area:
            area = int(size.flat[at])
            bottom, left, right = (int(i) for i in np.unravel_index(at, size.shape))
            best = (left, top, right, top + 1 + bottom)
    left, top, right, bottom = best
    return round(left / columns, 4), round(top / rows, 4), round(right / columns, 4), round(bottom / rows, 4)


@dataclass(frozen=True)
class Sentence:
    """One sentence of the findings.

    Attributes
    ----------
    text : str
    confidence : float or None
        exp of the mean log-probability of its tokens, 0 to 1; ``None`` where all of it was given as a prompt.
        It says how sure the model was of its words, not how likely the finding is.
    evidence : Evidence or None
        ``None`` where the bundle names no layers to read it from.
    section : str
        Of the report, where the model writes any ("findings", "impression"); else empty.
    """

    text: str
    confidence: float | None
    evidence: Evidence | None
    section: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as in the JSON; ``section`` only where there is one."""
        values = {
            "text": self.text,
            "confidence": self.confidence,
            "evidence": self.evidence.to_dict() if self.evidence else None,
        }
        return values | ({"section": self.section} if self.section else {})


@dataclass(frozen=True)
class Report:
    """The draft of one film's findings.

    Attributes
    ----------
    findings : str
        The text. Where the model runs to its token cap it breaks off in mid-sentence and a warning says so.
    sentences : tuple of Sentence
    token_ids : tuple of int
        What the model generated, without a forced prefix and without the stop token.
    logprobs : tuple of float
        Natural log-probability of each generated token, before penalties and temperature.
    stop_reason : str
        ``stop`` or ``length``.
    warnings : tuple of str
        What a reader must know: no anatomy found, comparison with films the model has not seen, ...
    model, input, software : dict
        Provenance; see :meth:`to_dict`. `input` holds no patient data beyond UIDs.
    timings_ms : dict of str to float
        Milliseconds of the stages in order: dicom, preprocess, vision (and prefill, a part of it), first_token, decode;
        and total.
    tokens_per_s : float
        Generated tokens after the first, over the decode stage.
    context : tuple of str
        Names of the texts that the model read before it wrote (indication, prior_findings, ...), not the texts.
    states : tuple of FindingState
        What the model's classifier says about each of its findings, for models that have one.
    edited : str
        What a person changed (:meth:`with_text`), one line; empty: the text is the model's.
    decoding : dict
        How the text was written: ``passes`` over the decoder, ``tokens_per_pass`` (a stop token counts), how many
        tokens were ``drafted`` and how many of those the model ``accepted``; ``sketch_passes`` over an 8-bit copy of a
        float32 decoder, where that has drafted.
    cache : dict
        ``image_keys`` of all layers, how many of them were ``image_keys_kept`` (a strict mask hides some, which need
        not be read), and the ``bytes_per_token`` of weights and cache that a further pass would read.
    coding : CodingTable or None
        How findings are coded, where the bundle says so; not part of the JSON.
    mask : ndarray uint8 [mask_h, mask_w] of 0 and 1, or None
        Lungs and heart as the segmenters see them.
    film : ndarray uint8 [rows, columns]
        The film as the model's intensity pipeline shows it, for pictures; not part of the JSON.
    """

    findings: str
    sentences: tuple[Sentence, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str
    warnings: tuple[str, ...]
    model: dict[str, Any]
    input: dict[str, Any]
    timings_ms: dict[str, float]
    tokens_per_s: float
    software: dict[str, Any]
    intended_use: str
    notice: str | None
    prompt: str = ""
    context: tuple[str, ...] = ()
    states: tuple[FindingState, ...] = ()
    edited: str = ""
    decoding: dict[str, Any] = field(default_factory=dict)
    cache: dict[str, int] = field(default_factory=dict)
    coding: CodingTable | None = field(default=None, repr=False, compare=False)
    mask: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    film: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def sections(self) -> list[tuple[str, list[str]]]:
        """Sections of the report with their sentences, where the model writes any; a sentence that a person added
        belongs to the section before it."""
        found: list[tuple[str, list[str]]] = []
        for sentence in self.sentences if any(s.section for s in self.sentences) else ():
            if not found or (sentence.section and sentence.section != found[-1][0]):
                found.append((sentence.section, []))
            found[-1][1].append(sentence.text)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists, dictionaries, texts and finite numbers: the JSON contract; ``sections``,
        ``context`` and ``states`` are there only where the model has any."""
        more = {
            "sections": [{"name": name, "text": " ".join(texts)} for name, texts in self.sections],
            "context": list(self.context),
            "states": [state.to_dict() for state in self.states],
        }
        return {
            "findings": self.findings,
            "sentences": [sentence.to_dict() for sentence in self.sentences],
            "token_ids": list(self.token_ids),
            "logprobs": [round(value, 6) for value in self.logprobs],
            "stop_reason": self.stop_reason,
            "prompt": self.prompt,
            "edited": self.edited,
            "warnings": list(self.warnings),
            "model": dict(self.model),
            "input": dict(self.input),
            "timings_ms": dict(self.timings_ms),
            "tokens_per_s": self.tokens_per_s,
            "decoding": dict(self.decoding),
            "cache": dict(self.cache),
            "software": dict(self.software),
            "intended_use": self.intended_use,
            "notice": self.notice,
        } | {name: values for name, values in more.items() if values}

    def to_json(self, *, indent: int | None = None, position: int | None = None) -> str:
        """The report as ASCII-only JSON: one line, or indented; `position`: which one it is of several films."""
        separators = (",", ":") if indent is None else None
        values = self.to_dict() | ({} if position is None else {"position": position})
        text = json.dumps(values, indent=indent, separators=separators, allow_nan=False)
        return _join_numbers(text) if indent is not None else text

    def with_text(self, sentences: Sequence[str]) -> Report:
        """The report as a person has edited it; it stays a draft that nobody has verified.

        Sentences that are still the model's keep confidence and evidence; the others have none. Token ids and
        log-probabilities are those of the model's text, so an edited report has none. `edited` says what was changed,
        and every standard object says so, too.

        Parameters
        ----------
        sentences
            All sentences in order; those without a letter or digit are left out.

        Raises
        ------
        UsageError
            They are no list of texts.
        """
        given = None if isinstance(sentences, str) or not isinstance(sentences, Iterable) else list(sentences)
        if given is None or not all(isinstance(sentence, str) for sentence in given):
            raise UsageError("the sentences of an edited report are a list of texts")
        texts = [text for text in (" ".join(clean(sentence).split()) for sentence in given) if _has_words(text)]
        own = [sentence.text for sentence in self.sentences]
        if texts == own:
            return self
        left = list(self.sentences)
        kept: list[Sentence] = []
        changed: list[int] = []
        for number, text in enumerate(texts, 1):
            match = next((s for s in left if s.text == text), None)
            if match is None:
                changed.append(number)
            else:
                left.remove(match)
            kept.append(match or Sentence(text, None, None))
        return replace(
            self,
            findings=" ".join(texts),
            sentences=tuple(kept),
            token_ids=(),
            logprobs=(),
            edited=_edited(changed, len(texts), len(left)),
        )

    def coded(self) -> Reading:
        """The coded findings that the sentences state, also those that a person wrote; see :mod:`edge.coding.read`.

        Raises
        ------
        NotCoded
            The bundle does not say how findings are coded.
        """
        if self.coding is None:
            raise NotCoded
        from edge.coding.read import read_sentences

        return read_sentences([sentence.text for sentence in self.sentences], self.coding)

    def to_sr(self, film: FilmSource, *, when: datetime | None = None) -> Dataset:
        """The report as DICOM Basic Text SR; see :func:`edge.standard.sr.structured_report`.

        `film` is the DICOM film (path or dataset) that was reported, of a study a list of all;
        ``report.to_sr(film).save_as("report.dcm")``.
        """
        from edge.standard.sr import structured_report

        return structured_report(self, film, when=when)

    def to_coded_sr(self, film: FilmSource, *, when: datetime | None = None) -> Dataset:
        """The coded findings as DICOM SR, TID 1500; see :func:`edge.standard.measurements.measurement_report`."""
        from edge.standard.measurements import measurement_report

        return measurement_report(self, film, when=when)

    def to_fhir(self, film: FilmSource | None = None, *, when: datetime | None = None) -> dict[str, Any]:
        """The report as a FHIR R4 DiagnosticReport; see :func:`edge.standard.fhir.diagnostic_report`."""
        from edge.standard.fhir import diagnostic_report

        return diagnostic_report(self, film, when=when)

    def to_secondary_capture(self, film: FilmSource, *, when: datetime | None = None) -> Dataset:
        """The overlay as DICOM Secondary Capture; see :func:`edge.standard.capture.secondary_capture`."""
        from edge.standard.capture import secondary_capture

        return secondary_capture(self, film, when=when)

    def to_segmentation(self, film: FilmSource, *, when: datetime | None = None) -> Dataset:
        """The anatomy mask as DICOM SEG; see :func:`edge.standard.segmentation.segmentation`."""
        from edge.standard.segmentation import segmentation

        return segmentation(self, film, when=when)


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _edited(changed: list[int], count: int, gone: int) -> str:
    """What a person changed, in words."""
    parts = []
    if changed:
        which = ", ".join(map(str, changed))
        parts.append(f"sentence{'s' * (len(changed) > 1)} {which} of {count} not as the model wrote")
    if gone:
        parts.append(f"{gone} of the model's sentences changed or left out")
    return f"Edited by hand: {'; '.join(parts) or 'the sentences are in another order'}. Not verified"


def _join_numbers(text: str) -> str:
    """Put lists of bare numbers of an indented JSON text on one line: heat maps are long."""
    import re

    return re.sub(
        r"\[\n\s+([-\d.eE+]+(?:,\n\s+[-\d.eE+]+)*)\n\s+\]",  # a line break is never inside a JSON string
        lambda match: "[" + re.sub(r",\s+", ", ", match.group(1)) + "]",
        text,
    )


def make_sentences(
    text: str,
    ends: Sequence[int],
    *,
    dropped: int,
    forced: int,
    logprobs: Sequence[float],
    evidence: NDArray[np.floating[Any]] | None,
    grid: tuple[int, int],
    sections: Sequence[tuple[int, str]] = (),
) -> tuple[Sentence, ...]:
    """Split `text` and give each sentence the tokens that wrote it.

    Parameters
    ----------
    text
        The findings.
    ends
        For each token the number of characters known once it is there (:meth:`edge.text.TextDecoder.ends`).
    dropped
        Characters of white space before `text` that `ends` still counts.
    forced
        How many of the tokens were given as a prompt, at the beginning.
    logprobs
        Log-probability per generated token.
    evidence : ndarray [generated tokens, films * grid_h * grid_w] or None
        Attention over the patches per generated token.
    sections
        Characters of `text` at which sections begin, and their names; a sentence ends where one begins.
    """
    spans = _split(text, sentence_spans(text), [at for at, _ in sections])
    owned: list[list[int]] = [[] for _ in spans]
    for token in range(forced, len(ends)):
        begin = max((ends[token - 1] if token else 0) - dropped, 0)
        end = max(ends[token] - dropped, 0)
        piece = text[begin:end]
        at = begin + len(piece) - len(piece.lstrip()) if piece.strip() else end - 1
        for tokens, (left, right) in zip(owned, spans, strict=True):
            if left <= at < right:
                tokens.append(token - forced)
    return tuple(
        Sentence(
            text[left:right],
            _confidence([logprobs[i] for i in tokens]),
            _evidence(evidence, tokens, grid),
            next((name for at, name in reversed(sections) if at <= left), ""),
        )
        for (left, right), tokens in zip(spans, owned, strict=True)
    )


def _split(text: str, spans: list[tuple[int, int]], at: Sequence[int]) -> list[tuple[int, int]]:
    """The spans cut in two wherever one of these characters lies inside."""
    parts = []
    for left, right in spans:
        for begin, end in pairwise([left, *(a for a in at if left < a < right), right]):
            piece = text[begin:end]
            if piece.strip():
                inner = begin + len(piece) - len(piece.lstrip())
                parts.append((inner, inner + len(piece.strip())))
    return parts


def _confidence(logprobs: Sequence[float]) -> float | None:
    if not logprobs:
        return None
    mean = math.fsum(logprobs) / len(logprobs)
    return round(min(1.0, math.exp(mean)), 6) if not math.isnan(mean) else 0.0


def _evidence(mass: NDArray[np.floating[Any]] | None, tokens: Sequence[int], grid: tuple[int, int]) -> Evidence | None:
    if mass is None or not tokens:
        return None
    return Evidence.from_mass(mass[list(tokens)].sum(0), grid)


def provenance(films: Sequence[Film]) -> dict[str, Any]:
    """What the JSON says about the film: UIDs and geometry, no patient data. Of a study: the first film's, and
    ``films`` with those of all."""
    first, *others = (_of_film(film) for film in films)
    return first | ({"films": [first, *others]} if others else {})


def _of_film(film: Film) -> dict[str, Any]:
    meta = film.meta
    return {
        "sop_instance_uid": meta.sop_instance_uid,
        "study_instance_uid": meta.study_instance_uid,
        "series_instance_uid": meta.series_instance_uid,
        "modality": meta.modality,
        "view_position": meta.view_position,
        "rows": meta.rows,
        "columns": meta.columns,
        "source": meta.source,
    }
