# SPDX-License-Identifier: Apache-2.0
"""``--draft-corpus``: the table, the corpus that may be anything, and bundles with and without one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from edge_export.cli import main
from edge_export.draft_corpus import MOST_LINE, read_corpus
from edge_export.draft_table import Piece, build_table
from edge_export.errors import CannotRead, CorruptInput, UsageError
from edge_export.phantom.grammar import corpus
from hypothesis import example, given, settings
from hypothesis import strategies as st

import edge
from edge import _kernel
from edge.bundle import DEMO, Bundle

SAMPLE = Path(__file__).parents[2] / "examples" / "phantom.dcm"


def seen_after(pieces: list[Piece], text: list[int], order: int) -> tuple[int, float]:
    """What the longest end of `text` seen at least twice was followed by, counted the slow way."""
    for length in range(min(order, len(text) + 1), 0, -1):
        context = ([-1, *text])[-length:] if length <= len(text) + 1 else None
        counts: Counter[int] = Counter()
        for piece in pieces:
            ids = [-1, *piece.ids] if piece.begins else list(piece.ids)
            for at in range(length, len(ids)):
                if ids[at - length : at] == context:
                    counts[ids[at]] += 1
        if counts.total() >= 2:
            best = min(counts, key=lambda token: (-counts[token], token))
            return best, counts[best] / (counts.total() + 1)
    counts = Counter(token for piece in pieces for token in piece.ids)
    best = min(counts, key=lambda token: (-counts[token], token))
    return best, counts[best] / (counts.total() + 1)


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=12),
    inside=st.lists(st.booleans(), min_size=12, max_size=12),
    asked=st.lists(st.integers(0, 4), max_size=8),
)
@example(texts=[[0, 0], [0, 0], [0, 0, 0]], inside=[False] * 12, asked=[0])  # small differences in a chain
def test_the_table_says_what_was_counted(texts: list[list[int]], inside: list[bool], asked: list[int]) -> None:
    pieces = [Piece(text, begins=not flag) for text, flag in zip(texts, inside, strict=False)]
    token, share = _kernel.DraftTable(**build_table(pieces, order=5), vocab=5).guess(asked)
    expected, often = seen_after(pieces, asked, 5)
    assert token == expected
    assert share == pytest.approx(often, abs=0.1 + 1e-6)  # what nearly agrees with a shorter context is left out


def test_a_table_keeps_to_its_size() -> None:
    rng = np.random.default_rng(0)
    pieces = [Piece(rng.integers(0, 50, 40).tolist()) for _ in range(400)]
    arrays = build_table(pieces, most_nodes=500)
    assert len(arrays["tokens"]) <= 500
    _kernel.DraftTable(**arrays, vocab=50)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", UsageError, "no text"),
        (b"\n \n\t\n", UsageError, "no text"),
        (b"The heart is normal.\n\xff\xfe\n", CorruptInput, "line 2"),
        (b"The heart\0 is normal.\n", CorruptInput, "NUL"),
        (b"a" * (MOST_LINE + 1), CorruptInput, "line 1"),
    ],
)
def test_a_corpus_that_is_none(tmp_path: Path, data: bytes, error: type[edge.EdgeError], words: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(data)
    with pytest.raises(error, match=words):
        read_corpus(path)


def test_no_corpus(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(CannotRead, match="not a file"):
            read_corpus(path)


def test_lines_of_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes("\ufeffOne.\r\n\r\n Two. \nThrée.".encode())
    assert read_corpus(path) == ["One.", "Two.", "Thrée."]


def test_too_large_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_export.draft_corpus.MOST_BYTES", 100)
    path = tmp_path / "corpus.txt"
    path.write_text("The heart is normal.\n" * 6)
    with pytest.raises(UsageError, match="give a sample"):
        read_corpus(path)


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "reports.txt"
    path.write_text("\n".join(corpus(300, 5)))
    return path


def test_a_bundle_gets_a_table(tmp_path: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """edge-export on a bundle: the same model, a new table, and the very same reports."""
    out = tmp_path / "bundle"
    assert main([str(DEMO), "--draft-corpus", str(corpus_file), "--out", str(out), "-q"]) == 0
    old, new = Bundle.open(DEMO), Bundle.open(out)
    assert new.manifest.draft_file == "draft.safetensors"
    assert new.draft_table().nodes > 1000
    for name in (old.manifest.vision_file, old.manifest.weights_file, old.manifest.tokenizer_file):
        assert new.manifest.files[name] == old.manifest.files[name]
    card = (out / "MODEL_CARD.md").read_text()
    assert card.count("## Draft table") == 1
    assert "`reports.txt`" in card
    engine = edge.load(out, threads=2)
    drafted, plain = engine.report(SAMPLE), engine.report(SAMPLE, draft=False)
    assert drafted.token_ids == plain.token_ids
    assert drafted.to_dict()["sentences"] == plain.to_dict()["sentences"]
    assert plain.decoding == {"passes": len(plain.token_ids), "tokens_per_pass": 1.0, "drafted": 0, "accepted": 0}
    assert drafted.decoding["tokens_per_pass"] > 1.2
    assert drafted.decoding["passes"] + drafted.decoding["accepted"] == plain.decoding["passes"]
    # Again, in place: the table and its section are replaced, not added to.
    again = [str(out), "--draft-corpus", str(corpus_file), "--out", str(out), "-q"]
    assert main(again) == 40
    assert main([*again, "--force"]) == 0
    assert (out / "MODEL_CARD.md").read_text() == card
    assert Bundle.open(out).sha256 == new.sha256
    capsys.readouterr()


def test_a_bundle_alone_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DEMO), "--out", str(tmp_path / "bundle"), "-q"]) == 1
    assert "--draft-corpus" in capsys.readouterr().err


def test_a_bad_corpus_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\xff\xff")
    assert main([str(DEMO), "--draft-corpus", str(path), "--out", str(tmp_path / "bundle"), "-q"]) == 22
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "UTF-8" in error
    assert not (tmp_path / "bundle").exists()


def test_an_export_with_a_corpus(tmp_path: Path, corpus_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a checkpoint: the manifest lists the table, with its hash."""
    call = ["--random", "tiny", str(tmp_path / "tiny.safetensors")]
    call += ["--draft-corpus", str(corpus_file), "--out", str(tmp_path / "bundle"), "-q"]
    assert main(call) == 0, capsys.readouterr().err
    bundle = Bundle.open(tmp_path / "bundle")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["draft"] == "draft.safetensors"
    assert "draft.safetensors" in manifest["files"]
    assert bundle.draft_table().nodes > 1000
    capsys.readouterr()
