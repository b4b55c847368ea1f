# SPDX-License-Identifier: Apache-2.0
"""Tokenizers made to let a text grow until memory runs out, which the library behind them does not survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.errors import BundleError, UsageError
from edge.text import TextDecoder

REPORT = "The heart is of normal size. No focal consolidation, effusion or pneumothorax. " * 50


def replace(text: str, written: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": written}


def sequence(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


def metaspace(sign: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": sign, "prepend_scheme": "always", "split": True}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
TWICE = replace("a", "aa")
GROWING: dict[str, dict[str, Any]] = {
    "letters": {"normalizer": sequence("normalizers", *[TWICE] * 30)},
    "without a type": {"normalizer": {"normalizers": [{"pattern": {"String": "a"}, "content": "aa"}] * 30}},
    "within each other": {"normalizer": sequence("normalizers", *[sequence("normalizers", *[TWICE] * 6)] * 5)},
    "nothing": {"normalizer": sequence("normalizers", *[replace("", "b")] * 30)},
    "an expression": {
        "normalizer": sequence("normalizers", *[{**TWICE, "pattern": {"Regex": "a|b"}, "content": "ab"}] * 30)
    },
    "one long text": {"normalizer": replace("a", "b" * 5000)},
    "in front": {"normalizer": {"type": "Prepend", "prepend": "b" * (5 << 20)}},
    "forms": {"normalizer": sequence("normalizers", *[{"type": "NFKD"}, replace("\u0627", "\ufdfa")] * 8)},
    "bytes": {"pre_tokenizer": sequence("pretokenizers", *[BYTES] * 20)},
    "signs": {"pre_tokenizer": sequence("pretokenizers", *[metaspace(sign) for sign in "xyz" * 10])},
    "when it is read": {
        "normalizer": sequence("normalizers", *[TWICE] * 13),
        "added_tokens": [
            {"id": 3, "content": "a", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True,
             "special": False}
        ],
    },
    "decoded": {"decoder": sequence("decoders", *[TWICE] * 30)},
    "suffixes": {"decoder": sequence("decoders", *[{"type": "BPEDecoder", "suffix": ""}] * 20)},
}  # fmt: skip


def decoder(path: Path, tokens: tuple[str, ...] = ("u", "a", "b"), **parts: Any) -> TextDecoder:
    """Of a tokenizer.json with these parts, of which the model knows some tokens; the first is for everything else."""
    model = {
        "type": "BPE", "dropout": None, "unk_token": tokens[0], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [],
    }  # fmt: skip
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    path = path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], **empty, **parts, "model": model}))
    return TextDecoder(path, 320)


@pytest.mark.parametrize("name", GROWING)
def test_refused_when_it_is_loaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json: its \w+ could make more than"):
        decoder(tmp_path, **GROWING[name])


def test_a_part_named_twice(tmp_path: Path) -> None:
    """The library takes the last one."""
    path = tmp_path / "tokenizer.json"
    decoder(tmp_path)
    growing = json.dumps(sequence("normalizers", *[TWICE] * 30))
    path.write_text(path.read_text().replace('"version"', f'"normalizer": {growing}, "version"'))
    with pytest.raises(BundleError, match="not a tokenizer"):
        TextDecoder(path, 320)


def test_names_in_other_letters(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    decoder(tmp_path)
    growing = json.dumps(sequence("normalizers", *[TWICE] * 30))
    for name in ("normalizers", "content", "pattern"):
        growing = growing.replace(f'"{name}"', f'"\\u00{ord(name[0]):x}{name[1:]}"')
    path.write_text(path.read_text().replace('"normalizer": null', f'"normalizer": {growing}'))
    with pytest.raises(BundleError, match="its normalizer could make"):
        TextDecoder(path, 320)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": sequence("normalizers", *[TWICE] * 7)},
        {"tokens": ("u" * 12_000, "a", "b")},  # a character that is not known takes as much
    ],
)
def test_too_long_a_text(tmp_path: Path, parts: dict[str, Any]) -> None:
    words = decoder(tmp_path, **parts)
    assert len(words.encode("ab")) == len(words.encode_plain("ab")) > 1
    with pytest.raises(UsageError, match="the prompt of 65536 bytes is too long for this model's tokenizer"):
        words.encode("z" * 65536)
    with pytest.raises(UsageError, match="the context of 65536 bytes"):
        words.encode_plain("z" * 65536)


def test_too_long_tokens(tmp_path: Path) -> None:
    words = decoder(tmp_path, ("u", "a" * 50_000))
    assert len(words.decode([1, 1])) > 100_000 - 1
    with pytest.raises(BundleError, match="100 of its tokens could be a text of more than"):
        words.decode([1] * 100)


def test_what_is_put_around_a_text_is_left_out(tmp_path: Path) -> None:
    """Were it not, it could be the text itself, again and again."""
    itself = {"Sequence": {"id": "A", "type_id": 0}}
    around = {"type": "TemplateProcessing", "single": [itself] * 50, "pair": [itself], "special_tokens": {}}
    assert decoder(tmp_path, post_processor=around).encode("ab") == [1, 2]


def test_a_panic_of_the_library(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A table whose entries lead out of it."""
    words = decoder(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhYQA="})
    with pytest.raises(BundleError, match="fails on this text"):
        words.encode("ab")
    capfd.readouterr()  # it says so itself


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": BYTES, "decoder": BYTES},
        {
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                           "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        },
        {
            "normalizer": sequence(
                "normalizers", replace("``", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ),
            "pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("\u2581")),
            "decoder": sequence(
                "decoders", replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ),
        },
    ],
    ids=["GPT-2", "BERT", "SentencePiece"],
)  # fmt: skip
def test_those_in_use_take_long_reports(tmp_path: Path, parts: dict[str, Any]) -> None:
    words = decoder(tmp_path, **parts)
    assert len(words.encode(REPORT)) > 1000
    assert words.decode([1, 2] * 1000)
