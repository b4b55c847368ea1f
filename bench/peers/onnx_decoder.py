# SPDX-License-Identifier: Apache-2.0
"""The decoder as one ONNX graph for ONNX Runtime, with the operators its own GPT exporters aim at.

``GroupQueryAttention`` writes into one cache buffer in place, so nothing is copied per step; prefill and decode
are the same graph; logits are those of the last row only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .gpt2 import SPEC, weights

OPSET = 20


def cache_names(what: str) -> list[str]:
    """``past`` or ``present`` tensors, [1, heads, positions, head_dim], keys and values by turns."""
    return [f"{what}.{i}.{part}" for i in range(SPEC["layers"]) for part in ("key", "value")]


def build() -> Any:
    """An ONNX model in float32: ``ids`` [1, n], ``positions`` [1, n], ``last`` [1] (keys before the last one),
    ``total`` [1] and the cache to ``logits`` [1, 1, vocab] and the cache."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    given = weights()
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, array: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes: Any) -> str:
        names = [outputs] if isinstance(outputs, str) else outputs
        nodes.append(helper.make_node(kind, inputs, names, names[0], domain=domain, **attributes))
        return names[0]

    def norm(value: str, name: str) -> str:
        scale, bias = (constant(f"{name}.{part}", given[f"{name}.{part}"]) for part in ("weight", "bias"))
        return node("LayerNormalization", [value, scale, bias], f"{name}.out", epsilon=SPEC["norm_eps"])

    def linear(value: str, name: str) -> str:
        product = node("MatMul", [value, constant(f"{name}.weight", given[f"{name}.weight"].T)], f"{name}.product")
        return node("Add", [product, constant(f"{name}.bias", given[f"{name}.bias"])], f"{name}.out")

    embedded = node("Gather", [constant("embed", given["embed.weight"]), "ids"], "embedded")
    placed = node("Gather", [constant("places", given["positions.weight"]), "positions"], "placed")
    hidden = node("Add", [embedded, placed], "hidden")
    for i in range(SPEC["layers"]):
        base = f"layers.{i}"
        qkv = linear(norm(hidden, f"{base}.attn_norm"), f"{base}.qkv")
        past, present = ([f"{what}.{i}.key", f"{what}.{i}.value"] for what in ("past", "present"))
        mixed = node(
            "GroupQueryAttention",
            [qkv, "", "", *past, "last", "total"],
            [f"{base}.mixed", *present],
            domain="com.microsoft",
            num_heads=SPEC["heads"],
            kv_num_heads=SPEC["kv_heads"],
        )
        hidden = node("Add", [hidden, linear(mixed, f"{base}.attn_out")], f"{base}.middle")
        inner = linear(norm(hidden, f"{base}.mlp_norm"), f"{base}.mlp_in")
        active = node("Gelu", [inner], f"{base}.active", approximate="tanh")
        hidden = node("Add", [hidden, linear(active, f"{base}.mlp_out")], f"{base}.hidden")
    last = node("Gather", [hidden, constant("minus_one", np.array([-1], np.int64))], "last_row", axis=1)
    node("MatMul", [norm(last, "final_norm"), constant("head", given["embed.weight"].T)], "logits")

    cache = [1, SPEC["kv_heads"], "room", SPEC["head_dim"]]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, "rows"]) for name in ("ids", "positions")]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT32, [1]) for name in ("last", "total")]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in cache_names("past")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, SPEC["vocab"]])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in cache_names("present")]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write(path: Path) -> None:
    """Write the float32 graph."""
    import onnx

    onnx.save(build(), str(path))
