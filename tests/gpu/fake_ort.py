# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime with a CUDA provider, as far as it is used, over the real one on the CPU.

Arrays on the "device" are the host's (the stand-in is told to take any address). A session that was asked to record a
CUDA graph behaves like a recorded one: from its second run on it reads and writes the addresses of its first, whatever
it is given.
"""

from __future__ import annotations

import types
from collections import Counter
from typing import Any

import numpy as np
import pytest

real = pytest.importorskip("onnxruntime", reason="no ONNX Runtime here")

NAMES = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class Value:
    """An OrtValue on the device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def update_inplace(self, data: np.ndarray) -> None:
        assert data.flags.c_contiguous
        assert data.shape == self.array.shape
        self.array[...] = data

    def numpy(self) -> np.ndarray:
        return self.array.copy()

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def device_name(self) -> str:
        return "cuda"


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, np.ndarray | Value] = {}
        self.outputs: dict[str, Value | None] = {}

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.outputs[name] = value

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.inputs[name] = array

    def bind_output(self, name: str, device: str, number: int) -> None:
        assert number == 0
        self.outputs[name] = None

    def synchronize_inputs(self) -> None:
        pass

    def synchronize_outputs(self) -> None:
        pass

    def get_outputs(self) -> list[Value | None]:
        return list(self.outputs.values())


def module(*, refuses: str = "", calls: Counter[str]) -> Any:
    """Functions to put into ``onnxruntime``.

    Parameters
    ----------
    refuses : {"", "session", "values", "recording", "replay", "whole", "memory"}
        Where the recording fails; ``whole``: every session that may not use the CPU; ``memory``: every one on the GPU.
    calls : Counter
        Counts ``sessions``, ``recorded``, ``replayed`` and ``plain`` runs.
    """

    class Session:
        def __init__(self, path: str, options: Any, providers: list[Any], enable_fallback: int) -> None:
            assert not enable_fallback, "a GPU that fails must not become the CPU"
            captures = False
            if isinstance(providers[0], tuple):
                name, asked = providers[0]
                assert name == NAMES[0]
                captures = asked == {"use_tf32": "0", "enable_cuda_graph": "1"}
                assert captures or asked == {"use_tf32": "0"}
                if refuses == "session" and captures:
                    raise RuntimeError("nodes have not been partitioned to the CUDAExecutionProvider")
                if refuses == "whole" and len(providers) == 1:
                    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
                    raise RuntimeError("a node is on the CPU")
                if refuses == "memory":
                    raise RuntimeError(f"CUDA failure 2: out of memory in {path}")
            calls["sessions"] += 1
            self.captures, self.addresses = captures, None
            quiet = real.SessionOptions()
            quiet.log_severity_level = 4
            self.real = real_session(path, quiet, providers=NAMES[1:])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def get_providers(self) -> list[str]:
            return NAMES

        def io_binding(self) -> Binding:
            return Binding()

        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            assert not self.captures, "a recorded graph has no arguments"
            calls["plain"] += 1
            return list(self.real.run(names, feed))

        def run_with_iobinding(self, binding: Binding) -> None:
            if self.captures:
                values = {**binding.inputs, **binding.outputs}
                assert all(isinstance(value, Value) for value in values.values())
                addresses = {name: value.data_ptr() for name, value in values.items()}  # type: ignore[union-attr]
                if self.addresses is None:
                    if refuses == "recording":
                        raise RuntimeError("operation not permitted when stream is capturing")
                    self.addresses = addresses
                    calls["recorded"] += 1
                elif refuses == "replay":
                    raise RuntimeError("the replay failed")
                else:
                    calls["replayed"] += 1
                assert self.addresses == addresses
            else:
                calls["plain"] += 1
            feed = {name: v.array if isinstance(v, Value) else v for name, v in binding.inputs.items()}
            for name, array in zip(binding.outputs, self.real.run(list(binding.outputs), feed), strict=True):
                held = binding.outputs[name]
                if held is None:
                    binding.outputs[name] = Value(array)
                else:
                    held.array[...] = array

    real_session = real.InferenceSession

    def made(shape: list[int], kind: Any, device: str, number: int) -> Value:
        if refuses == "values":
            raise RuntimeError("out of memory")
        assert (kind, device, number) == (np.float32, "cuda", 0)
        return Value(np.full(shape, np.nan, np.float32))

    def preload(*, msvc: bool) -> None:
        assert not msvc
        calls["loaded"] += 1
        print("Failed to load libcudnn.so.9")
        raise OSError("in a library that is broken")

    return {
        "InferenceSession": Session,
        "OrtValue": types.SimpleNamespace(ortvalue_from_shape_and_type=made),
        "get_available_providers": lambda: NAMES,
        "preload_dlls": preload,
    }
