# SPDX-License-Identifier: Apache-2.0
"""The draft table in a bundle: optional, pinned like every file, and harmless whatever it holds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import make_bundle, make_manifest, make_tokenizer, seal
from safetensors.numpy import save_file

import edge
from edge.bundle import Bundle
from edge.errors import BundleError, ProcessingError

VOCAB = make_tokenizer().get_vocab_size()


def table(**changes: Any) -> dict[str, np.ndarray]:
    """Two contexts: nothing, and the token 5."""
    arrays: dict[str, Any] = {
        "children": np.array([1, 2, 2], np.int32),
        "tokens": np.array([-1, 5], np.int32),
        "next": np.array([5, 6], np.int32),
        "share": np.array([0.4, 0.9], np.float32),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def with_table(folder: Path, arrays: dict[str, np.ndarray] | bytes) -> Path:
    """The hand-made bundle with these bytes or arrays as its draft table."""
    make_bundle(folder)
    if isinstance(arrays, bytes):
        (folder / "draft.safetensors").write_bytes(arrays)
    else:
        save_file(arrays, folder / "draft.safetensors")
    seal(folder, make_manifest(VOCAB) | {"draft": "draft.safetensors"})
    return folder


def test_a_bundle_without_one(pristine: Path, picture: Path) -> None:
    bundle = Bundle.open(pristine)
    assert bundle.manifest.draft_file is None
    assert bundle.draft_table() is None
    engine = edge.load(bundle, threads=1)
    drafted, plain = engine.report(picture), engine.report(picture, draft=False)
    assert drafted.token_ids == plain.token_ids
    assert drafted.logprobs == plain.logprobs


def test_a_bundle_with_one(tmp_path: Path, picture: Path) -> None:
    engine = edge.load(with_table(tmp_path / "bundle", table()), threads=1)
    drafted, plain = engine.report(picture), engine.report(picture, draft=False)
    assert drafted.token_ids == plain.token_ids
    assert drafted.sentences == plain.sentences
    assert set(drafted.to_dict()["decoding"]) == {"passes", "tokens_per_pass", "drafted", "accepted"}
    assert json.loads(drafted.to_json())["decoding"] == drafted.decoding
    assert plain.decoding["drafted"] == 0
    assert plain.decoding["tokens_per_pass"] == 1.0
    assert edge.load(tmp_path / "bundle", threads=1, draft=False).report(picture).decoding == plain.decoding


def test_a_table_is_mapped_not_copied(tmp_path: Path) -> None:
    from edge.weights import map_safetensors

    path = with_table(tmp_path / "bundle", table()) / "draft.safetensors"
    arrays = map_safetensors(path, {"I32": np.dtype("<i4"), "F32": np.dtype("<f4")})
    assert all(not array.flags.owndata and not array.flags.writeable for array in arrays.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"next": np.array([5, VOCAB], np.int32)}, "outside the vocabulary"),
        ({"next": np.array([5, -1], np.int32)}, "outside the vocabulary"),
        ({"tokens": np.array([-1, 2**31 - 1], np.int32)}, "outside the vocabulary"),
        ({"children": np.array([0, 2, 2], np.int32)}, "no tree"),
        ({"children": np.array([1, 3, 2], np.int32)}, "no tree"),
        ({"children": np.array([1, 1, 2], np.int32)}, "no tree"),
        ({"share": np.array([0.5, np.nan], np.float32)}, "share"),
        ({"share": np.array([0.5], np.float32)}, "length"),
        ({"share": None}, "children, tokens, next, share"),
        ({"more": np.zeros(3, np.float32)}, "children, tokens, next, share"),
        ({"next": np.array([5.0, 6.0], np.float32)}, "children, tokens, next, share"),
        ({"next": np.array([[5], [6]], np.int32)}, "one dimension"),
        ({"next": np.array([5, 6], np.int8)}, "neither I32 nor F32"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = with_table(tmp_path / "bundle", table(**changes))
    with pytest.raises(BundleError, match=words) as caught:
        edge.load(folder, threads=1)
    assert "\n" not in str(caught.value)
    assert edge.load(folder, threads=1, draft=False).manifest.draft_file == "draft.safetensors"


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 8, b"\xff" * 64, struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 1 << 60) + b"{}"],
)
def test_bytes_that_are_no_table(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BundleError, match=r"draft\.safetensors"):
        edge.load(with_table(tmp_path / "bundle", data), threads=1)


def test_a_changed_table_is_noticed(tmp_path: Path) -> None:
    folder = with_table(tmp_path / "bundle", table())
    data = bytearray((folder / "draft.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "draft.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match=r"draft\.safetensors does not match"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["none.safetensors", "decoder.safetensors", "../draft.safetensors", 7, None])
def test_the_manifest_names_it_wrongly(tmp_path: Path, name: Any) -> None:
    folder = with_table(tmp_path / "bundle", table())
    seal(folder, make_manifest(VOCAB) | {"draft": name})
    with pytest.raises(BundleError, match="draft"):
        Bundle.open(folder)


def test_a_table_of_a_larger_vocabulary(tmp_path: Path) -> None:
    """Refused by the kernel too, should it get there by another way."""
    from edge import _kernel
    from edge.decoder import Decoder, GenerationOptions

    bundle = Bundle.open(make_bundle(tmp_path / "bundle"))
    decoder = Decoder(
        bundle.manifest.decoder, bundle.weights(), threads=1, draft_table=_kernel.DraftTable(**table(), vocab=VOCAB + 1)
    )
    decoder.set_prefix(np.zeros((2, 2, 16, 16), np.float32), np.zeros((2, 2, 16, 16), np.float32))
    with pytest.raises(ProcessingError, match="another vocabulary"):
        decoder.generate(np.ones(VOCAB, np.float32), GenerationOptions())
