# SPDX-License-Identifier: Apache-2.0
"""Which runtime runs a vision graph."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from edge.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edge.vision.backend import Backend

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
RUNTIMES = ("auto", "ort", "openvino")
ENVIRONMENT = "EDGE_VISION_RUNTIME"


def check_device(device: str) -> None:
    """Refuse a device that there is not (:class:`UsageError`)."""
    if device not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}, not {str(device)[:40]!r}")


def check_runtime(runtime: str | None) -> str:
    """The runtime asked for; ``None``: ``$EDGE_VISION_RUNTIME``, and without it ``auto``.

    Raises
    ------
    UsageError
    """
    origin = "" if runtime is not None else f" (from ${ENVIRONMENT})"
    name = runtime if runtime is not None else os.environ.get(ENVIRONMENT) or "auto"
    if name not in RUNTIMES:
        raise UsageError(f"the vision runtime must be one of {', '.join(RUNTIMES)}, not {str(name)[:40]!r}{origin}")
    return name


def has_bf16() -> bool:
    """Whether this processor multiplies bytes and bfloat16, four and two at a time (AVX-512 VNNI and BF16)."""
    from edge.decoder import isa_supported

    return "avx512vnni" in isa_supported()


def has_avx512() -> bool:
    """Whether this processor has the wide registers in which OpenVINO multiplies floats faster."""
    from edge.decoder import isa_supported

    return "avx512" in isa_supported()


def choose_runtime(runtime: str, device: str, *, static: bool, float_encoder: bool = False) -> str:
    """What ``auto`` means for a bundle.

    The rule: on the processor, OpenVINO where it is installed and measured to be faster (``edge-bench vision`` times
    both). That is where the bundle holds a graph for it (`static`) and the processor has VNNI and BF16: 0.75 of the
    time of the int8 graph in ONNX Runtime, the prefill included. And where the graph is a float32 encoder alone,
    without segmenters (`float_encoder`), and the processor has AVX-512: 0.8 to 0.93 of the time. Anywhere else ONNX
    Runtime, or TensorRT on the device of that name.
    """
    if runtime != "auto" or device in ("cuda", "tensorrt") or find_spec("openvino") is None:
        return runtime
    return "openvino" if (static and has_bf16()) or (float_encoder and has_avx512()) else "auto"


def open_backend(
    path: Path, runtime: str, *, device: str, threads: int, graph: str, bf16: bool = False, whole: bool = False
) -> Backend:
    """Load a graph, whose SHA-256 is `graph`; `bf16`: OpenVINO may compute in bfloat16; `whole`: on a GPU ONNX Runtime
    may leave nothing to the CPU.

    ``auto``, if :func:`choose_runtime` has left it open: TensorRT on the device of that name, else ONNX Runtime.

    Raises
    ------
    MissingRuntime, DeviceError, BundleError
    """
    if runtime == "openvino":
        if device in ("cuda", "tensorrt"):
            raise DeviceError("openvino runs on the CPU: use --device cpu, or another vision runtime")
        from edge.vision.ov import OpenVinoBackend

        return OpenVinoBackend(path, threads=threads, graph=graph, bf16=bf16)
    if device == "tensorrt":
        if runtime == "ort":
            raise DeviceError("--device tensorrt needs no ONNX Runtime: leave the vision runtime to auto")
        from edge.vision.tensorrt import TensorRtBackend

        return TensorRtBackend(path, graph=graph)
    from edge.vision.ort import OrtBackend

    return OrtBackend(path, device=device, threads=threads, whole=whole)
