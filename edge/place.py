# SPDX-License-Identifier: Apache-2.0
"""Where a loaded model runs: what goes to a GPU, and in one sentence each why something does not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import DeviceError, EdgeError, ProcessingError
from edge.vision.backend import DeviceArray
from edge.vision.session import VisionOutput, VisionSession
from edge.vision.stored import computes_in_integers

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.decoder import Decoder

log = logging.getLogger("edge")

LARGEST_ERROR = {"fp32": 1e-4, "fp16": 2e-3}
"""Squared error over squared values between the graph on a GPU and on the CPU, by the graph's type. What the exporter
measures between float16 and float32 on the CPU is below a tenth of it; a wrong operator is off by far more."""
LEAST_DICE = 0.95
"""Of the mask: pixels at its border may go either way."""


def on_gpu(
    decoder: Decoder, vision: VisionSession, bundle: Bundle, *, device: str, threads: int, runtime: str
) -> tuple[Decoder, VisionSession, tuple[str, ...]]:
    """The decoder, and with ``auto`` the vision graph, on a GPU where that can be.

    Parameters
    ----------
    decoder, vision
        On the CPU; with ``cuda`` and ``tensorrt`` the vision graph is on the GPU already.
    bundle, device, threads, runtime
        As for :class:`edge.engine.Engine`; not the device ``cpu``.

    Returns
    -------
    tuple
        Decoder, vision graph, and a sentence for each of them that stays on the CPU, with the reason.

    Raises
    ------
    DeviceError
        A GPU was demanded, and cannot be used.
    """
    from edge.cuda import ModelNotForDevice, decoder_on_gpu

    generation, reasons = bundle.manifest.generation, list[ProcessingError]()
    placed = decoder_on_gpu(
        decoder,
        bundle.weights(),
        generation.evidence_layers,
        required=device != "auto",
        prefix=bundle.manifest.prefix.length,
        rules=generation.rules,
        reasons=reasons,
    )
    # A reason of the model's own leaves the GPU to the graph; any other means that there is none to use.
    usable = placed is not decoder or (any(isinstance(r, ModelNotForDevice) for r in reasons) and _is_usable())
    told = [f"decoding on the CPU: {reason}" for reason in reasons]
    if device == "auto" and runtime != "openvino" and usable:
        vision, reason = _vision_on_gpu(vision, bundle, threads)
        if reason:
            log.info("the vision graph on the CPU: %s", reason)
            told.append(f"the vision graph on the CPU: {reason}")
    return placed, vision, tuple(told)


def _is_usable() -> bool:
    from edge.cuda import cuda_device

    try:
        cuda_device()
    except EdgeError:
        return False
    return True


def _vision_on_gpu(cpu: VisionSession, bundle: Bundle, threads: int) -> tuple[VisionSession, str]:
    """The graph on a CUDA device, if all of it runs there and says what the CPU says; else `cpu`, and why."""
    manifest = bundle.manifest
    stored = manifest.vision_fp16_file is None and manifest.precision != "fp32"
    if stored and computes_in_integers(bundle.file(manifest.vision_file)):
        return cpu, "this bundle's is quantized for processors; edge-export --gpu-graph adds one for GPUs"
    try:
        gpu = VisionSession(bundle, device="cuda", threads=threads, runtime="ort", whole=True)
        image = manifest.image
        shape = (1, 3, image["height"], image["width"])
        pixels = np.random.default_rng(0).standard_normal(shape, np.float32)
        check_same(gpu.run(pixels, bias=True), cpu.run(pixels, bias=True), half=manifest.vision_fp16_file is not None)
    except EdgeError as error:
        return cpu, str(error)
    return gpu, ""


def check_same(got: VisionOutput, want: VisionOutput, *, half: bool) -> None:
    """Compare what two runtimes say about one film.

    Raises
    ------
    DeviceError
        They do not agree.
    """
    limit = LARGEST_ERROR["fp16" if half else "fp32"]
    for name, error in differences(got, want).items():
        if not error <= (1 - LEAST_DICE if name == "mask" else limit):
            raise DeviceError(f"on the GPU it does not compute what the CPU computes ({name}: error {error:.1e})")


def differences(got: VisionOutput, want: VisionOutput) -> dict[str, float]:
    """How far two outputs are apart, by name: squared error over squared values, of the mask 1 - Dice.

    The lowest float32 in a bias hides a key. It is no number to take an error of: where more than a hundredth of the
    keys are hidden in one of the two alone, the error is infinite.
    """
    found: dict[str, float] = {}
    for name in ("keys", "values", "first_logits", "key_bias", "embeddings", "prompt_logits", "mask"):
        pair: list[Any] = [getattr(one, name) for one in (got, want)]
        if pair[1] is None:
            continue
        a, b = (np.asarray(one.host() if isinstance(one, DeviceArray) else one, np.float64) for one in pair)
        if name == "mask":
            found[name] = 1.0 - 2.0 * float((a * b).sum() + 1e-9) / float(a.sum() + b.sum() + 2e-9)
            continue
        shown = [one > np.finfo(np.float32).min for one in (a, b)]
        both = shown[0] & shown[1]
        error = float(((a - b)[both] ** 2).sum() / max(float((b[both] ** 2).sum()), 1e-30))
        found[name] = error if float(np.mean(shown[0] != shown[1])) <= 0.01 else float("inf")
    return found
