# SPDX-License-Identifier: Apache-2.0
"""The decoder as one ONNX graph for ONNX Runtime, with the operators its own GPT exporters aim at.

``GroupQueryAttention`` writes into one cache buffer in place, so nothing is copied per step; prefill and decode
are the same graph; logits are those of the last row only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .gpt2 import SPEC, weights

OPSET = 20


def cache_names(what: str, layers: int | None = None) -> list[str]:
    """``past`` or ``present`` tensors, [1, heads, positions, head_dim], keys and values by turns."""
    return [
        f"{what}.{i}.{part}" for i in range(SPEC["layers"] if layers is None else layers) for part in ("key", "value")
    ]


def build(
    spec: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    room: int | None = None,
) -> Any:
    """An ONNX model: ``ids`` [1, n], ``positions`` [1, n], ``last`` [1] (keys before the last one), ``total`` [1] and
    the cache to ``logits`` [1, 1, vocab] and the cache.

    Parameters
    ----------
    spec : mapping, optional
        Decoder spec; tied head. Default: the reference shape's.
    given : mapping of str to ndarray, optional
        float32 weights; default: the reference shape's.
    half : bool
        In float16.
    room : int, optional
        Rows of the cache. The graph then has fixed shapes, as a GPU needs to record it: ``ids`` [1, 1] and
        ``positions`` [1, 1] to ``next`` [1, 1], the greedy id, and the cache.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    spec = SPEC if spec is None else spec
    given = weights() if given is None else given
    kind, element = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, array: Any) -> str:
        array = np.ascontiguousarray(array)
        if array.dtype == np.float32:
            array = array.astype(kind)
        constants.append(numpy_helper.from_array(array, name))
        return name

    def node(kind: str, inputs: list[str], outputs: str | list[str], domain: str = "", **attributes: Any) -> str:
        names = [outputs] if isinstance(outputs, str) else outputs
        nodes.append(helper.make_node(kind, inputs, names, names[0], domain=domain, **attributes))
        return names[0]

    def norm(value: str, name: str) -> str:
        scale, bias = (constant(f"{name}.{part}", given[f"{name}.{part}"]) for part in ("weight", "bias"))
        return node("LayerNormalization", [value, scale, bias], f"{name}.out", epsilon=spec["norm_eps"])

    def linear(value: str, name: str) -> str:
        product = node("MatMul", [value, constant(f"{name}.weight", given[f"{name}.weight"].T)], f"{name}.product")
        return node("Add", [product, constant(f"{name}.bias", given[f"{name}.bias"])], f"{name}.out")

    gelu = "tanh" if spec["activation"] == "gelu_tanh" else "none"
    embedded = node("Gather", [constant("embed", given["embed.weight"]), "ids"], "embedded")
    places = given["positions.weight"][spec["position_offset"] :]
    placed = node("Gather", [constant("places", places), "positions"], "placed")
    last, total = "last", "total"
    if room is not None:
        flat = node("Reshape", ["positions", constant("one", np.array([1], np.int64))], "flat")
        last = node("Cast", [flat], "last_key", to=TensorProto.INT32)
        total = constant("room", np.array([room], np.int32))  # no more than an upper bound; the processor keeps it
    hidden = node("Add", [embedded, placed], "hidden")
    for i in range(spec["layers"]):
        base = f"layers.{i}"
        qkv = linear(norm(hidden, f"{base}.attn_norm"), f"{base}.qkv")
        past, present = ([f"{what}.{i}.key", f"{what}.{i}.value"] for what in ("past", "present"))
        mixed = node(
            "GroupQueryAttention",
            [qkv, "", "", *past, last, total],
            [f"{base}.mixed", *present],
            domain="com.microsoft",
            num_heads=spec["heads"],
            kv_num_heads=spec["kv_heads"],
        )
        hidden = node("Add", [hidden, linear(mixed, f"{base}.attn_out")], f"{base}.middle")
        inner = linear(norm(hidden, f"{base}.mlp_norm"), f"{base}.mlp_in")
        active = node("Gelu", [inner], f"{base}.active", approximate=gelu)
        hidden = node("Add", [hidden, linear(active, f"{base}.mlp_out")], f"{base}.hidden")
    final = node("Gather", [hidden, constant("minus_one", np.array([-1], np.int64))], "last_row", axis=1)
    node("MatMul", [norm(final, "final_norm"), constant("head", given["embed.weight"].T)], "logits")
    if room is not None:
        node("ArgMax", ["logits"], "next", axis=2, keepdims=0)

    rows = "rows" if room is None else 1
    cache = [1, spec["kv_heads"], "room" if room is None else room, spec["head_dim"]]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, rows]) for name in ("ids", "positions")]
    if room is None:
        inputs += [helper.make_tensor_value_info(name, TensorProto.INT32, [1]) for name in ("last", "total")]
        outputs = [helper.make_tensor_value_info("logits", element, [1, 1, spec["vocab"]])]
    else:
        outputs = [helper.make_tensor_value_info("next", TensorProto.INT64, [1, 1])]
    layers = spec["layers"]
    inputs += [helper.make_tensor_value_info(name, element, cache) for name in cache_names("past", layers)]
    outputs += [helper.make_tensor_value_info(name, element, cache) for name in cache_names("present", layers)]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write(path: Path) -> None:
    """Write the float32 graph."""
    import onnx

    onnx.save(build(), str(path))
