# SPDX-License-Identifier: Apache-2.0
"""Decoding on a CUDA device: the library that does it, the decoder, and a check before it is trusted.

The library lies beside the compiled kernel where the package was built with it, brings the CUDA runtime with it and
is opened when it is asked for, not before.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from edge.decoder import Decoder
from edge.decoder import _kernel as compiled_kernel
from edge.errors import BundleError, DeviceError, ProcessingError, UsageError
from edge.generation import Generation, GenerationOptions, OnToken
from edge.vision.backend import DeviceArray
from edge.vision.dlpack import from_dlpack, is_on_gpu

log = logging.getLogger("edge")

LIBRARY = "libedge_cuda.so"

Way = Literal["steps", "persistent"]
_NOT_HERE = ("no_repeat_ngram", "min_new_tokens", "penalise_prompt")
"""Rules on a text that the kernels do not know: true values of options."""


class ModelNotForDevice(DeviceError):
    """The device can be used, but its kernels do not take this model."""


@dataclass(frozen=True)
class CudaDevice:
    """A device that can decode.

    Attributes
    ----------
    name : str
    capability : tuple of int
        Major and minor.
    total_bytes, free_bytes : int
    uuid : str
        Hexadecimal.
    processors : int
        Streaming multiprocessors.
    """

    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int
    uuid: str
    processors: int


def library_path() -> Path:
    """Where the library is, if this build has it."""
    return Path(compiled_kernel().__file__).with_name(LIBRARY)


def cuda_device(library: Path | None = None) -> CudaDevice:
    """The device that decoding would use: the first that ``CUDA_VISIBLE_DEVICES`` shows.

    Raises
    ------
    DeviceError
        There is no library in this build, no driver, or no device that it has code for.
    """
    kernel = compiled_kernel()
    try:
        found = kernel.cuda_device(str(library or library_path()))
    except kernel.DeviceUnusable as error:
        hint = "use --device auto or cpu"
        if not (library or library_path()).exists():
            hint = f"build it (EDGE_CUDA=ON in pip's environment), or {hint}"
        raise DeviceError(str(error), hint=hint) from None
    return CudaDevice(
        name=found["name"],
        capability=(found["major"], found["minor"]),
        total_bytes=found["total_bytes"],
        free_bytes=found["free_bytes"],
        uuid=found["uuid"].hex(),
        processors=found["processors"],
    )


def driver_shows_gpu() -> bool:
    """Whether NVIDIA's driver shows a GPU, whatever this package can do with it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        return bool(driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0)
    except (OSError, AttributeError):
        return False


class CudaDecoder(Decoder):
    """A decoder on a CUDA device; everything but the construction is as with :class:`edge.decoder.Decoder`.

    Greedy texts are written by the device alone and handed over token by token; drafts are made on the host and
    checked on the device, several in one pass. Sampled texts are chosen on the host. Keys under a strict mask stay in
    the cache.

    Parameters
    ----------
    spec, weights, evidence_layers
        As for :class:`edge.decoder.Decoder`; the weights are copied to the device.
    kv_dtype : {"fp32", "fp16", "int8"}, optional
        Of the KV cache; by default fp32 where every matrix is float32, else fp16.
    weight_dtype : {"fp32", "fp16", "bf16"}, optional
        How float32 matrices are kept on the device; quantized ones stay as they are. By default
        ``$EDGE_CUDA_WEIGHTS``, and without it fp32.
    way : {"steps", "persistent", "auto"}, optional
        How texts are written: recorded steps of a few kernels per layer, or one cooperative kernel; the same bits. By
        default ``$EDGE_CUDA_WAY``, and without it auto: steps, until :func:`edge.cuda_check.tune` has timed both.
    draft_table : table of :func:`edge.draft.load_draft_table`, optional
        What texts are drafted from, beside themselves.
    library : Path, optional

    Raises
    ------
    DeviceError
        No library, driver or device, or not enough memory.
    ModelNotForDevice
        A model that the kernels do not take.
    BundleError, UsageError
        As for :class:`edge.decoder.Decoder`.

    Attributes
    ----------
    pass_costs : tuple of float
        What passes over 1 to 16 rows cost on this device, in passes over one row; empty: not measured.
    """

    lanes = 1
    host: Decoder | None = None
    """The CPU's decoder, which computes the prefill of bundles whose graph ends before it, and writes texts with beams
    and rules that the device does not know."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        weights: Mapping[str, npt.NDArray[Any]],
        *,
        kv_dtype: Literal["fp32", "fp16", "int8"] | None = None,
        weight_dtype: Literal["fp32", "fp16", "bf16"] | None = None,
        evidence_layers: Iterable[int] = (),
        way: Way | Literal["auto"] | None = None,
        draft_table: Any = None,
        library: Path | None = None,
    ) -> None:
        kernel = compiled_kernel()
        way = way or cast(Any, os.environ.get("EDGE_CUDA_WAY")) or "auto"
        weight_dtype = weight_dtype or cast(Any, os.environ.get("EDGE_CUDA_WEIGHTS")) or "fp32"
        if kv_dtype is None:
            kv_dtype = "fp16" if any(array.dtype in (np.int8, np.uint8) for array in weights.values()) else "fp32"
        for value, known, name in (
            (kv_dtype, ("fp32", "fp16", "int8"), "kv_dtype"),
            (weight_dtype, ("fp32", "fp16", "bf16"), "EDGE_CUDA_WEIGHTS"),
            (way, ("steps", "persistent", "auto"), "EDGE_CUDA_WAY"),
        ):
            if value not in known:
                raise UsageError(f"{name} {str(value)[:40]!r} is not one of {', '.join(known)}")
        try:
            self._kernel = kernel.CudaDecoder(
                dict(spec),
                dict(weights),
                library=str(library or library_path()),
                kv_dtype=kv_dtype,
                weight_dtype=weight_dtype,
                way=way,
                evidence_layers=list(evidence_layers),
            )
        except kernel.ModelUnsupported as error:
            raise ModelNotForDevice(str(error)) from None
        except kernel.DeviceUnusable as error:
            raise DeviceError(str(error)) from None
        except (ValueError, TypeError) as error:
            raise BundleError(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            raise ProcessingError(str(error) or "out of memory") from error
        self._library = library or library_path()
        self.spec = dict(spec)
        self.kv_dtype: Any = kv_dtype
        self.weight_dtype = weight_dtype
        self.asked_way = way
        self.pass_costs: tuple[float, ...] = ()
        self._draft_table = draft_table
        self._distrusted = False
        self._prefix: tuple[Any, ...] | None = None  # as it was set, while the CPU does not have it

    @property
    def way(self) -> Way:
        """How texts are written now."""
        return "persistent" if self._kernel.persistent else "steps"

    def use_way(self, way: Way) -> None:
        """Write texts that way from now on."""
        self._call(setattr, self._kernel, "persistent", way == "persistent")

    @property
    def ways(self) -> tuple[Way, ...]:
        """What :meth:`use_way` takes."""
        return ("steps", "persistent") if self._kernel.has_persistent and not self._distrusted else ("steps",)

    def distrust_persistent(self) -> None:
        """Write texts by recorded steps from now on, and never again by the persistent kernel.

        Raises
        ------
        DeviceError
            The persistent kernel was asked for.
        """
        wrong = f"the persistent kernel writes another text on {self.device} than recorded steps do"
        if self.asked_way == "persistent":
            raise DeviceError(wrong, hint="EDGE_CUDA_WAY=steps leaves it out")
        log.warning("%s: it is not used", wrong)
        self.use_way("steps")
        self._distrusted = True

    def prefill(
        self,
        embeddings: npt.NDArray[np.float32],
        key_bias: npt.NDArray[np.float32] | None = None,
        *,
        bias: bool = True,
        drop_hidden: bool = False,
        lane: int = 0,
    ) -> npt.NDArray[np.float32]:
        """As :meth:`edge.decoder.Decoder.prefill`; the processor computes it, and keys and values go to the device.

        Raises
        ------
        ProcessingError
            There is no decoder of the CPU beside this one; or as there.
        """
        if self.host is None:
            raise ProcessingError("decoder: this device has no prefill of its own, and no decoder of the CPU beside it")
        logits, keys, values = self.host.prefill_with_cache(embeddings, key_bias, bias=bias)
        self.set_prefix(keys, values, key_bias, drop_hidden, lane)
        return logits

    @property
    def isa(self) -> str:
        """``cuda``."""
        return "cuda"

    @property
    def sketches(self) -> bool:
        """No: a card reads float32 weights fast enough."""
        return False

    def set_prefix(
        self,
        keys: npt.NDArray[np.float32] | DeviceArray,
        values: npt.NDArray[np.float32] | DeviceArray,
        key_bias: npt.NDArray[np.float32] | DeviceArray | None = None,
        drop_hidden: bool = False,
        lane: int = 0,
    ) -> None:
        """As :meth:`edge.decoder.Decoder.set_prefix`, shapes included; arrays that lie on the device are taken there,
        without a copy to the host: :class:`edge.vision.backend.DeviceArray`, or another framework's by DLPack.
        `drop_hidden` changes nothing here, and there is one lane.

        Raises
        ------
        ProcessingError
            Another lane than 0, or arrays of another shape than the spec says.
        """
        keys, values, key_bias = (self._there(array) for array in (keys, values, key_bias))
        # What lies on the device is not held for the sake of texts that may never come: who has the film has it.
        kept = (weakref.ref(a) if isinstance(a, DeviceArray) else a for a in (keys, values, key_bias))
        self._prefix = (*kept, drop_hidden)
        if lane:
            raise ProcessingError("decoder: the device writes one text at a time")
        arrays = [array for array in (keys, values, key_bias) if array is not None]
        if not all(isinstance(array, DeviceArray) and array.address for array in arrays):
            host = [array.host() if isinstance(array, DeviceArray) else array for array in arrays]
            super().set_prefix(host[0], host[1], host[2] if key_bias is not None else None, drop_hidden)
            return
        layers, heads, _, head_dim = shape = (*keys.shape, 0, 0, 0, 0)[:4]
        spec = self.spec
        if (
            len(keys.shape) != 4
            or values.shape != keys.shape
            or (layers, heads, head_dim) != (spec["layers"], spec["heads"], spec["head_dim"])
            or (key_bias is not None and (len(key_bias.shape) != 2 or key_bias.shape[0] != layers))
        ):
            raise ProcessingError("decoder: keys, values or key_bias on the device have another shape")
        self.prefix_serial += 1  # whatever becomes of this: the last prefix is no longer there
        addresses = [cast(DeviceArray, array).address for array in arrays]
        self._call(
            self._kernel.set_prefix_on_device,
            addresses[0],
            addresses[1],
            shape[2],
            addresses[2] if key_bias is not None else 0,
            key_bias.shape[1] if key_bias is not None else 0,
        )

    def _there(self, array: Any) -> Any:
        if array is None or isinstance(array, (DeviceArray, np.ndarray)) or not is_on_gpu(array):
            return array
        return from_dlpack(array, self._library)

    def generate(
        self,
        first_logits: npt.NDArray[np.float32] | None,
        options: GenerationOptions | None = None,
        *,
        on_token: OnToken | None = None,
        cancel: Any = None,
        draft_script: Iterable[Iterable[int]] = (),
        draft_costs: Iterable[float] = (),
    ) -> Generation:
        """As :meth:`edge.decoder.Decoder.generate`; texts with beams, and rules that the device does not know, are
        written by the processor where its decoder is there."""
        options = options or GenerationOptions()
        if self.host is not None and _is_for_the_host(options):
            return self._on_the_host(self.host, first_logits, options, on_token, cancel)
        return super().generate(
            first_logits,
            options,
            on_token=on_token,
            cancel=cancel,
            draft_script=draft_script,
            draft_costs=list(draft_costs) or self.pass_costs,
        )

    def _on_the_host(
        self,
        host: Decoder,
        first_logits: npt.NDArray[np.float32] | None,
        options: GenerationOptions,
        on_token: OnToken | None,
        cancel: Any,
    ) -> Generation:
        if self._prefix is not None:
            log.info("beams and rules on a text are the processor's: it writes this one")
            keys, values, key_bias, drop_hidden = self._prefix
            host.set_prefix(_on_host(keys), _on_host(values), _on_host(key_bias), drop_hidden)
            self._prefix = None  # it has it now
        return host.generate(first_logits, options, on_token=on_token, cancel=cancel)

    @property
    def threads(self) -> int:
        """One: the caller's, which only waits for the device."""
        return 1

    def keep(self, ids: Iterable[int], bias: bool = True) -> int:
        """The device does not know which rows it has: all text is dropped."""
        self.rewind(0)
        return 0

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self._kernel.device)


def _is_for_the_host(options: GenerationOptions) -> bool:
    return options.beams > 1 or options.forced_end_id >= 0 or any(getattr(options, name) for name in _NOT_HERE)


def _on_host(array: Any) -> Any:
    if isinstance(array, weakref.ref):
        array = array()
        if array is None:
            raise ProcessingError("decoder: the film has gone before its text was written")
    return array.host() if isinstance(array, DeviceArray) else array


def decoder_on_gpu(
    cpu: Decoder,
    weights: Mapping[str, npt.NDArray[Any]],
    evidence_layers: Iterable[int],
    *,
    required: bool,
    prefix: int = 1024,
    rules: Mapping[str, Any] | None = None,
    reasons: list[ProcessingError] | None = None,
) -> Decoder:
    """A decoder on the GPU that agrees with ``cpu``, or ``cpu`` itself; the log says why.

    Parameters
    ----------
    cpu, weights, evidence_layers
        The decoder on the CPU and what it was made of: arrays by name, of any shape that its spec asks for.
    required : bool
        Whether a GPU that cannot be used is an error, as is a build without the CUDA library. A model that the kernels
        do not take is none: there the GPU has the vision graph to itself.
    prefix : int
        Rows of the image in the cache; what is timed on the device is timed behind so many.
    rules : mapping, optional
        Beams and rules that every text of the model has, as options of :class:`GenerationOptions`.
    reasons : list of ProcessingError, optional
        Why it is ``cpu`` is appended here.

    Raises
    ------
    DeviceError
        Required, and the GPU cannot be used, fails while it is tried, or does not agree.
    """
    from edge.cuda_check import check_agreement, tune

    try:
        if rules and _is_for_the_host(GenerationOptions(**rules)):
            raise ModelNotForDevice("the CUDA kernels have no beams and rules on a text, which this model's texts need")
        device = cuda_device()
        decoder = CudaDecoder(
            cpu.spec,
            weights,
            kv_dtype=cpu.kv_dtype,
            evidence_layers=evidence_layers,
            draft_table=cpu.draft_table,
        )
        check_agreement(decoder, cpu)
        tune(decoder, prefix)
    except ModelNotForDevice as error:
        log.log(logging.WARNING if required else logging.INFO, "decoding on the CPU: %s", error)
        if reasons is not None:
            reasons.append(error)
        return cpu
    except ProcessingError as error:
        # A device that fails while it is tried cannot be used, whatever its driver calls that.
        if not required:
            log.info("decoding on the CPU: %s", error)
            if reasons is not None:
                reasons.append(error)
            return cpu
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(f"{device.name} failed while it was tried: {error}") from error
    log.info("decoding on %s", device.name)
    decoder.host = cpu
    return decoder
