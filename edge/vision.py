# SPDX-License-Identifier: Apache-2.0
"""The vision graph: pixels to the prefix K/V of every decoder layer, key bias, mask and first logits.

One ONNX graph, run by ONNX Runtime. Its inputs and outputs are checked against the manifest on loading.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, DeviceError, MissingRuntime, ProcessingError, UsageError
from edge.onnxfile import check_self_contained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Bundle
    from edge.manifest import Manifest

log = logging.getLogger("edge")

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
_INSTALL = 'pip install "edge-report[cpu]"  or, on a GPU machine,  pip install "edge-report[gpu]"'


@dataclass(frozen=True)
class VisionOutput:
    """What the vision graph says about one film (all float32).

    Attributes
    ----------
    keys, values : ndarray [layers, heads, prefix, head_dim]
    first_logits : ndarray [vocab]
    key_bias : ndarray [layers, prefix] or [layers, grid_h * grid_w], or None
        Added to the attention scores of the image keys; the second shape where the bias spans the sequence.
    mask : ndarray [mask_h, mask_w] of 0 and 1, or None
        Lungs and heart.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    first_logits: NDArray[np.float32]
    key_bias: NDArray[np.float32] | None
    mask: NDArray[np.float32] | None


class VisionSession:
    """An ONNX Runtime session of a bundle's vision graph.

    Parameters
    ----------
    bundle : Bundle
    device : str
        ``cpu``, ``cuda``, or ``auto`` (the CPU, while decoding on a GPU is not in this build).
    threads : int

    Raises
    ------
    MissingRuntime
        ONNX Runtime is not installed.
    DeviceError
        The device is not available, or ONNX Runtime fell back to another one.
    BundleError
        The graph does not load, or its inputs and outputs are not those of the manifest.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto", threads: int = 1) -> None:
        check_device(device)
        manifest = bundle.manifest
        path = bundle.file(manifest.vision_file)
        ort = _import_runtime()
        providers = _providers(ort, device)
        check_self_contained(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            raise BundleError(f"ONNX Runtime cannot load {path.name} ({type(error).__name__})") from None
        active = self._session.get_providers()
        if providers[0] not in active:
            raise DeviceError(
                f"{device} was asked for but ONNX Runtime fell back to {', '.join(active)}: "
                "check the driver and the CUDA libraries, or use --device cpu"
            )
        self.device = "cuda" if providers[0].startswith("CUDA") else "cpu"
        self.outputs = _check_graph(self._session, manifest)
        self._has_switch = manifest.has_mask
        log.info("vision graph on %s, %d threads", self.device, threads)

    def run(self, pixels: NDArray[np.float32], *, bias: bool) -> VisionOutput:
        """Run the graph on one film.

        Parameters
        ----------
        pixels : ndarray float32 [1, 3, height, width]
            Normalised as the bundle says.
        bias : bool
            Whether the prefill rows get the key bias; no effect on a bundle without one.

        Raises
        ------
        ProcessingError
            The graph failed, or yields numbers that are not finite.
        """
        import numpy as np

        feed: dict[str, Any] = {"pixels": pixels}
        if self._has_switch:
            feed["bias_switch"] = np.array([1.0 if bias else 0.0], np.float32)
        try:
            arrays = self._session.run(list(self.outputs), feed)
        except Exception as error:
            raise ProcessingError(f"the vision graph failed ({type(error).__name__})") from None
        named = dict(zip(self.outputs, arrays, strict=True))
        for name, array in named.items():
            if not np.isfinite(array).all():
                raise ProcessingError(f"the vision graph yields numbers that are not finite ({name})")
        return VisionOutput(
            named["prefix_keys"],
            named["prefix_values"],
            named["first_logits"],
            named.get("key_bias"),
            named.get("mask"),
        )


def _import_runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingRuntime(f"ONNX Runtime is not installed: {_INSTALL}") from None
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left when one of onnxruntime and onnxruntime-gpu was removed: they share a folder.
        raise MissingRuntime(f"ONNX Runtime is broken: pip uninstall onnxruntime onnxruntime-gpu, then {_INSTALL}")
    return onnxruntime


def check_device(device: str) -> None:
    """Refuse a device that no build or not this build can use (:class:`UsageError`, :class:`DeviceError`)."""
    if device not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}, not {str(device)[:40]!r}")
    if device == "tensorrt":
        raise DeviceError("tensorrt is not available in this build: use --device cpu or --device cuda")


def _providers(ort: Any, device: str) -> list[str]:
    available = ort.get_available_providers()
    if device == "cuda":
        if "CUDAExecutionProvider" not in available:
            raise DeviceError(
                "this ONNX Runtime has no CUDA: in a fresh environment "
                '  pip install "edge-report[gpu]"  or use --device cpu'
            )
        log.info("device cuda: the vision graph runs on the GPU, decoding on the CPU")
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if device == "auto" and "CUDAExecutionProvider" in available:
        log.info("device auto: using the CPU (this build does not decode on a GPU; --device cuda moves the vision)")
    return ["CPUExecutionProvider"]


def _check_graph(session: Any, manifest: Manifest) -> tuple[str, ...]:
    """Compare the graph's inputs and outputs with the manifest; the names of the outputs to ask for."""
    spec, prefix, image = manifest.decoder, manifest.prefix, manifest.image
    cache: list[int | None] = [spec["layers"], spec["heads"], prefix.length, spec["head_dim"]]
    inputs: dict[str, list[int | None]] = {"pixels": [1, 3, image["height"], image["width"]]}
    outputs: dict[str, list[int | None]] = {
        "prefix_keys": cache,
        "prefix_values": cache,
        "first_logits": [spec["vocab"]],
    }
    if manifest.has_mask:
        inputs["bias_switch"] = [1]
        span = prefix.grid[0] * prefix.grid[1] if manifest.bias.span == "sequence" else prefix.length
        outputs["key_bias"] = [spec["layers"], span]
        outputs["mask"] = [None, None]
    problems = _compare(session.get_inputs(), inputs, "input", exact=True)
    problems += _compare(session.get_outputs(), outputs, "output", exact=False)
    if problems:
        raise BundleError("the vision graph does not fit the manifest: " + "; ".join(problems[:6]))
    return tuple(outputs)


def _compare(found: Any, expected: dict[str, list[int | None]], what: str, *, exact: bool) -> list[str]:
    by_name = {node.name: node for node in found}
    problems = []
    for name, shape in expected.items():
        node = by_name.get(name)
        if node is None:
            problems.append(f"the {what} {name} is missing")
        elif node.type != "tensor(float)":
            problems.append(f"the {what} {name} is not float32")
        elif len(node.shape) != len(shape) or not all(
            type(have) is int and 1 <= have <= 1 << 30 and want in (None, have)
            for have, want in zip(node.shape, shape, strict=True)
        ):
            problems.append(f"the {what} {name} has another shape than {shape}")
    if exact:
        problems += [f"unknown {what} {name!r}" for name in sorted(set(by_name) - set(expected))]
    return problems
