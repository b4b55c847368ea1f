# SPDX-License-Identifier: Apache-2.0
"""Bundles made to do harm, or merely damaged: folder, files, manifest. Each is refused as a BundleError (exit code 30).

What the files hold: ``test_hostile_models.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import make_manifest, make_weights, seal

import edge
from edge.bundle import Bundle
from edge.errors import BundleError
from edge.manifest import parse_manifest


def refused(path: Path | str, *words: str) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    message = str(caught.value)
    assert caught.value.exit_code == 30
    assert "\n" not in message
    assert message.isprintable()
    for word in words:
        assert word in message
    return message


def edit(bundle: Path, **values: Any) -> None:
    """Set values of the manifest by dotted path, e.g. ``**{"prefix.length": 0}``; ``...`` deletes."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for path, value in values.items():
        *parents, key = path.split("/")
        section = manifest
        for parent in parents:
            section = section[parent]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def raw(bundle: Path, old: str, new: str) -> None:
    text = (bundle / "manifest.json").read_text()
    assert old in text
    (bundle / "manifest.json").write_text(text.replace(old, new, 1))


def refusal(manifest: dict[str, Any]) -> str | None:
    """The message with which a manifest is refused; ``None`` where it is taken."""
    try:
        parse_manifest(json.dumps(manifest).encode())
    except BundleError as error:
        return str(error)
    return None


# ---- what is fine


def test_good_bundle(pristine: Path) -> None:
    bundle = Bundle.open(pristine)
    assert bundle.sha256 == hashlib.sha256((pristine / "manifest.json").read_bytes()).hexdigest()
    assert bundle.manifest.name == "handmade"
    weights = bundle.weights()
    for name, array in make_weights(bundle.manifest.decoder["vocab"]).items():
        assert np.array_equal(weights[name], array)
        assert not weights[name].flags.writeable
        assert weights[name].flags.c_contiguous
        assert weights[name].flags.aligned


def test_unlisted_files_are_ignored(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bundle / "notes.txt").write_text("hello")
    with caplog.at_level("INFO", "edge"):
        assert Bundle.open(bundle).unlisted == ("notes.txt",)
    assert "notes.txt" in caplog.text


def test_environment_names_the_bundle(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_REPORT_BUNDLE", str(pristine))
    assert Bundle.open().path == pristine.resolve()


def test_environment_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_REPORT_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(BundleError, match="EDGE_REPORT_BUNDLE"):
        Bundle.open()


def test_links_inside_the_bundle_are_fine(bundle: Path) -> None:
    (bundle / "vision.onnx").rename(bundle / "blob")
    (bundle / "vision.onnx").symlink_to("blob")
    assert Bundle.open(bundle).unlisted == ("blob",)


# ---- the folder


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist")


def test_file_instead_of_folder(bundle: Path) -> None:
    refused(bundle / "manifest.json", "give the folder")


def test_no_manifest(tmp_path: Path) -> None:
    refused(tmp_path, "manifest.json")


def test_name_with_nul(tmp_path: Path) -> None:
    refused(f"{tmp_path}/a\0b")


def test_manifest_is_a_folder(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").mkdir()
    refused(bundle, "not a regular file")


def test_manifest_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "manifest.json").rename(tmp_path / "elsewhere.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    refused(bundle, "leads out of the bundle")


# ---- the files


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.safetensors", "tokenizer.json"])
def test_changed_byte(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, name, "SHA-256")


def test_truncated_file(bundle: Path) -> None:
    data = (bundle / "decoder.safetensors").read_bytes()
    (bundle / "decoder.safetensors").write_bytes(data[:-1])
    refused(bundle, "decoder.safetensors", "bytes")


def test_missing_file(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()
    refused(bundle, "tokenizer.json is missing")


def test_hashes_come_before_parsing(bundle: Path) -> None:
    size = (bundle / "tokenizer.json").stat().st_size
    (bundle / "tokenizer.json").write_bytes(b"x" * size)
    with pytest.raises(BundleError, match="SHA-256"):
        edge.load(bundle)


def test_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "vision.onnx").rename(tmp_path / "vision.onnx")
    (bundle / "vision.onnx").symlink_to(tmp_path / "vision.onnx")
    refused(bundle, "leads out of the bundle")


def test_link_loop(bundle: Path) -> None:
    (bundle / "vision.onnx").unlink()
    (bundle / "vision.onnx").symlink_to("vision.onnx")
    refused(bundle, "vision.onnx")


def test_pipe_does_not_block(bundle: Path) -> None:
    (bundle / "vision.onnx").unlink()
    os.mkfifo(bundle / "vision.onnx")
    refused(bundle, "not a regular file")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "..",
        ".hidden",
        "",
        "a\nb",
        "a\0b",
        "manifest.json",
        "x" * 200,
    ],
)
def test_path_in_a_file_name(bundle: Path, name: str) -> None:
    edit(bundle, **{"files": {name: {"sha256": "0" * 64, "bytes": 1}}})
    refused(bundle, "is not a plain file name")


def test_name_twice_in_other_case(bundle: Path) -> None:
    entry = {"sha256": "0" * 64, "bytes": 1}
    edit(bundle, files={"a.bin": entry, "A.bin": entry})
    refused(bundle, "different case")


def test_reference_to_an_unlisted_file(bundle: Path) -> None:
    (bundle / "other.onnx").write_bytes((bundle / "vision.onnx").read_bytes())
    edit(bundle, **{"graphs/vision": "other.onnx"})
    refused(bundle, "listed in files")


def test_one_file_in_two_roles(bundle: Path) -> None:
    edit(bundle, weights="tokenizer.json")
    refused(bundle, "different files")


# ---- the manifest


def test_other_format_version_says_what_to_do(bundle: Path) -> None:
    edit(bundle, format_version=2)
    refused(bundle, "format version 2", "update edge-report")
    edit(bundle, format_version=0)
    refused(bundle, "export the model again")


def test_other_version_wins_over_unknown_keys(bundle: Path) -> None:
    edit(bundle, format_version=7, novelty={"a": 1})
    refused(bundle, "format version 7")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"format_version": ' + "9" * 5000 + "}", "too many digits"),
        ('{"format_version": 1e999}', "out of range"),
        ('{"format_version": NaN}', "not a JSON number"),
        ('{"format_version": -Infinity}', "not a JSON number"),
        ('{"format_version": 1, "format_version": 1}', "appears twice"),
        ('{"format_version": 1.0}', "whole number"),
        ('{"format_version": true}', "whole number"),
        ('{"format_version": "1"}', "whole number"),
        ("\ufeff{}", "not JSON"),
        (" " * (1 << 20) + "{}", "larger than"),
    ],
)
def test_hostile_json(bundle: Path, text: str, word: str) -> None:
    (bundle / "manifest.json").write_text(text)
    refused(bundle, word)


def test_bytes_that_are_not_utf8(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b'{"name": "\xff\xfe"}')
    refused(bundle)


def test_duplicate_key_deep_inside(bundle: Path) -> None:
    raw(bundle, '"layers": 2', '"layers": 2, "layers": 3')
    refused(bundle, "'layers' appears twice")


@pytest.mark.parametrize("section", ["", "image/", "image/intensity/", "prefix/", "bias/", "decoder/", "generation/"])
def test_unknown_key_is_named(bundle: Path, section: str) -> None:
    edit(bundle, **{section + "novelty": 1})
    refused(bundle, "unknown keys ('novelty')")


def test_every_missing_key_is_named(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for key in manifest:
        spoilt = {name: value for name, value in manifest.items() if name != key}
        with pytest.raises(BundleError, match=key):
            parse_manifest(json.dumps(spoilt).encode())
    for section in ("image", "prefix", "bias", "decoder", "generation"):
        for key in manifest[section]:
            spoilt = manifest | {section: {k: v for k, v in manifest[section].items() if k != key}}
            with pytest.raises(BundleError, match=key):
                parse_manifest(json.dumps(spoilt).encode())


@pytest.mark.parametrize("value", [None, True, "1", 1.5, -1, 1 << 62, [], {}, [1], "\x1b[2J", "a\u202eb", "\ud800"])
def test_no_value_of_a_wrong_type_passes(pristine: Path, value: Any) -> None:
    """Whatever stands in whatever place: a bundle error or a valid manifest, never another exception."""
    manifest = json.loads((pristine / "manifest.json").read_text())

    def places(section: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
        for key in section:
            yield (*path, key)
            if isinstance(section[key], dict):
                yield from places(section[key], (*path, key))

    for path in places(manifest):
        spoilt = json.loads(json.dumps(manifest))
        section = spoilt
        for key in path[:-1]:
            section = section[key]
        original = section[path[-1]]
        section[path[-1]] = value
        message = refusal(spoilt)
        if message is None:
            assert path[-1] == "notice" or isinstance(value, type(original) | int), path
        else:
            assert message.isprintable()
            assert len(message) < 400


PART = {"name": "indication", "before": [4], "absent": [], "max_tokens": 3}
STATES = {"findings": ["effusion"], "names": ["no", "yes"], "token_ids": [4, 5]}
LAYERWISE = {"kind": "layerwise", "strength": 2.0, "rows": "all", "span": "sequence"}


@pytest.mark.parametrize(
    "change",
    [
        {"decoder/layers": 0},
        {"decoder/layers": 10**9},
        {"decoder/vocab": 10**15},
        {"decoder/max_positions": 1 << 20, "decoder/layers": 256, "decoder/hidden": 1 << 15},
        {"decoder/heads": 3},
        {"decoder/kv_heads": 1},
        {"decoder/norm": "rmsnorm"},
        {"decoder/activation": "relu"},
        {"decoder/max_positions": 16},
        {"decoder/norm_eps": 0},
        {"prefix/length": 15},
        {"prefix/grid": [4]},
        {"prefix/grid": [4, 4.0]},
        {"prefix/grid": [100000, 100000]},
        {"image/height": 10**6},
        {"image/std": [0, 1, 1]},
        {"image/mean": [1, 2]},
        {"image/resize": "nearest"},
        {"image/intensity/mode": "clahe"},
        {"image/intensity/low": 99.9},
        {"bias/kind": "none"},
        {"bias/kind": "new"},
        {"bias/rows": "some"},
        {"bias/span": "sequence"},
        {"bias/sequence_length": 30},
        {"bias": LAYERWISE},
        {"bias": LAYERWISE | {"sequence_length": 16}},
        {"bias": LAYERWISE | {"sequence_length": 10**6}},
        {"bias": LAYERWISE | {"sequence_length": 30.0}},
        {"bias/strength": True},
        {"generation/max_new_tokens": 0},
        {"generation/repetition_penalty": 0},
        {"generation/stop_ids": [-1]},
        {"generation/stop_ids": [320]},
        {"generation/begin_ids": [1] * 1000},
        {"generation/evidence_layers": [2]},
        {"generation/suppressed_ids": list(range(320))},
        {"generation/beams": 0},
        {"generation/beams": 17},
        {"generation/length_penalty": 11},
        {"generation/early_stopping": True},
        {"generation/no_repeat_ngram": 65},
        {"generation/min_new_tokens": -1},
        {"generation/penalise_prompt": 1},
        {"generation/forced_end_id": 320},
        {"generation/counted_begin": 65},
        {"generation/sections": {}},
        {"generation/sections": [5]},
        {"generation/sections": [{"token_id": 320, "name": "x"}]},
        {"generation/sections": [{"token_id": 5, "name": ""}]},
        {"generation/sections": [{"token_id": 5, "name": "x", "more": 1}]},
        {"generation/sections": [{"token_id": 5, "name": "x"}] * 17},
        {"generation/context": {}},
        {"generation/context": [5]},
        {"generation/context": [PART | {"name": ""}]},
        {"generation/context": [PART | {"before": [320]}]},
        {"generation/context": [PART | {"absent": 5}]},
        {"generation/context": [PART | {"max_tokens": 0}]},
        {"generation/context": [PART | {"more": 1}]},
        {"generation/context": [PART, PART]},
        {"generation/context": [PART | {"max_tokens": 120}]},
        {"generation/states": []},
        {"generation/states": STATES | {"findings": []}},
        {"generation/states": STATES | {"names": ["no"]}},
        {"generation/states": STATES | {"token_ids": [4, 320]}},
        {"generation/states": STATES | {"token_ids": [4]}},
        {"generation/states": STATES | {"findings": ["x"] * 200}},
        {"generation/states": STATES | {"more": 1}},
        {"prefix/images": 2},
        {"prefix/images": 17},
        {"decoder/token_types": 0, "decoder/type_after": []},
        {"decoder/token_types": 2},
        {"decoder/token_types": 2, "decoder/type_after": [4]},
        {"decoder/token_types": 2, "decoder/type_after": [4, 2]},
        {"decoder/token_types": 2, "decoder/type_after": [320, 1]},
        {"decoder/token_types": 2, "decoder/type_after": [4, 1] * 17},
        {"decoder/type_after": [4, 1]},
        {"precision": "fp8"},
        {"kv_dtype": "int4"},
        {"kv_dtype": None},
        {"name": ""},
        {"name": "x" * 1000},
        {"notice": "two\nlines"},
        {"labels": [1]},
        {"coding": "missing.json"},
        {"coding": "tokenizer.json"},
        {"coding": None},
        {"files/vision.onnx/sha256": "0" * 63},
        {"files/vision.onnx/sha256": "G" * 64},
        {"files/vision.onnx/bytes": -1},
        {"files/vision.onnx/bytes": 1 << 62},
        {"files": {}},
    ],
)
def test_value_out_of_range(bundle: Path, change: dict[str, Any]) -> None:
    edit(bundle, **change)
    refused(bundle)


@pytest.mark.parametrize(
    ("names", "prefill", "words"),
    [
        (["layers.0.qkv"], "graph", "prefill_int8: the prefill is not the kernel's"),
        ("layers.0.qkv", "kernel", "prefill_int8"),
        ([1], "kernel", "prefill_int8"),
        (["layers.0.qkv"] * 5000, "kernel", "prefill_int8"),
    ],
)
def test_narrow_products_that_do_not_fit(bundle: Path, names: Any, prefill: str, words: str) -> None:
    manifest = make_manifest(320)
    manifest |= {"prefill": prefill, "prefill_int8": names}
    seal(bundle, manifest)
    refused(bundle, words)
