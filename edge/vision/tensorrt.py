# SPDX-License-Identifier: Apache-2.0
"""A vision graph in TensorRT (10.12 and later, and 11): strongly typed, its plan built on this machine.

The native interface, without ONNX Runtime. Device memory and the stream come from the CUDA decoding library, which
has to be there for a second reason: it asks the driver first, because TensorRT without one ends the process.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, DeviceError, MissingRuntime, ProcessingError
from edge.vision.backend import DeviceArray, Lending, Port
from edge.vision.capture import tell_uncaptured, wanted
from edge.vision.plans import PlanCache
from edge.vision.stored import with_floats

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge.cuda import CudaDevice

log = logging.getLogger("edge")

OLDEST = (10, 12)
OPTIMIZATION_LEVEL = 3
OPTIONS = f"strongly typed, no TF32, level {OPTIMIZATION_LEVEL}"
"""Everything about a build that changes its plan."""
_INSTALL = 'pip install "edge-report[tensorrt]"'


def import_runtime() -> Any:
    """The module ``tensorrt``.

    Raises
    ------
    MissingRuntime
        It is not installed, or older than 10.12.
    """
    try:
        import tensorrt
    except ImportError:
        raise MissingRuntime(f"TensorRT is not installed: {_INSTALL}") from None
    found = re.match(r"(\d+)\.(\d+)", str(getattr(tensorrt, "__version__", "")))
    if found is None or not hasattr(tensorrt, "OnnxParser"):
        raise MissingRuntime(f"TensorRT is broken: pip uninstall tensorrt, then {_INSTALL}")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise MissingRuntime(f"TensorRT {found[0]} is too old, {OLDEST[0]}.{OLDEST[1]} is needed: {_INSTALL}")
    return tensorrt


def plan_key(graph: str, device: CudaDevice, version: str) -> dict[str, str]:
    """What a plan is bound to. `graph` is the SHA-256 of the graph's file."""
    return {
        "graph": graph,
        "gpu": device.name,
        "uuid": device.uuid,
        "capability": f"{device.capability[0]}.{device.capability[1]}",
        "tensorrt": version,
        "options": OPTIONS,
    }


class TensorRtBackend:
    """A TensorRT engine and its buffers.

    Parameters
    ----------
    path : Path
        A single-file graph; float16 for speed.
    graph : str
        SHA-256 of the file.
    cache : PlanCache, optional
        Default: the user's.

    Raises
    ------
    DeviceError
        No driver, no device, no CUDA library in this build, or no place for plans.
    MissingRuntime
        TensorRT is not installed, or too old.
    BundleError
        TensorRT does not take the graph.
    """

    runtime = "tensorrt"
    device = "tensorrt"

    def __init__(self, path: Path, *, graph: str, cache: PlanCache | None = None) -> None:
        from edge.cuda import cuda_device, library_path
        from edge.decoder import _kernel

        found = cuda_device()  # before TensorRT is touched
        trt = import_runtime()
        self._trt, self._logger = trt, _logger(trt)
        runtime = trt.Runtime(self._logger)
        engine = self._engine(
            runtime, path, plan_key(graph, found, str(trt.__version__)), cache or PlanCache(), found.name
        )
        context = engine.create_execution_context()
        if context is None:
            raise DeviceError(f"{found.name} has not enough memory for the vision graph")
        self._kernel = kernel = _kernel()
        library = str(library_path())
        self._engine_kept, self._context = (runtime, engine), context
        self._stream = kernel.DeviceStream(library)
        self._buffers: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        inputs: list[Port] = []
        outputs: list[Port] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            if any(size < 1 for size in shape):
                raise BundleError(f"the vision graph leaves the shape of {name} open")
            plain = engine.get_tensor_dtype(name) == trt.DataType.FLOAT
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(Port(name, plain, shape))
            size = 4
            for extent in shape:
                size *= extent
            self._shapes[name] = shape
            self._buffers[name] = kernel.DeviceBuffer(library, size)
            context.set_tensor_address(name, self._buffers[name].address)
        self.inputs: Sequence[Port] = inputs
        self.outputs: Sequence[Port] = outputs
        self._lending = Lending()
        self._graph: Any = None
        self._to_record = wanted()

    def run(self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """As :meth:`edge.vision.backend.Backend.run`."""
        self._execute(feed)
        return [self._read(name) for name in names]

    def run_there(
        self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str], stay: Sequence[str]
    ) -> list[NDArray[np.float32] | DeviceArray]:
        """Pixels go up once; what is to stay is told by its address until the next film, then moved to the host."""
        self._execute(feed)
        results: list[NDArray[np.float32] | DeviceArray] = []
        for name in names:
            if name not in stay:
                results.append(self._read(name))
                continue
            read = partial(self._read, name)
            results.append(self._lending.lend(self._buffers[name].address, self._shapes[name], self, read))
        return results

    def _execute(self, feed: Mapping[str, NDArray[np.float32]]) -> None:
        import numpy as np

        self._lending.recall()
        for name, array in feed.items():
            if array.shape != self._shapes[name]:
                raise ProcessingError(f"the vision graph takes {name} of another shape")
            self._buffers[name].write(np.ascontiguousarray(array, np.float32))
        if self._graph is not None:
            self._graph.replay()
        elif not self._start():
            raise ProcessingError("TensorRT could not run the vision graph")
        self._stream.wait()
        if self._to_record:  # now that the first film has made everything ready that takes memory
            self._to_record = False
            try:
                self._graph = self._kernel.DeviceGraph(self._stream, self._start)
            except Exception as error:
                tell_uncaptured(error)

    def _start(self) -> bool:
        return bool(self._context.execute_async_v3(self._stream.handle))

    def _read(self, name: str) -> NDArray[np.float32]:
        import numpy as np

        array = np.empty(self._shapes[name], np.float32)
        self._buffers[name].read(array)
        return array

    def _engine(self, runtime: Any, path: Path, key: dict[str, str], cache: PlanCache, gpu: str) -> Any:
        plan = cache.get(key)
        if plan is not None:
            engine = runtime.deserialize_cuda_engine(bytes(plan))
            if engine is not None:
                return engine
            cache.drop(key)
        built = self._build(path, gpu)
        if not cache.put(key, built):
            log.warning("the TensorRT plan could not be kept in %s: it will be built again next time", cache.folder)
        engine = runtime.deserialize_cuda_engine(built)
        if engine is None:
            raise DeviceError(f"TensorRT does not load the plan that it built for {gpu}")
        return engine

    def _build(self, path: Path, gpu: str) -> bytes:
        trt = self._trt
        log.warning("building the TensorRT plan of %s for %s: once, up to some minutes", path.name, gpu)
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(with_floats(path.read_bytes())):
            first = str(parser.get_error(0).desc())[:200] if parser.num_errors else "no reason given"
            raise BundleError(
                f"TensorRT does not take {path.name} ({' '.join(first.split())}); "
                "a bundle made with edge-export --gpu-graph holds a graph for it"
            )
        config = builder.create_builder_config()
        config.builder_optimization_level = OPTIMIZATION_LEVEL
        config.clear_flag(trt.BuilderFlag.TF32)
        monitor = _monitor(trt)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        monitor.done()
        if plan is None:
            raise BundleError(f"TensorRT cannot build a plan of {path.name} for {gpu}; the log says why at level debug")
        return bytes(plan)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.debug("TensorRT: %s", message)

    return Logger()


def _monitor(trt: Any) -> Any:
    """One line on a terminal that tells how far a build is; tenths in the log elsewhere."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, tuple[str | None, int, int]] = {}
            self.told = -1

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = (parent_phase, max(num_steps, 1), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                parent, total, _ = self.steps[phase_name]
                self.steps[phase_name] = (parent, total, step + 1)
                self.tell()
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def tell(self) -> None:
            share, weight = 0.0, 1.0
            for _, total, done in self.steps.values():  # outermost first
                share += weight * done / total
                weight /= total
            percent = min(int(100 * share), 100)
            if percent <= self.told:
                return
            if sys.stderr.isatty():
                print(f"\redge-report: TensorRT plan: {percent:3d} %", end="", file=sys.stderr, flush=True)
            elif percent // 10 > self.told // 10:
                log.info("TensorRT plan: %d %%", percent)
            self.told = percent

        def done(self) -> None:
            if sys.stderr.isatty() and self.told >= 0:
                print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)

    return Monitor()
