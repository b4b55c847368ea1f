# SPDX-License-Identifier: Apache-2.0
"""The C library splits a text into the sentences that the Python package does, however long and odd it is."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.text import sentence_spans

ROOT = Path(__file__).resolve().parents[2]
PIECES = (
    "no. ", "nos. ", "Dr. ", "e.g. ", "a.m. ", "L. ", "l. ", "1. ", "12. ", "123. ", "No. 1 ", "Lungs are clear. ",
    "lungs", "Is it? ", "...", ". ", ". . ", "!", ")", "]", '"', "'", "(", "[", " ", "  ", "\t", "\n", "\n\n", " \n \n",
    "\r\n", "\x0b", "\x1f", "\xa0", "\u2028", "\u3000", "1", "3", "A", "z", "_", "-", "Ä. ", "é. ", "Ж. ", "σ. ",
)  # fmt: skip
LONG = ("no. 1 ", "1. \n", "L. ", ".", ".)", "?)", ".!?", "x", " ", "\n ", ". ", "\n")


def test_the_sentences_are_those_of_the_python_package(tmp_path: Path) -> None:
    """Also of 200,000 characters of one kind, for which looking at the rest anew at every stop takes minutes."""
    if shutil.which("c++") is None:
        pytest.skip("c++ is missing")
    program, folder = tmp_path / "check", ROOT / "csrc" / "capi"
    sources = (Path(__file__).parent / "sentences_check.cpp", folder / "sentences.cpp", folder / "utf8.cpp")
    flags = ("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", f"-I{folder}")
    subprocess.run(["c++", *flags, *sources, "-o", program], check=True)
    chance = random.Random(7)
    texts = ["".join(chance.choices(PIECES, k=chance.randrange(30))) for _ in range(3000)]
    texts += ["    " + piece * (200_000 // len(piece)) + behind for piece in LONG for behind in ("", "x", ". y")]
    given = b"".join(text.encode() + b"\0" for text in texts)
    lines = subprocess.run([program], input=given, check=True, capture_output=True).stdout.decode().splitlines()
    assert len(lines) == len(texts)
    for text, line in zip(texts, lines, strict=True):
        assert line.split() == [f"{a}-{b}" for a, b in sentence_spans(text)], text[:100]
