# SPDX-License-Identifier: Apache-2.0
"""Evidence, confidence, the JSON of a report, the overlay, threads."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from handmade import chest_picture
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UsageError
from edge.manifest import BiasSpec
from edge.mask import gives_no_guidance, hides_everything, mask_warnings
from edge.render.overlay import COLOURS, overlay_image, wrap
from edge.report import Evidence, Report, Sentence, make_sentences
from edge.threads import _quota, check_threads, default_threads


def report(**changes: object) -> Report:
    values: dict[str, object] = {
        "findings": "The heart is normal. [ 1, 2 ]",
        "sentences": (Sentence("The heart is normal.", 0.9, None),),
        "token_ids": (1, 2),
        "logprobs": (-0.1, -0.123456789),
        "stop_reason": "stop",
        "warnings": (),
        "model": {"name": "m"},
        "input": {},
        "timings_ms": {},
        "tokens_per_s": 1.0,
        "software": {},
        "intended_use": "tests",
        "notice": None,
    }
    return Report(**(values | changes))  # type: ignore[arg-type]


# ---- evidence


def test_evidence() -> None:
    mass = np.zeros((4, 6))
    mass[1, 2], mass[1, 3], mass[3, 5] = 0.8, 0.4, 0.6
    evidence = Evidence.from_mass(mass.ravel(), (4, 6))
    assert evidence is not None
    assert evidence.peak == (1, 2)
    assert math.isclose(sum(map(sum, evidence.heat)), 1.0, abs_tol=1e-4)
    assert evidence.box == (round(2 / 6, 4), 0.25, round(4 / 6, 4), 0.5)  # 1.2 of 1.8 in two patches


def test_no_evidence() -> None:
    assert Evidence.from_mass(np.zeros(4), (2, 2)) is None
    assert Evidence.from_mass(np.full(4, np.nan), (2, 2)) is None


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_box_is_the_smallest(rows: int, columns: int, seed: int) -> None:
    heat = np.random.default_rng(seed).random((rows, columns)) ** 4 + 1e-9
    evidence = Evidence.from_mass(heat.ravel(), (rows, columns))
    assert evidence is not None
    heat /= heat.sum()
    areas = [
        (b - t) * (r - left)
        for t in range(rows)
        for b in range(t + 1, rows + 1)
        for left in range(columns)
        for r in range(left + 1, columns + 1)
        if heat[t:b, left:r].sum() >= 0.6
    ]
    x0, y0, x1, y1 = (round(v * s) for v, s in zip(evidence.box, (columns, rows, columns, rows), strict=True))
    assert heat[y0:y1, x0:x1].sum() >= 0.6 - 1e-6
    assert (y1 - y0) * (x1 - x0) == min(areas)


# ---- sentences from tokens


def test_tokens_belong_to_sentences() -> None:
    text = "Ab cd. Ef gh."
    pieces = ["Ab", " cd", ".", " Ef", " gh", "."]
    ends = [sum(map(len, pieces[: i + 1])) for i in range(6)]
    mass = np.eye(6)[:, :4]
    first, second = make_sentences(
        text, ends, dropped=0, forced=0, logprobs=[-1, -2, -3, -4, -5, -6], evidence=mass, grid=(2, 2)
    )
    assert (first.text, second.text) == ("Ab cd.", "Ef gh.")
    assert math.isclose(first.confidence or 0, math.exp(-2), abs_tol=1e-6)
    assert math.isclose(second.confidence or 0, math.exp(-5), abs_tol=1e-6)
    assert first.evidence is not None
    assert second.evidence is not None
    assert second.evidence.heat == ((0.0, 0.0), (0.0, 1.0))


def test_prompt_has_no_confidence() -> None:
    first, second = make_sentences(
        "Ab. Cd.", [3, 6, 7], dropped=0, forced=1, logprobs=[-1.0, -1.0], evidence=None, grid=(1, 1)
    )
    assert first.confidence is None
    assert math.isclose(second.confidence or 0, math.exp(-1), abs_tol=1e-6)


def test_white_space_that_was_dropped() -> None:
    (only,) = make_sentences(
        "Ab.", [1, 4, 5], dropped=2, forced=0, logprobs=[-9.0, -1.0, -1.0], evidence=None, grid=(1, 1)
    )
    assert math.isclose(only.confidence or 0, math.exp(-1), abs_tol=1e-6)


def test_bytes_of_a_character_count_for_its_sentence() -> None:
    (only,) = make_sentences(
        "é.", [0, 1, 2], dropped=0, forced=0, logprobs=[-3.0, -3.0, -3.0], evidence=None, grid=(1, 1)
    )
    assert math.isclose(only.confidence or 0, math.exp(-3), abs_tol=1e-6)


# ---- JSON


@pytest.mark.parametrize("indent", [None, 2])
def test_json(indent: int | None) -> None:
    evidence = Evidence.from_mass(np.arange(4.0), (2, 2))
    made = report(sentences=(Sentence("Ünïcode \u2028.", 0.5, evidence),))
    text = made.to_json(indent=indent)
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(made.to_dict()))
    assert json.loads(text)["findings"] == "The heart is normal. [ 1, 2 ]"
    assert ("\n" in text) == (indent is not None)
    assert json.loads(text)["logprobs"] == [-0.1, -0.123457]


def test_json_holds_no_picture() -> None:
    made = report(film=chest_picture(), mask=np.ones((2, 2), np.uint8))
    assert "film" not in made.to_dict()
    assert "array" not in repr(made)
    assert made == report()


# ---- mask


def halves(left: float, right: float) -> np.ndarray:
    mask = np.zeros((20, 20), np.float32)
    mask[: int(20 * left), :10] = 1
    mask[: int(20 * right), 10:] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (halves(0, 0), "empty"),
        (halves(1, 1), "whole picture"),
        (halves(0.05, 0.05), "covers 5%"),
        (halves(0.9, 1), "covers 95%"),
        (halves(0.8, 0), "one side"),
        (halves(0.05, 0.9), "one side"),
    ],
)
def test_implausible_masks(mask: np.ndarray, word: str) -> None:
    (warning,) = mask_warnings(mask)
    assert warning.startswith("anatomy not found")
    assert word in warning


@pytest.mark.parametrize("mask", [halves(0.5, 0.5), halves(0.3, 0.8)])
def test_plausible_masks(mask: np.ndarray) -> None:
    mask[:, 8:12] = 0  # between the lungs
    assert mask_warnings(mask) == []


def test_guidance() -> None:
    hidden = BiasSpec("hidden", 1.0, "all", "prefix", None)
    lowest = np.finfo(np.float32).min
    nothing = np.full((2, 4), lowest, np.float32)
    assert hides_everything(nothing, hidden)
    nothing[0, 0] = 0.5
    nothing[1, 0] = 0.5
    assert not hides_everything(nothing, hidden)
    assert gives_no_guidance(np.zeros((2, 4), np.float32))
    assert not gives_no_guidance(np.eye(2, dtype=np.float32))


# ---- overlay


def test_overlay_has_every_part() -> None:
    sentences = tuple(
        Sentence(f"Sentence {i} " + "word " * 12, 0.5, Evidence.from_mass(np.eye(16)[3 * i], (4, 4))) for i in range(4)
    )
    made = report(
        sentences=sentences,
        film=chest_picture(),
        mask=(chest_picture(64) > 100).astype(np.uint8),
        warnings=("w " * 60,),
    )
    picture = np.asarray(overlay_image(made))
    assert picture.shape[0] >= 1024
    assert max(picture[:, :1024].shape[:2]) >= 1024
    for colour in COLOURS[:4]:
        assert (np.abs(picture[:, :1024].astype(int) - colour).max(-1) < 12).sum() > 200
        assert (np.abs(picture[:, 1024:].astype(int) - colour).max(-1) < 12).sum() > 200


@pytest.mark.parametrize("shape", [(2000, 500), (300, 900), (1, 1), (1024, 1024)])
def test_overlay_of_any_shape(shape: tuple[int, int]) -> None:
    made = report(film=np.zeros(shape, np.uint8), mask=np.zeros((4, 4), np.uint8), sentences=())
    assert overlay_image(made).height >= min(1024, shape[0])


def test_overlay_of_a_long_report_grows() -> None:
    sentences = tuple(Sentence("word " * 40, None, None) for _ in range(30))
    assert overlay_image(report(film=chest_picture(), sentences=sentences)).height > 2000


def test_overlay_needs_a_picture() -> None:
    with pytest.raises(UsageError):
        overlay_image(report())


@given(st.text(max_size=80))
def test_wrap_loses_nothing(text: str) -> None:
    class Font:
        def getlength(self, part: str) -> float:
            return float(len(part))

    lines = wrap(text, Font(), 9)
    assert all(len(line) <= 9 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(line for pair in pairwise(lines) for line in pair)


# ---- threads


def test_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= check_threads(None) <= 512
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr("edge.threads._core", lambda cpu: ("0", str(cpu // 2)))
    monkeypatch.setattr("edge.threads._quota", lambda: 1 << 30)
    assert default_threads() == 4
    monkeypatch.setattr("edge.threads._quota", lambda: 2)
    assert default_threads() == 2


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, 1 << 30),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.cfs_quota_us": "390000\n", "cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 1 << 30),
        ({"cpu.max": "some words here\n"}, 1 << 30),
        ({"cpu.max": "1 0\n"}, 1 << 30),
        ({}, 1 << 30),
    ],
)
def test_quota(files: dict[str, str], quota: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of either version of control groups, in whole CPUs, as the kernel rounds it."""

    def read_text(path: Path) -> str:
        if path.name not in files:
            raise FileNotFoundError
        return files[path.name]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert _quota() == quota


@pytest.mark.parametrize("threads", [0, -1, 513, 1.0, True, "4"])
def test_wrong_threads(threads: object) -> None:
    with pytest.raises(UsageError):
        check_threads(threads)  # type: ignore[arg-type]


def test_sections() -> None:
    """A section's token ends a sentence that has no stop, and its text goes to its own part of JSON."""
    text = "Lungs are clear No effusion. Normal chest."
    ends = [5, 15, 15, 28, 28, 42]  # the third and the fifth token begin a section and have no text
    sentences = make_sentences(
        text, ends, dropped=0, forced=0, logprobs=[-0.1] * 6, evidence=None, grid=(2, 2),
        sections=[(0, "findings"), (15, "other"), (28, "impression")],
    )  # fmt: skip
    assert [(s.text, s.section) for s in sentences] == [
        ("Lungs are clear", "findings"), ("No effusion.", "other"), ("Normal chest.", "impression"),
    ]  # fmt: skip
    assert all(s.confidence for s in sentences)
    one = report(sentences=sentences, findings=text)
    assert [part["name"] for part in one.to_dict()["sections"]] == ["findings", "other", "impression"]
    edited = one.with_text(["Lungs are clear", "Added.", "Normal chest."])
    assert edited.sections == [("findings", ["Lungs are clear", "Added."]), ("impression", ["Normal chest."])]
