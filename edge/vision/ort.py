# SPDX-License-Identifier: Apache-2.0
"""A vision graph in ONNX Runtime, on the CPU or (its vision part only) on a CUDA device."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, DeviceError, MissingRuntime, ProcessingError
from edge.threads import NO_THREAD, usable_processors
from edge.vision.backend import DeviceArray, Lending, Port
from edge.vision.capture import CAPTURED, EXACT, CapturedGraph, can_be_captured, tell_uncaptured, wanted

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("edge")

_NO_MEMORY = ("bad_alloc", "Failed to allocate memory")
"""What ONNX Runtime says when memory runs out; it has no type of its own for that."""
_BAD_GRAPH = ("InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
"""Types of ONNX Runtime's errors that are the graph's; with a GPU every other one is the GPU's."""
LARGE = 64 << 20
"""Bytes of a graph's file from which on the memory it would keep between films is worth a few milliseconds."""
_CUDA = "CUDAExecutionProvider"
_INSTALL = 'pip install "edge-report[cpu]"  or, on a GPU machine,  pip install "edge-report[gpu]"'


def import_runtime() -> Any:
    """The module ``onnxruntime``, with its telemetry off.

    Recent builds keep a device id and a database of events in the user's cache folder and send them to their maker,
    from the import on: nothing that software beside a scanner may do. Only the environment can stop that in time.

    Raises
    ------
    MissingRuntime
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError:
        raise MissingRuntime(f"ONNX Runtime is not installed: {_INSTALL}") from None
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left when one of onnxruntime and onnxruntime-gpu was removed: they share a folder.
        raise MissingRuntime(f"ONNX Runtime is broken: pip uninstall onnxruntime onnxruntime-gpu, then {_INSTALL}")
    with contextlib.suppress(AttributeError):  # imported by somebody else before us
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def session_options(ort: Any, threads: int, *, arena: bool = True) -> Any:
    """Options of a session whose threads spin between the operators of a film, and sleep between films.

    A graph has a thousand operators, and waking a thread takes longer than many of them: with threads that sleep the
    demo graph takes a third longer. With more threads than processors nobody spins.

    An arena is quick, and keeps the most memory that any film ever needed.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads <= usable_processors() else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")  # with the last operator
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def trim_heap() -> None:
    """Let the C library return the free memory it keeps (glibc; elsewhere nothing happens)."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class OrtBackend:
    """An ONNX Runtime session.

    Parameters
    ----------
    path : Path
        A single-file graph.
    device : str
        ``cpu``, ``cuda``, or ``auto`` (the CPU).
    threads : int
    whole : bool
        On a GPU: all of the graph or nothing. Otherwise operators that ONNX Runtime has no CUDA code for are done on
        the CPU, with a warning.

    Raises
    ------
    MissingRuntime
        ONNX Runtime is not installed.
    DeviceError
        The device is not available or failed, or ONNX Runtime fell back to another one.
    BundleError
        The graph does not load.
    """

    runtime = "ort"

    def __init__(self, path: Path, *, device: str, threads: int, whole: bool = False) -> None:
        ort = import_runtime()
        providers = _providers(ort, device)
        self.device = "cuda" if len(providers) > 1 else "cpu"
        self._large = path.stat().st_size >= LARGE
        self._open = partial(_open, ort, path, threads, providers, arena=not self._large, whole=whole)
        captured = _open_captured(ort, path, threads) if self.device == "cuda" else None
        self._session = captured or self._open()
        self._give_back()
        self.inputs: Sequence[Port] = [_port(node) for node in self._session.get_inputs()]
        self.outputs: Sequence[Port] = [_port(node) for node in self._session.get_outputs()]
        self._lending = Lending()
        self._captured: CapturedGraph | None = None
        if captured is not None:
            try:
                self._captured = CapturedGraph(ort, captured, self.inputs, self.outputs)
            except Exception as error:
                self._give_up_capture(error)

    def run_there(
        self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str], stay: Sequence[str]
    ) -> list[NDArray[np.float32] | DeviceArray]:
        """Pixels go up once; what is to stay is told by its address, everything else comes back.

        Raises
        ------
        DeviceError
            ONNX Runtime put an output on the CPU that was to stay.
        """
        if self._replay(feed):
            assert self._captured is not None
            values = [self._captured.value(name) for name in names]
        else:
            binding = self._session.io_binding()
            for name, array in feed.items():
                binding.bind_cpu_input(name, array)  # copied to where the graph's first operators are
            for name in names:
                binding.bind_output(name, self.device if name in stay else "cpu", 0)
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            values = binding.get_outputs()
        results: list[NDArray[np.float32] | DeviceArray] = []
        for name, value in zip(names, values, strict=True):
            if name not in stay:
                results.append(value.numpy())
                continue
            if value.device_name().lower() != self.device:
                raise DeviceError(f"ONNX Runtime left {name} on {value.device_name()}, not on {self.device}")
            # The outputs of a recorded graph are written again with the next film, others are made for each.
            lend = self._lending.lend if self._captured is not None else DeviceArray
            results.append(lend(value.data_ptr(), value.shape(), value, value.numpy))
        self._give_back()
        return results

    def run(self, feed: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """As :meth:`edge.vision.backend.Backend.run`."""
        if self._replay(feed):
            assert self._captured is not None
            return [self._captured.value(name).numpy() for name in names]
        result: list[NDArray[np.float32]] = self._session.run(list(names), dict(feed))
        self._give_back()
        return result

    def _replay(self, feed: Mapping[str, NDArray[np.float32]]) -> bool:
        """Run the graph as the one that it was recorded as; False where it is not, or cannot be."""
        if self._captured is None:
            return False
        self._lending.recall()
        try:
            self._captured.run(feed)
        except Exception as error:
            self._give_up_capture(error)
            return False
        return True

    def _give_up_capture(self, error: Exception) -> None:
        tell_uncaptured(error)
        self._captured = self._session = None
        self._session = self._open()

    def _give_back(self) -> None:
        """Hand the allocator's free memory back to the system, where it is much."""
        if self._large:
            trim_heap()


def _open_captured(ort: Any, path: Path, threads: int) -> Any | None:
    """A session on a GPU whose first run is recorded as a CUDA graph; None, and a line in the log, where it cannot."""
    if not wanted():
        return None
    options = session_options(ort, threads)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = _session(ort, path, options, [(_CUDA, CAPTURED)])
    except Exception as error:
        tell_uncaptured(error)
        return None
    if _CUDA not in session.get_providers():
        return None  # which is told when the session without a recording is there
    if not can_be_captured([_port(node) for node in (*session.get_inputs(), *session.get_outputs())]):
        log.info("the vision graph runs operator by operator: its shapes are not fixed")
        return None
    log.info("the vision graph is recorded with the first film, and replayed as one CUDA graph after it")
    return session


def _open(ort: Any, path: Path, threads: int, providers: list[Any], *, arena: bool, whole: bool = False) -> Any:
    """A session; on a GPU one that does everything there, and where that cannot be (and need not) one that says so."""
    gpu = len(providers) > 1
    if gpu:
        all_there = session_options(ort, threads, arena=arena)
        all_there.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = _session(ort, path, all_there, providers[:1])
            if _CUDA in session.get_providers():
                return session
        except Exception as error:
            if whole:
                raise DeviceError(f"ONNX Runtime does not do all of {path.name} on the GPU: {_said(error)}") from None
    options = session_options(ort, threads, arena=arena)
    try:
        session = _session(ort, path, options, providers)
    except Exception as error:
        if gpu and not isinstance(error, MemoryError) and type(error).__name__ not in _BAD_GRAPH:
            raise DeviceError(f"the GPU cannot take {path.name} ({_said(error)}): use --device cpu") from None
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            raise ProcessingError(f"not enough memory to load {path.name}") from None
        if os.strerror(errno.EAGAIN) in str(error):
            raise ProcessingError(NO_THREAD) from None
        raise BundleError(f"ONNX Runtime cannot load {path.name} ({type(error).__name__})") from None
    active = session.get_providers()
    if not gpu:
        return session
    if _CUDA not in active:
        raise DeviceError(
            f"cuda was asked for but ONNX Runtime fell back to {', '.join(active)}: "
            "check the driver and the CUDA libraries, or use --device cpu"
        )
    log.warning(
        "parts of %s run on the CPU, because ONNX Runtime has no CUDA code for them: slow; "
        "a bundle made with edge-export --gpu-graph holds a graph without such parts",
        path.name,
    )
    return session


def _session(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    """A session that fails where it cannot do what is asked for.

    By itself ONNX Runtime's module prints such errors on stdout, which is for reports, and tries again on the CPU: a
    second time where that was asked for, and quietly for all later films where the GPU fails at one.
    """
    return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)


def _said(error: Exception) -> str:
    """What an error of ONNX Runtime says, on one short line and without the folder of the graph."""
    words = (word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in str(error).split())
    return f"{type(error).__name__}: {' '.join(words)[:160]}"


def _load_cuda(ort: Any) -> None:
    """CUDA's libraries and cuDNN, which may have come as packages: ONNX Runtime does not look for them there by itself.

    What it prints about those that it does not find goes into the log: stdout is for reports.
    """
    load = getattr(ort, "preload_dlls", None)  # since 1.21
    if load is None:
        return
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(Exception):
        load(msvc=False)
    for line in told.getvalue().splitlines():
        log.debug("ONNX Runtime: %s", line)


def _port(node: Any) -> Port:
    fixed = all(type(size) is int for size in node.shape)
    return Port(node.name, node.type == "tensor(float)", tuple(node.shape) if fixed else None)


def _providers(ort: Any, device: str) -> list[Any]:
    """Providers to ask for, with options; more than one where a GPU is to do the work."""
    available = ort.get_available_providers()
    if device == "cuda":
        if _CUDA not in available:
            raise DeviceError(
                "this ONNX Runtime has no CUDA: in a fresh environment "
                '  pip install "edge-report[gpu]"  or use --device cpu'
            )
        _load_cuda(ort)
        log.info("device cuda: the vision graph runs on the GPU")
        return [(_CUDA, EXACT), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
