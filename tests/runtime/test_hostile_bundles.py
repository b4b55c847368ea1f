# SPDX-License-Identifier: Apache-2.0
"""Bundles made to do harm, or merely damaged. Each is refused as a BundleError (exit code 30)."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from handmade import make_graph, make_manifest, make_weights, seal
from onnx import TensorProto
from safetensors.numpy import save_file

import edge
from edge.bundle import Bundle
from edge.errors import BundleError
from edge.manifest import parse_manifest
from edge.onnxfile import check_self_contained
from edge.text import TextDecoder
from edge.vision import VisionSession


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


# ---- weights


def weights_bundle(bundle: Path, data: bytes) -> Bundle:
    (bundle / "decoder.safetensors").write_bytes(data)
    manifest = make_manifest(320)
    seal(bundle, manifest)
    return Bundle.open(bundle)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        pickle.dumps({"a": 1}) * 4,
        safetensors({}, length=1 << 63),
        safetensors({}, length=100),
        safetensors(b"[" * 100_000),
        safetensors(b"[]"),
        safetensors(b'{"a":1}'),
        safetensors(b"\xff\xff"),
        safetensors(b'{"a":{},"a":{}}'),
        safetensors(one(dtype="BF16", shape=[2]), b"1234"),
        safetensors(one(dtype="F16"), b"1234"),
        safetensors(one(dtype="U8", shape=[3]), b"1234"),
        safetensors(one(dtype=["F32"]), b"1234"),
        safetensors(one(shape=[1 << 62]), b"1234"),
        safetensors(one(shape=[-1]), b"1234"),
        safetensors(one(shape=[1.0]), b"1234"),
        safetensors(one(shape=[]), b"1234"),
        safetensors(one(shape=[1, 1, 1]), b"1234"),
        safetensors(one(offsets=[0, 400]), b"1234"),
        safetensors(one(offsets=[4, 0]), b"1234"),
        safetensors(one(offsets=[0]), b"1234"),
        safetensors(one(offsets=[True, 4]), b"1234"),
        safetensors(one(shape=[2]), b"1234"),
        safetensors({**one(), "b": one()["a"]}, b"1234"),
    ],
)
def test_hostile_safetensors(bundle: Path, data: bytes) -> None:
    opened = weights_bundle(bundle, data)
    with pytest.raises(BundleError) as caught:
        opened.weights()
    assert str(caught.value).isprintable()


def int4(odd: np.ndarray | None) -> dict[str, Any]:
    """The embedding as int4, with its packed weights or else its scales replaced."""
    packed = odd is not None and odd.dtype == np.uint8
    return {
        "embed.weight": odd if packed else np.zeros((320, 16), np.uint8),
        "embed.weight.scale": np.ones((320, 1), np.float16) if packed else odd,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"final_norm.bias": None}, "final_norm.bias is missing"),
        ({"extra": np.zeros(3, np.float32)}, "'extra' is unknown"),
        ({"embed.weight": np.zeros((3, 3), np.float32)}, r"embed.weight is \[3, 3\]"),
        ({"embed.weight": np.zeros((320, 32), np.int8)}, "embed.weight.scale must be"),
        ({"embed.weight": np.zeros((320, 32), np.float16)}, "embed.weight must be float32, int8 or int4"),
        ({"positions.weight": np.zeros((128, 32), np.int8)}, "positions.weight must be float32"),
        ({"final_norm.bias": np.zeros(32, np.float16)}, "final_norm.bias must be float32"),
        (int4(np.zeros((320, 32), np.uint8)), r"embed.weight is \[320, 32\] instead of \[320, 16\]"),
        (int4(None), r"embed.weight.scale must be float16 \[320, 1\]"),
        (int4(np.zeros((320, 1), np.float32)), r"embed.weight.scale must be float16 \[320, 1\]"),
        (int4(np.zeros((320, 2), np.float16)), r"embed.weight.scale must be float16 \[320, 1\]"),
        (int4(np.full((320, 1), np.inf, np.float16)), "embed.weight.scale holds values"),
    ],
)
def test_weights_that_do_not_fit_the_spec(bundle: Path, change: dict[str, Any], words: str) -> None:
    weights = {name: value for name, value in (make_weights(320) | change).items() if value is not None}
    save_file(weights, bundle / "decoder.safetensors")
    seal(bundle, make_manifest(320))
    with pytest.raises(BundleError, match=words):
        Bundle.open(bundle).weights()


def test_scales_must_be_finite(bundle: Path) -> None:
    weights = make_weights(320)
    weights["embed.weight"] = np.ones((320, 32), np.int8)
    weights["embed.weight.scale"] = np.full(320, np.nan, np.float32)
    save_file(weights, bundle / "decoder.safetensors")
    seal(bundle, make_manifest(320))
    with pytest.raises(BundleError, match="not scales"):
        Bundle.open(bundle).weights()


# ---- the graph


def graph_bundle(bundle: Path, model: onnx.ModelProto | bytes) -> Bundle:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (bundle / "vision.onnx").write_bytes(data)
    seal(bundle, make_manifest(320))
    return Bundle.open(bundle)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f" + b"x" * 50, b"hello world" * 9])
def test_graph_that_is_no_graph(bundle: Path, data: bytes) -> None:
    opened = graph_bundle(bundle, data)
    with pytest.raises(BundleError):
        VisionSession(opened)


def test_graph_with_external_data(bundle: Path) -> None:
    model = make_graph(320)
    tensor = next(part for part in model.graph.initializer if part.name == "k0")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    opened = graph_bundle(bundle, model)
    with pytest.raises(BundleError, match="single file"):
        VisionSession(opened)


def test_external_data_hidden_in_a_nested_graph(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(data_location=TensorProto.EXTERNAL)
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([node], "outer", [], [])
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(BundleError, match="single file"):
        check_self_contained(path)


def test_deeply_nested_graph(tmp_path: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        length, size = len(data), b""
        while length > 0x7F:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + data

    data = b""
    for _ in range(2000):
        data = field(1, field(5, field(6, data)))  # node, attribute, graph
    path = tmp_path / "x.onnx"
    path.write_bytes(field(7, data))
    with pytest.raises(BundleError, match="not a valid ONNX file"):
        check_self_contained(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("prefix_keys", [2, 2, 17, 16]), ("first_logits", [319]), ("mask", [64]), ("key_bias", [2, 15])],
)
def test_graph_output_of_another_shape(bundle: Path, name: str, shape: list[int]) -> None:
    model = make_graph(320)
    output = next(value for value in model.graph.output if value.name == name)
    output.CopyFrom(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    opened = graph_bundle(bundle, model)
    with pytest.raises(BundleError):
        VisionSession(opened)


def test_graph_without_the_bias_switch(bundle: Path) -> None:
    opened = graph_bundle(bundle, make_graph(320, bias=False))
    with pytest.raises(BundleError, match="bias_switch is missing"):
        VisionSession(opened)


def test_graph_with_an_unknown_input(bundle: Path) -> None:
    manifest = make_manifest(320, bias=False)
    seal(bundle, manifest)
    with pytest.raises(BundleError, match="unknown input 'bias_switch'"):
        VisionSession(Bundle.open(bundle))


@pytest.mark.parametrize(
    ("value", "decoder", "words"),
    [
        ("kernel", {}, "prefix_embeddings is missing"),
        ("nobody", {}, "prefill"),
        (True, {}, "prefill"),
        ("kernel", {"norm_position": "post"}, "the kernel does not take such a decoder"),
    ],
)
def test_prefill_that_does_not_fit(bundle: Path, value: Any, decoder: dict[str, Any], words: str) -> None:
    manifest = make_manifest(320)
    manifest["prefill"] = value
    manifest["decoder"].update(decoder)
    seal(bundle, manifest)
    with pytest.raises(BundleError, match=words):
        VisionSession(Bundle.open(bundle))


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


def test_graph_with_an_unknown_operator(bundle: Path) -> None:
    model = make_graph(320)
    model.graph.node[0].op_type = "Exec"
    opened = graph_bundle(bundle, model)
    with pytest.raises(BundleError, match="cannot load"):
        VisionSession(opened)


def test_numbers_that_are_not_finite(bundle: Path) -> None:
    model = make_graph(320)
    part = next(part for part in model.graph.initializer if part.name == "v0")
    part.CopyFrom(onnx.numpy_helper.from_array(np.full((2, 2, 16, 16), np.inf, np.float32), "v0"))
    session = VisionSession(graph_bundle(bundle, model))
    with pytest.raises(edge.ProcessingError, match="not finite"):
        session.run(np.ones((1, 3, 64, 64), np.float32), bias=True)


# ---- the tokenizer


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": "1.0"}', "[" * 10_000])
def test_tokenizer_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        TextDecoder(path, 320)


def test_tokenizer_larger_than_the_decoder(pristine: Path) -> None:
    with pytest.raises(BundleError, match="320 tokens"):
        TextDecoder(pristine / "tokenizer.json", 319)
