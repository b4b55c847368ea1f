# SPDX-License-Identifier: Apache-2.0
"""A vision graph in OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, MissingRuntime
from edge.vision.backend import Port
from edge.vision.ort import LARGE, trim_heap

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edge.vision.ov_cache import CompiledGraph
    from edge.vision.ov_weights import FileWeights

_INSTALL = 'pip install "edge-report[openvino]"'


def import_runtime() -> Any:
    """The module ``openvino``.

    Raises
    ------
    MissingRuntime
    """
    try:
        import openvino
    except ImportError:
        raise MissingRuntime(f"OpenVINO is not installed: {_INSTALL}") from None
    if not hasattr(openvino, "Core"):
        raise MissingRuntime(f"OpenVINO is broken: pip uninstall openvino, then {_INSTALL}")
    return openvino


class OpenVinoBackend:
    """An OpenVINO infer request.

    One stream, so that a film gets all threads. OpenVINO's own cache is not used: it reads what lies in a folder,
    whoever wrote it; large graphs have one of ours (:mod:`edge.vision.ov_cache`). Float32 stays float32 unless the
    processor computes in bfloat16, and then only where `bf16` asks for it, because it costs digits.

    Parameters
    ----------
    path : Path
        A single-file graph.
    threads : int
    graph : str
        SHA-256 of the file, by which what is made of it is kept; empty: it is not.
    bf16 : bool

    Raises
    ------
    MissingRuntime
        OpenVINO is not installed.
    BundleError
        The graph does not load.
    """

    runtime = "openvino"
    device = "cpu"

    def __init__(self, path: Path, *, threads: int, graph: str = "", bf16: bool = False) -> None:
        openvino = import_runtime()
        from edge.vision.ov_weights import FileWeights

        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        }
        self._large = path.stat().st_size >= LARGE
        kept: CompiledGraph | None = None
        try:
            core = openvino.Core()
            if self._large and graph:
                from edge.vision.ov_cache import CompiledGraph

                kept = CompiledGraph(openvino, core, graph, config)
            compiled = kept.load() if kept is not None else None
            if compiled is None:
                weights = FileWeights(path)
                compiled = _compile(openvino, core, path, weights, config)
                if kept is not None:
                    kept.keep(compiled)
                weights.let_go()
            self._request = compiled.create_infer_request()
            self.inputs: Sequence[Port] = [_port(openvino, port) for port in compiled.inputs]
            self.outputs: Sequence[Port] = [_port(openvino, port) for port in compiled.outputs]
        except Exception as error:
            raise BundleError(f"OpenVINO cannot load {path.name} ({type(error).__name__})") from None
        self._kept = kept  # behind the request, which may look at it as long as it is there
        trim_heap()  # compiling leaves as much behind as the graph takes

    def run(self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """As :meth:`edge.vision.backend.Backend.run`."""
        # Copies: the request reuses its buffers for the next film.
        result = self._request.infer(dict(feed), share_inputs=True, share_outputs=True)
        arrays = [result[name].copy() for name in names]
        if self._kept is not None:
            self._kept.let_go()
        if self._large:
            trim_heap()  # what reading and preparing the film took
        return arrays


def _compile(openvino: Any, core: Any, path: Path, weights: FileWeights, config: dict[str, Any]) -> Any:
    model = core.read_model(str(path))
    weights.give_to(openvino, model)
    trim_heap()  # its own copies of them
    return core.compile_model(model, "CPU", config)


def _port(openvino: Any, port: Any) -> Port:
    shape = port.get_partial_shape()
    fixed = tuple(int(size) for size in port.get_shape()) if shape.is_static else None
    return Port(port.get_any_name(), port.get_element_type() == openvino.Type.f32, fixed)
