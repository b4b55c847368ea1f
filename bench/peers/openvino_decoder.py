# SPDX-License-Identifier: Apache-2.0
"""The decoder as an OpenVINO model that keeps its cache as state, in the form its CPU plugin fuses.

Weights are float32, int8 with a scale per output row, or int4 with a scale per 32 inputs; the compressed ones
are widened by the plugin's own matrix products.
"""

from __future__ import annotations

from typing import Any

from .gpt2 import SPEC, weights

GROUP = 32


def build(kind: str) -> Any:
    """A model of ``ids`` [1, n], ``positions`` [1, n], ``mask`` [1, 1, n, total] (0 or lowest) and ``beam`` [1],
    to ``logits`` [1, 1, vocab].

    Parameters
    ----------
    kind : {"fp32", "int8", "int4"}
    """
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    given = weights()

    def matrix(array: Any) -> Any:
        array = np.ascontiguousarray(array, np.float32)
        if kind == "fp32":
            return ops.constant(array)
        rows, columns = array.shape
        if kind == "int8":
            scale = np.abs(array).max(axis=1, keepdims=True) / 127
            stored = ops.constant(np.rint(array / scale).astype(np.int8))
            return ops.multiply(ops.convert(stored, "f32"), ops.constant(scale))
        grouped = array.reshape(rows, columns // GROUP, GROUP)
        scale = np.abs(grouped).max(axis=2, keepdims=True) / 7
        values = np.rint(grouped / scale).astype(np.int8)
        packed = ov.op.Constant(ov.Type.i4, ov.Shape(list(grouped.shape)), values.ravel().tolist())
        wide = ops.multiply(ops.convert(packed, "f32"), ops.constant(scale))
        return ops.reshape(wide, ops.constant(np.array([rows, columns])), False)

    def linear(value: Any, name: str) -> Any:
        product = ops.matmul(value, matrix(given[f"{name}.weight"]), False, True)
        return ops.add(product, ops.constant(np.array(given[f"{name}.bias"])[None, None]))

    def norm(value: Any, name: str) -> Any:
        axes = ops.constant(np.array([-1]))
        flat = ops.mvn(value, axes, True, SPEC["norm_eps"], "inside_sqrt")
        scaled = ops.multiply(flat, ops.constant(np.array(given[f"{name}.weight"])[None, None]))
        return ops.add(scaled, ops.constant(np.array(given[f"{name}.bias"])[None, None]))

    ids = ops.parameter([1, -1], ov.Type.i64, name="ids")
    positions = ops.parameter([1, -1], ov.Type.i64, name="positions")
    mask = ops.parameter([1, 1, -1, -1], ov.Type.f32, name="mask")
    beam = ops.parameter([1], ov.Type.i32, name="beam")
    axis = ops.constant(np.array(0))
    embedding = ops.gather(ops.constant(np.array(given["embed.weight"])), ids, axis)
    hidden = ops.add(embedding, ops.gather(ops.constant(np.array(given["positions.weight"])), positions, axis))
    heads = ops.constant(np.array([0, 0, SPEC["heads"], SPEC["head_dim"]]))
    together = ops.constant(np.array([0, 0, SPEC["hidden"]]))
    turned = ops.constant(np.array([0, 2, 1, 3]))
    sinks = []

    def cached(value: Any, name: str) -> Any:
        shape = [1, SPEC["heads"], -1, SPEC["head_dim"]]
        empty = ops.constant(np.zeros((1, SPEC["heads"], 0, SPEC["head_dim"]), np.float32))
        past = ops.gather(ops.read_value(empty, name, ov.Type.f32, ov.PartialShape(shape)), beam, axis)
        joined = ops.concat([past, value], 2)
        sinks.append(ops.assign(joined, name))
        return joined

    for i in range(SPEC["layers"]):
        base = f"layers.{i}"
        qkv = linear(norm(hidden, f"{base}.attn_norm"), f"{base}.qkv")
        query, key, value = (
            ops.transpose(ops.reshape(part, heads, True), turned)
            for part in ops.split(qkv, ops.constant(np.array(2)), 3).outputs()
        )
        key, value = cached(key, f"key.{i}"), cached(value, f"value.{i}")
        mixed = ops.scaled_dot_product_attention(query, key, value, mask)
        flat = ops.reshape(ops.transpose(mixed, turned), together, True)
        hidden = ops.add(hidden, linear(flat, f"{base}.attn_out"))
        inner = ops.gelu(linear(norm(hidden, f"{base}.mlp_norm"), f"{base}.mlp_in"), "tanh")
        hidden = ops.add(hidden, linear(inner, f"{base}.mlp_out"))
    last = ops.gather(hidden, ops.constant(np.array([-1])), ops.constant(np.array(1)))
    logits = ops.matmul(norm(last, "final_norm"), matrix(given["embed.weight"]), False, True)
    result = ops.result(logits, name="logits")
    return ov.Model([result], sinks, [ids, positions, mask, beam], "decoder")
