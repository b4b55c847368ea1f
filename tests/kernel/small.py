# SPDX-License-Identifier: Apache-2.0
"""Small random decoders for the kernel's tests, and the instruction sets to run them on."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
import twin
from numpy.typing import NDArray

import edge._kernel as kernel

ARM = platform.machine() in ("aarch64", "arm64")
ALL_ISAS = ("generic", "neon", "neondot") if ARM else ("generic", "avx2", "avx512", "avx512vnni")
DIGIT_ISAS = ("avx512vnni", "neondot")
"""Those that multiply bytes."""
isas = pytest.mark.parametrize("isa", ALL_ISAS)
precisions = pytest.mark.parametrize("precision", ["fp32", "int8", "int4", "mixed"])
caches = pytest.mark.parametrize("kv", ["fp32", "fp16", "int8"])

MATRICES = ("embed", "head", "qkv", "attn_out", "mlp_in", "mlp_out", "cross_q", "cross_out", "transform")


def need(isa: str) -> str:
    """The instruction set, or a skip that says why."""
    if isa not in kernel.isa_supported():
        pytest.skip(f"this machine lacks {isa} (it has {', '.join(kernel.isa_supported())})")
    return isa


def need_digits() -> str:
    """The instruction set that multiplies bytes, or a skip."""
    for isa in DIGIT_ISAS:
        if isa in kernel.isa_supported():
            return isa
    pytest.skip(f"this machine has no products of digits (it has {', '.join(kernel.isa_supported())})")


def quantise(w: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = (np.abs(w).max(1) / 127).astype(np.float32)
    return np.clip(np.rint(w / scale[:, None]), -127, 127).astype(np.int8), scale


def quantise4(w: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Groups of 32 columns to the nearest level, the largest value to an outermost one; packed."""
    groups = w.reshape(len(w), -1, 32)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(-1, keepdims=True), -1)
    scale = (largest / -0.9921875).astype(np.float16)
    nibbles = np.abs(groups[..., None] - scale[..., None].astype(np.float32) * twin.LEVELS).argmin(-1)
    return twin.pack4(nibbles.reshape(w.shape)), scale[..., 0]


def spec_of(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "layers": 3, "hidden": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp": 256, "vocab": 211,
        "max_positions": 320, "norm": "layernorm", "norm_position": "pre", "norm_eps": 1e-5,
        "activation": "gelu_tanh", "positions": "learned", "position_offset": 0, "tied_head": True,
    }  # fmt: skip
    return spec | changes


def weights_of(spec: dict[str, Any], precision: str = "fp32", seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random weights; "mixed" has matrices of each type side by side. Where a matrix has no whole groups int4
    means int8."""
    rng = np.random.default_rng(seed)
    weights: dict[str, NDArray[Any]] = {}

    def matrix(name: str, rows: int, cols: int, has_bias: bool) -> None:
        w = (rng.standard_normal((rows, cols)) * 1.5 / np.sqrt(cols)).astype(np.float32)
        kind = MATRICES.index(name.rsplit(".", 1)[-1])
        bits = {"fp32": 32, "int8": 8, "int4": 4, "mixed": (8, 32, 4)[kind % 3]}[precision]
        if bits == 4 and cols % 32 == 0:
            weights[f"{name}.weight"], weights[f"{name}.weight.scale"] = quantise4(w)
        elif bits < 32:
            weights[f"{name}.weight"], weights[f"{name}.weight.scale"] = quantise(w)
        else:
            weights[f"{name}.weight"] = w
        if has_bias:
            weights[f"{name}.bias"] = (rng.standard_normal(rows) * 0.1).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = (1 + 0.2 * rng.standard_normal(spec["hidden"])).astype(np.float32)
        weights[f"{name}.bias"] = (0.2 * rng.standard_normal(spec["hidden"])).astype(np.float32)

    d, f = spec["hidden"], spec["mlp"]
    matrix("embed", spec["vocab"], d, False)
    weights["positions.weight"] = (0.3 * rng.standard_normal((spec["max_positions"], d))).astype(np.float32)
    if spec.get("token_types"):
        weights["types.weight"] = (0.5 * rng.standard_normal((spec["token_types"], d))).astype(np.float32)
    if spec.get("embed_norm"):
        norm("embed_norm")
    for i in range(spec["layers"]):
        norm(f"layers.{i}.attn_norm")
        matrix(f"layers.{i}.qkv", 3 * d, d, True)
        matrix(f"layers.{i}.attn_out", d, d, True)
        if spec.get("cross_keys"):
            norm(f"layers.{i}.cross_norm")
            matrix(f"layers.{i}.cross_q", d, d, True)
            matrix(f"layers.{i}.cross_out", d, d, True)
        norm(f"layers.{i}.mlp_norm")
        matrix(f"layers.{i}.mlp_in", f, d, True)
        matrix(f"layers.{i}.mlp_out", d, f, True)
    if spec["norm_position"] == "pre":
        norm("final_norm")
    if spec.get("head_transform"):
        matrix("transform", d, d, True)
        norm("transform_norm")
    if not spec["tied_head"]:
        matrix("head", spec["vocab"], d, spec.get("head_bias", False))
    elif spec.get("head_bias"):
        weights["head.bias"] = (rng.standard_normal(spec["vocab"]) * 0.5).astype(np.float32)
    return weights


def prefix_of(spec: dict[str, Any], length: int, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Random keys, values, first logits, a soft and a strict bias, and a long one for 20 text keys more."""
    rng = np.random.default_rng(seed)
    shape = (spec["layers"], spec["heads"], length, spec["head_dim"])
    soft = rng.random((spec["layers"], length), dtype=np.float32) * 2
    strict = np.where(rng.random(soft.shape) < 0.6, np.finfo(np.float32).min, soft).astype(np.float32)
    prefix = {
        "keys": rng.standard_normal(shape, dtype=np.float32),
        "values": rng.standard_normal(shape, dtype=np.float32),
        "soft": soft,
        "strict": strict,
        "first_logits": 3 * rng.standard_normal(spec["vocab"], dtype=np.float32),
    }
    return prefix | {"long": rng.random((spec["layers"], length + 20), dtype=np.float32) * 2}


def decoder_of(
    spec: dict[str, Any], weights: dict[str, NDArray[Any]], prefix: dict[str, Any], bias: str | None = "soft",
    **options: Any,
) -> kernel.Decoder:  # fmt: skip
    """A kernel decoder with its prefix set."""
    decoder = kernel.Decoder(spec, weights, **({"threads": 2} | options))
    decoder.set_prefix(prefix["keys"], prefix["values"], prefix[bias] if bias else None)
    return decoder
