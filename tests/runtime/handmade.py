# SPDX-License-Identifier: Apache-2.0
"""A tiny bundle written by hand, without torch or the exporter: for tests of everything around the model.

Its graph is arithmetic on pooled pixels and its decoder has random weights, so it writes noise; but every
door (manifest, graph, weights, tokenizer) is the real one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE, PATCH, LAYERS, HEADS, HEAD_DIM, MLP, POSITIONS = 64, 16, 2, 2, 16, 64, 128
HIDDEN = HEADS * HEAD_DIM
GRID = SIZE // PATCH
SAMPLE = (
    "The heart size is normal. The lungs are clear without focal consolidation. No pleural effusion or "
    "pneumothorax is seen. There is a small right pleural effusion. Dr. ___ was told at 10:30 a.m. today."
)


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE] * 4, trainer)
    return tokenizer


def make_graph(vocab: int, *, registers: int = 0, bias: bool = True, seed: int = 0) -> onnx.ModelProto:
    """The vision graph; `registers` extra prefix keys before the patches."""
    rng = np.random.default_rng(seed)
    patches, prefix = GRID * GRID, GRID * GRID + registers

    def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ascontiguousarray(array), name)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    parts = [
        constant("axes", np.array([1])),
        constant("flat", np.array([patches])),
        constant("column", np.array([1, 1, prefix, 1])),
        constant("pads", np.array([registers, 0])),
        constant("k0", normal(LAYERS, HEADS, prefix, HEAD_DIM)),
        constant("v0", normal(LAYERS, HEADS, prefix, HEAD_DIM)),
        constant("w", normal(vocab, patches)),
        constant("one", np.ones(1, np.float32)),
        constant("zero", np.zeros(1, np.float32)),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["gray"], keepdims=1),
        helper.make_node("AveragePool", ["gray"], ["pooled"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["pooled", "flat"], ["z"]),
        helper.make_node("Pad", ["z", "pads", "zero"], ["zp"]),
        helper.make_node("Reshape", ["zp", "column"], ["zc"]),
        helper.make_node("Add", ["k0", "zc"], ["prefix_keys"]),
        helper.make_node("Mul", ["v0", "zc"], ["prefix_values"]),
        helper.make_node("MatMul", ["w", "z"], ["plain_logits"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, SIZE, SIZE])]
    cache = [LAYERS, HEADS, prefix, HEAD_DIM]
    outputs = [
        helper.make_tensor_value_info("prefix_keys", TensorProto.FLOAT, cache),
        helper.make_tensor_value_info("prefix_values", TensorProto.FLOAT, cache),
        helper.make_tensor_value_info("first_logits", TensorProto.FLOAT, [vocab]),
    ]
    if bias:
        parts += [
            constant("layer", np.linspace(1.0, 2.0, LAYERS, dtype=np.float32)[:, None]),
            constant("wb", normal(vocab, patches)),
            constant("square", np.array([2 * GRID, 2 * GRID])),
            constant("row", np.array([1, prefix])),
        ]
        half = PATCH // 2
        nodes += [
            helper.make_node("AveragePool", ["gray"], ["fine"], kernel_shape=[half, half], strides=[half, half]),
            helper.make_node("Greater", ["fine", "zero"], ["inside"]),
            helper.make_node("Cast", ["inside"], ["mask4"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["mask4", "square"], ["mask"]),
            helper.make_node("AveragePool", ["mask4"], ["coarse"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Reshape", ["coarse", "flat"], ["b"]),
            helper.make_node("Pad", ["b", "pads", "zero"], ["bp"]),
            helper.make_node("Reshape", ["bp", "row"], ["brow"]),
            helper.make_node("Mul", ["layer", "brow"], ["key_bias"]),
            helper.make_node("MatMul", ["wb", "b"], ["bias_logits"]),
            helper.make_node("Mul", ["bias_logits", "bias_switch"], ["switched"]),
            helper.make_node("Add", ["plain_logits", "switched"], ["first_logits"]),
        ]
        inputs.append(helper.make_tensor_value_info("bias_switch", TensorProto.FLOAT, [1]))
        outputs += [
            helper.make_tensor_value_info("key_bias", TensorProto.FLOAT, [LAYERS, prefix]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [2 * GRID, 2 * GRID]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["plain_logits"], ["first_logits"]))
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, parts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def make_weights(vocab: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    ones, zeros = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)
    weights = {
        "embed.weight": normal(vocab, HIDDEN),
        "positions.weight": normal(POSITIONS, HIDDEN),
        "final_norm.weight": ones,
        "final_norm.bias": zeros,
    }
    for i in range(LAYERS):
        for norm in ("attn_norm", "mlp_norm"):
            weights[f"layers.{i}.{norm}.weight"] = ones
            weights[f"layers.{i}.{norm}.bias"] = zeros
        shapes = {"qkv": (3 * HIDDEN, HIDDEN), "attn_out": (HIDDEN, HIDDEN)}
        shapes |= {"mlp_in": (MLP, HIDDEN), "mlp_out": (HIDDEN, MLP)}
        for name, shape in shapes.items():
            weights[f"layers.{i}.{name}.weight"] = normal(*shape)
            weights[f"layers.{i}.{name}.bias"] = normal(shape[0])
    return weights


def make_manifest(vocab: int, *, registers: int = 0, bias: bool = True) -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "handmade",
        "family": "lana",
        "precision": "fp32",
        "producer": "edge-report tests",
        "intended_use": "Tests only. Not a medical device.",
        "notice": None,
        "synthetic": False,
        "image": {
            "height": SIZE,
            "width": SIZE,
            "resize": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "intensity": {"mode": "minmax", "low": 0.5, "high": 99.5, "equalize": False},
        },
        "prefix": {"length": GRID * GRID + registers, "grid": [GRID, GRID], "skip_tokens": 5 - registers},
        "bias": {
            "kind": "gaussian" if bias else "none",
            "strength": 1.0,
            "rows": "all" if bias else "none",
            "span": "prefix",
        },
        "decoder": {
            "layers": LAYERS,
            "hidden": HIDDEN,
            "heads": HEADS,
            "kv_heads": HEADS,
            "head_dim": HEAD_DIM,
            "mlp": MLP,
            "vocab": vocab,
            "max_positions": POSITIONS,
            "norm": "layernorm",
            "norm_position": "pre",
            "norm_eps": 1e-5,
            "activation": "gelu_tanh",
            "positions": "learned",
            "position_offset": 0,
            "tied_head": True,
        },
        "generation": {
            "max_new_tokens": 24,
            "repetition_penalty": 1.2,
            "stop_ids": [],
            "suppressed_ids": [0],
            "begin_ids": [],
            "cut_at_sentence": False,
            "evidence_layers": [1],
        },
        "graphs": {"vision": "vision.onnx"},
        "weights": "decoder.safetensors",
        "tokenizer": "tokenizer.json",
        "labels": [],
    }


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``manifest.json`` with the sizes and hashes of the files that are there."""
    manifest = copy.deepcopy(manifest)
    manifest["files"] = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json" and path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


CODING: dict[str, Any] = {
    "coding_version": 1,
    "language": "en",
    "negation": {"before": ["no", "none", "without"], "after": ["not seen"], "ends": ["but"]},
    "hedges": ["possible"],
    "verbs": ["is", "are"],
    "ignored": ["pericardial effusion"],
    "attributes": {
        "side": {"words": {"left": ["left"], "right": ["right"], "both": ["left", "right"]}, "exclusive": False},
        "size": {"words": {"small": ["small"], "large": ["large"]}, "exclusive": True},
    },
    "findings": {
        "cardiomegaly": {"phrases": ["cardiomegaly", "heart .. enlarged"], "attributes": [], "default": {}},
        "effusion": {
            "phrases": ["effusion", "effusions"],
            "attributes": ["side", "size"],
            "default": {"size": "small"},
        },
    },
    "labels": {
        "big_heart": {
            "finding": "cardiomegaly",
            "values": {},
            "code": ["8186001", "SCT", "Cardiomegaly"],
            "sites": [{"place": ["80891009", "SCT", "Heart"], "laterality": None}],
            "evaluations": [],
        },
        **{
            f"{size}_{side}_effusion": {
                "finding": "effusion",
                "values": {"side": side, "size": size},
                "code": ["60046008", "SCT", "Pleural effusion"],
                "sites": [{"place": ["3120008", "SCT", "Pleura"], "laterality": laterality}],
                "evaluations": [{"name": ["112025", "DCM", "Size Descriptor"], "value": value}],
            }
            for side, laterality in (("left", ["7771000", "SCT", "Left"]), ("right", ["24028007", "SCT", "Right"]))
            for size, value in (("small", ["255507004", "SCT", "Small"]), ("large", ["255509001", "SCT", "Large"]))
        },
    },
}
"""A table of coded findings, small but with everything that one can hold."""


def make_bundle(
    folder: Path, *, registers: int = 0, bias: bool = True, coding: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write a bundle; `changes` replace sections of the manifest, e.g. ``generation={"stop_ids": [3]}``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    vocab = tokenizer.get_vocab_size()
    tokenizer.save(str(folder / "tokenizer.json"))
    onnx.save(make_graph(vocab, registers=registers, bias=bias), folder / "vision.onnx")
    save_file(make_weights(vocab), folder / "decoder.safetensors")
    manifest = make_manifest(vocab, registers=registers, bias=bias)
    if coding is not None:
        (folder / "coding.json").write_text(json.dumps(coding))
        manifest |= {"coding": "coding.json", "labels": list(coding["labels"])}
    for key, value in changes.items():
        if isinstance(value, dict):
            manifest[key].update(value)
        else:
            manifest[key] = value
    seal(folder, manifest)
    return folder


def chest_picture(size: int = 96) -> np.ndarray:
    """A grey picture [size, size] with two bright ovals, so that the mask lies on both sides."""
    y, x = np.mgrid[0:size, 0:size] / size
    lungs = (((x - 0.28) / 0.17) ** 2 + ((y - 0.5) / 0.33) ** 2 < 1) | (
        ((x - 0.72) / 0.17) ** 2 + ((y - 0.5) / 0.33) ** 2 < 1
    )
    texture = (np.sin(40 * x) * np.cos(30 * y) + 1) * 12
    return (30 + 170 * lungs + texture).astype(np.uint8)
