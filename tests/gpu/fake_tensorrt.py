# SPDX-License-Identifier: Apache-2.0
"""TensorRT's Python interface as far as it is used, with ONNX Runtime on the CPU behind it.

Tensor addresses are those of the stand-in's device memory, which the host can read, and work goes to its streams. It
checks the order of calls, and what a plan is: bytes that only the same "GPU" and version load.
"""

from __future__ import annotations

import ctypes
import types
from collections import Counter
from typing import Any

import numpy as np

calls: Counter[str] = Counter()
library: Any = None
"""The stand-in, for ctypes."""
_WORK = ctypes.CFUNCTYPE(None)


def module(version: str = "11.4.0", gpu: str = "one", *, records: bool = True) -> Any:
    """A module to put into ``sys.modules``; without `records` its engines cannot be recorded."""
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = version
    mark = f"plan of {version} for {gpu}\n".encode()

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class BuilderFlag:
        TF32 = "tf32"

    class DataType:
        FLOAT = "float"

    class TensorIOMode:
        INPUT, OUTPUT = "input", "output"

    class ILogger:
        def __init__(self) -> None:
            self.ready = True

    class IProgressMonitor:
        def __init__(self) -> None:
            self.ready = True

    class Error:
        def desc(self) -> str:
            return "no such\noperator"

    class Network:
        graph = b""

    class OnnxParser:
        def __init__(self, network: Network, logger: ILogger) -> None:
            assert logger.ready
            self.network, self.num_errors = network, 0

        def parse(self, data: bytes) -> bool:
            import onnx
            from edge_export.tensorrt_lint import lint

            if lint(onnx.load_from_string(data)):
                self.num_errors = 1
                return False
            self.network.graph = data
            return True

        def get_error(self, index: int) -> Error:
            return Error()

    class Config:
        builder_optimization_level = 3
        progress_monitor: Any = None
        cleared: tuple[str, ...] = ()

        def clear_flag(self, flag: str) -> None:
            self.cleared += (flag,)

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            assert logger.ready

        def create_network(self, flags: int) -> Network:
            assert flags == 2
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def build_serialized_network(self, network: Network, config: Config) -> bytearray:
            assert config.cleared == ("tf32",)
            calls["builds"] += 1
            monitor = config.progress_monitor
            assert monitor.ready
            monitor.phase_start("all", None, 2)
            for step in range(2):
                monitor.phase_start("part", "all", 3)
                for inner in range(3):
                    assert monitor.step_complete("part", inner)
                monitor.phase_finish("part")
                assert monitor.step_complete("all", step)
            monitor.phase_finish("all")
            return bytearray(mark + network.graph)

    class Context:
        def __init__(self, session: Any) -> None:
            self.session, self.addresses = session, {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream
            calls["started"] += 1
            library.cuda_host_get.restype = ctypes.c_int64
            if not records and library.cuda_host_get(b"recording"):
                return False
            self.work = [*getattr(self, "work", []), _WORK(self._run)]  # kept for replays
            library.cuda_host_enqueue(ctypes.c_void_p(stream), self.work[-1])
            return True

        def _run(self) -> None:
            calls["runs"] += 1

            def there(node: Any) -> np.ndarray:
                size = int(np.prod(node.shape))
                memory = (ctypes.c_float * size).from_address(self.addresses[node.name])
                return np.frombuffer(memory, np.float32).reshape(node.shape)

            feed = {node.name: there(node) for node in self.session.get_inputs()}
            outputs = self.session.get_outputs()
            for node, array in zip(outputs, self.session.run(None, feed), strict=True):
                there(node)[...] = array

    class Engine:
        def __init__(self, graph: bytes) -> None:
            import onnxruntime

            self.session = onnxruntime.InferenceSession(graph)
            self.nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
            self.num_io_tensors = len(self.nodes)

        def get_tensor_name(self, index: int) -> str:
            return str(self.nodes[index].name)

        def _node(self, name: str) -> Any:
            return next(node for node in self.nodes if node.name == name)

        def get_tensor_shape(self, name: str) -> list[int]:
            return list(self._node(name).shape)

        def get_tensor_dtype(self, name: str) -> str:
            return "float" if self._node(name).type == "tensor(float)" else "other"

        def get_tensor_mode(self, name: str) -> str:
            return "input" if name in {node.name for node in self.session.get_inputs()} else "output"

        def create_execution_context(self) -> Context:
            return Context(self.session)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            assert logger.ready
            calls["runtimes"] += 1

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            return Engine(plan[len(mark) :]) if plan.startswith(mark) else None

    for name, value in list(locals().items()):
        if isinstance(value, type):
            setattr(trt, name, value)
    return trt
