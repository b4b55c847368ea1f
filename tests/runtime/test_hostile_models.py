# SPDX-License-Identifier: Apache-2.0
"""Weights, graphs and tokenizers made to do harm, or merely damaged, in bundles whose hashes are right. Each is a
BundleError."""

from __future__ import annotations

import json
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
from edge.onnxfile import check_self_contained
from edge.text import TextDecoder
from edge.vision import VisionSession

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
