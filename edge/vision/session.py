# SPDX-License-Identifier: Apache-2.0
"""A session of a bundle's vision graph, whichever runtime runs it.

The graph's inputs and outputs are checked against the manifest on loading, and its numbers on every run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from edge.errors import BundleError, EdgeError, ProcessingError
from edge.onnxfile import check_self_contained
from edge.vision.backend import DeviceArray, DeviceBackend
from edge.vision.choice import check_device, check_runtime, choose_runtime, has_bf16, open_backend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Bundle
    from edge.decoder import Decoder
    from edge.manifest import Manifest
    from edge.vision.backend import Backend, Port

log = logging.getLogger("edge")


@dataclass(frozen=True)
class VisionOutput:
    """What the vision graph says about one film (all float32).

    Attributes
    ----------
    keys, values : ndarray [layers, heads, image keys, head_dim], or None
        Of the prefix, or of the cross-attention; None where the prefill is the kernel's.
    first_logits : ndarray [vocab], or None
        Of the last prefix row; None where the image is no prefix, or the prefill is the kernel's.
    key_bias : ndarray [layers, prefix] or [layers, sequence], or None
        Added to the attention scores of these keys; the second shape where the bias spans the sequence.
    mask : ndarray [mask_h, mask_w] of 0 and 1, or None
        Lungs and heart.
    there : DeviceArray or None
        The key bias on the GPU, where keys and values lie there too: then they are no arrays, but
        :class:`edge.vision.backend.DeviceArray`.
    embeddings : ndarray [prefix, hidden], or None
        The image prefix without positions, where the prefill is the kernel's.
    bias : bool
        Whether the rows of the prefix get the key bias.
    prompt_logits : ndarray [findings, states], or None
        What the model's classifier says, where its states become a prompt.
    """

    keys: NDArray[np.float32] | DeviceArray | None
    values: NDArray[np.float32] | DeviceArray | None
    first_logits: NDArray[np.float32] | None
    key_bias: NDArray[np.float32] | None
    mask: NDArray[np.float32] | None
    there: DeviceArray | None = None
    embeddings: NDArray[np.float32] | None = None
    bias: bool = True
    prompt_logits: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.keys, self.values, self.first_logits, self.key_bias, self.mask, self.embeddings)
        return sum(array.nbytes for array in arrays if array is not None)

    def fill(self, decoder: Decoder, *, key_bias: bool = True, drop_hidden: bool = False, lane: int = 0) -> Any:
        """Put the image into a decoder's cache: computed there, or copied where the graph has computed it.

        Parameters
        ----------
        decoder : Decoder
        key_bias : bool
            Hand the bias over; without it no row, of the prefix or of the text, gets one.
        drop_hidden, lane
            As for :meth:`edge.decoder.Decoder.set_prefix`.

        Returns
        -------
        ndarray [vocab], or None
            Logits of the last row of the prefix; None where the image is no prefix.

        Raises
        ------
        ProcessingError
        """
        if self.embeddings is not None:
            bias = self.key_bias if key_bias else None
            return decoder.prefill(self.embeddings, bias, bias=self.bias, drop_hidden=drop_hidden, lane=lane)
        keys: Any = self.keys
        values: Any = self.values
        there: Any = (self.there or self.key_bias) if key_bias else None  # all of them where the keys lie
        decoder.set_prefix(keys, values, there, drop_hidden=drop_hidden, lane=lane)
        return self.first_logits


class VisionSession:
    """A bundle's vision graph, loaded.

    Parameters
    ----------
    bundle : Bundle
    device : str
        ``cpu``, ``cuda``, ``tensorrt``, or ``auto`` (the CPU). A GPU runs the
        bundle's float16 graph where there is one.
    threads : int
    runtime : str or None
        ``ort``, ``openvino`` or ``auto``; None: ``$EDGE_VISION_RUNTIME``, and without it ``auto``
        (:func:`edge.vision.choice.open_backend`).
    whole : bool
        On a GPU: all of the graph or nothing.

    Raises
    ------
    MissingRuntime
        The runtime is not installed.
    DeviceError
        The device is not available, or the runtime fell back to another one.
    BundleError
        The graph does not load, or its inputs and outputs are not those of the manifest.
    """

    def __init__(
        self, bundle: Bundle, *, device: str = "auto", threads: int = 1, runtime: str | None = None, whole: bool = False
    ) -> None:
        check_device(device)
        runtime = check_runtime(runtime)
        manifest = bundle.manifest
        runtime = choose_runtime(
            runtime,
            device,
            static=manifest.vision_static_file is not None,
            float_encoder=manifest.precision == "fp32" and manifest.has_cross and not manifest.has_mask,
        )
        name = manifest.vision_file
        if device in ("cuda", "tensorrt"):
            name = manifest.vision_fp16_file or name
            if device == "tensorrt":
                name = manifest.vision_tensorrt_file or name
        elif runtime == "openvino" and has_bf16():
            name = manifest.vision_static_file or name
        path = bundle.file(name)
        check_self_contained(path)
        self._backend: Backend = open_backend(
            path,
            runtime,
            device=device,
            threads=threads,
            graph=manifest.files[name].sha256,
            bf16=name == manifest.vision_static_file,
            whole=whole,
        )
        self.stays = False
        """Whether keys, values and bias remain on the GPU, for a decoder that is there too."""
        self.device, self.runtime = self._backend.device, self._backend.runtime
        self.outputs = _check_graph(self._backend, manifest)
        self._kernel_prefill = manifest.kernel_prefill
        self._has_switch = manifest.has_mask and not manifest.has_cross and not manifest.kernel_prefill
        self._image = "cross" if manifest.has_cross else "prefix"
        log.info("vision graph on %s by %s, %d threads", self.device, self.runtime, threads)

    def run(self, pixels: NDArray[np.float32], *, bias: bool) -> VisionOutput:
        """Run the graph on one film.

        Parameters
        ----------
        pixels : ndarray float32 [1, 3, height, width]
            Normalised as the bundle says.
        bias : bool
            Whether the rows of the prefix get the key bias; no effect on a bundle without one.

        Raises
        ------
        ProcessingError
            The graph failed, or yields numbers that are not finite.
        """
        import numpy as np

        feed = {"pixels": pixels}
        if self._has_switch:
            feed["bias_switch"] = np.array([1.0 if bias else 0.0], np.float32)
        try:
            named = self._run(feed)
        except EdgeError:
            raise
        except Exception as error:
            raise ProcessingError(f"the vision graph failed ({type(error).__name__})") from None
        there = named.get("key_bias")
        if isinstance(there, DeviceArray):
            named["key_bias"] = there.host()
        for name, array in named.items():
            # What stays on the device is seen by the decoder, which refuses logits that are not finite.
            if not isinstance(array, DeviceArray) and not np.isfinite(array).all():
                raise ProcessingError(f"the vision graph yields numbers that are not finite ({name})")
        return VisionOutput(
            named.get(f"{self._image}_keys"),
            named.get(f"{self._image}_values"),
            named.get("first_logits"),
            named.get("key_bias"),
            named.get("mask"),
            there if isinstance(there, DeviceArray) else None,
            named.get("prefix_embeddings"),
            bias,
            named.get("prompt_logits"),
        )

    def _run(self, feed: dict[str, Any]) -> dict[str, Any]:
        names = self.outputs
        if not self.stays:
            return dict(zip(names, self._backend.run(feed, names), strict=True))
        backend = cast(DeviceBackend, self._backend)
        stay = [name for name in (f"{self._image}_keys", f"{self._image}_values", "key_bias") if name in names]
        return dict(zip(names, backend.run_there(feed, names, stay), strict=True))

    def stay(self) -> bool:
        """Let keys, values and bias remain on the GPU from now on; False where this runtime cannot, or where the
        processor does the prefill."""
        self.stays = self.device != "cpu" and hasattr(self._backend, "run_there") and not self._kernel_prefill
        return self.stays


def _check_graph(backend: Backend, manifest: Manifest) -> tuple[str, ...]:
    """Compare the graph's inputs and outputs with the manifest; the names of the outputs to ask for."""
    spec, prefix, image = manifest.decoder, manifest.prefix, manifest.image
    cache: list[int | None] = [spec["layers"], spec["heads"], prefix.length, spec["head_dim"]]
    inputs: dict[str, list[int | None]] = {"pixels": [1, 3, image["height"], image["width"]]}
    outputs: dict[str, list[int | None]]
    if manifest.kernel_prefill:
        outputs = {"prefix_embeddings": [prefix.length, spec["hidden"]]}
    elif manifest.has_cross:
        outputs = {"cross_keys": cache, "cross_values": cache}
    else:
        outputs = {"prefix_keys": cache, "prefix_values": cache, "first_logits": [spec["vocab"]]}
    if (states := manifest.generation.states) is not None:
        outputs["prompt_logits"] = [len(states.findings), len(states.names)]
    if manifest.has_mask:
        if not manifest.has_cross and not manifest.kernel_prefill:  # else no row of the graph attends with the bias
            inputs["bias_switch"] = [1]
        outputs["key_bias"] = [spec["layers"], manifest.bias.sequence_length or prefix.length]
        outputs["mask"] = [None, None]
    problems = _compare(backend.inputs, inputs, "input", exact=True)
    problems += _compare(backend.outputs, outputs, "output", exact=False)
    if problems:
        raise BundleError("the vision graph does not fit the manifest: " + "; ".join(problems[:6]))
    return tuple(outputs)


def _compare(found: Sequence[Port], expected: dict[str, list[int | None]], what: str, *, exact: bool) -> list[str]:
    by_name = {node.name: node for node in found}
    problems = []
    for name, shape in expected.items():
        node = by_name.get(name)
        if node is None:
            problems.append(f"the {what} {name} is missing")
        elif not node.float32:
            problems.append(f"the {what} {name} is not float32")
        elif (
            node.shape is None
            or len(node.shape) != len(shape)
            or not all(
                1 <= have <= 1 << 30 and want in (None, have) for have, want in zip(node.shape, shape, strict=True)
            )
        ):
            problems.append(f"the {what} {name} has another shape than {shape}")
    if exact:
        problems += [f"unknown {what} {name!r}" for name in sorted(set(by_name) - set(expected))]
    return problems
