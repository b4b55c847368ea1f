# SPDX-License-Identifier: Apache-2.0
"""The decoder in ONNX Runtime, as a peer: grouped-query attention with one cache that is written in place, arrays bound
to the device, and the step recorded as a CUDA graph where ONNX Runtime takes that.

Whether it does is found out, and the name of the peer says what it was.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ..peers.onnx_decoder import build
from .peers import random_cache, row

NAME = "ONNX Runtime"
PLAIN = "operator by operator"
RECORDED = "as a CUDA graph"


class Step:
    """A session and its arrays, all of which keep their addresses.

    Parameters
    ----------
    graph : bytes
        Of :func:`edge_bench.peers.onnx_decoder.build`, with `room`.
    spec : dict
    cache : pair of ndarray
        Keys and values before the text.
    room : int
    device : {"cuda", "cpu"}
    record : bool
        As a CUDA graph.

    Raises
    ------
    RuntimeError
        ONNX Runtime has no such provider, or fell back to another.
    """

    def __init__(self, graph: bytes, spec: dict[str, Any], cache: Any, room: int, device: str, record: bool) -> None:
        import numpy as np
        import onnxruntime as ort

        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in ort.get_available_providers():
            raise RuntimeError(f"this ONNX Runtime has no {provider}")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        asked: list[Any] = [(provider, {"enable_cuda_graph": "1"}) if record else provider]
        self._session = ort.InferenceSession(graph, options, providers=asked)
        if provider not in self._session.get_providers():
            raise RuntimeError(f"it fell back to {', '.join(self._session.get_providers())}")
        layers, self._first = spec["layers"], cache[0].shape[2]
        kind = np.float16 if device == "cuda" else np.float32
        binding = self._session.io_binding()
        there = ort.OrtValue.ortvalue_from_numpy
        self.cache = []
        """Keys and values by turns, [1, heads, room, head_dim] each."""
        for i in range(layers):
            for part, given in zip(("key", "value"), cache, strict=True):
                array = np.zeros((1, spec["kv_heads"], room, spec["head_dim"]), kind)
                array[0, :, : self._first] = given[i]
                value = there(array, device, 0)
                self.cache.append(value)
                binding.bind_ortvalue_input(f"past.{i}.{part}", value)
                binding.bind_ortvalue_output(f"present.{i}.{part}", value)  # the same: nothing is copied
        self._ids, self._position, self._next = (there(np.zeros((1, 1), np.int64), device, 0) for _ in range(3))
        binding.bind_ortvalue_input("ids", self._ids)
        binding.bind_ortvalue_input("positions", self._position)
        binding.bind_ortvalue_output("next", self._next)
        self._binding = binding

    def write(self, tokens: int) -> tuple[float, list[int]]:
        """Microseconds per token of a greedy text from the id 0, and its ids; the rows of an earlier one are lost."""
        import numpy as np

        ids, text = np.zeros((1, 1), np.int64), []
        position = np.zeros((1, 1), np.int64)
        begin = perf_counter()
        for at in range(tokens):
            position[0, 0] = self._first + at
            self._ids.update_inplace(ids)
            self._position.update_inplace(position)
            self._session.run_with_iobinding(self._binding)
            ids = self._next.numpy()
            text.append(int(ids[0, 0]))
        return (perf_counter() - begin) / tokens * 1e6, text


def onnxruntime_peer(spec: dict[str, Any], weights: Any, *, prefix: int, tokens: int, repeat: int, device: str) -> Any:
    """Timed as it runs best: recorded, if the texts of a recorded and an unrecorded session are the same."""
    import onnxruntime as ort

    room = prefix + tokens
    graph = build(spec, weights, half=device == "cuda", room=room).SerializeToString()
    cache = random_cache(spec, prefix)
    step = Step(graph, spec, cache, room, device, record=False)
    _, want = step.write(tokens)
    how = PLAIN
    if device == "cuda":
        try:
            recorded = Step(graph, spec, cache, room, device, record=True)
            for _ in range(2):  # the first one records
                if recorded.write(tokens)[1] != want:
                    raise RuntimeError("a recorded step writes another text")
            step, how = recorded, RECORDED
        except Exception as error:
            how = f"{PLAIN}: recording failed, {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    runs = [step.write(tokens) for _ in range(repeat + 1)][1:]
    name = f"{NAME} {'CUDA' if device == 'cuda' else 'CPU'}, GroupQueryAttention, {how}"
    return row(name, [taken for taken, _ in runs], runs[-1][1], device, ort.__version__)
