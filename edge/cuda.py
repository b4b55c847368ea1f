# SPDX-License-Identifier: Apache-2.0
"""Decoding on a CUDA device: the library that does it, the decoder, and a check before it is trusted.

The library lies beside the compiled kernel where the package was built with it, brings the CUDA runtime with it and
is opened when it is asked for, not before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from edge.decoder import Decoder, GenerationOptions
from edge.decoder import _kernel as compiled_kernel
from edge.errors import BundleError, DeviceError, ProcessingError, UsageError
from edge.vision.backend import DeviceArray

log = logging.getLogger("edge")

LIBRARY = "libedge_cuda.so"

# Squared error over squared signal between the logits of the device and of the CPU, by how the weights are kept. A
# wrong index or a missing barrier is off by far more.
_AGREEMENT = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 2e-2}


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
        raise DeviceError(str(error)) from None
    return CudaDevice(
        name=found["name"],
        capability=(found["major"], found["minor"]),
        total_bytes=found["total_bytes"],
        free_bytes=found["free_bytes"],
        uuid=found["uuid"].hex(),
        processors=found["processors"],
    )


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
    weight_dtype : {"fp32", "fp16", "bf16"}
        How float32 matrices are kept on the device; quantized ones stay as they are.
    way : {"steps", "persistent"}, optional
        How texts are written: recorded steps of a few kernels per layer, or one cooperative kernel; the same bits. By
        default ``$EDGE_CUDA_WAY``, and without it steps.
    draft_table : table of :func:`edge.draft.load_draft_table`, optional
        What texts are drafted from, beside themselves.
    library : Path, optional

    Raises
    ------
    DeviceError
        No library, driver or device, a model that the kernels do not take, or not enough memory.
    BundleError, UsageError
        As for :class:`edge.decoder.Decoder`.
    """

    lanes = 1
    host: Decoder | None = None
    """The CPU's decoder, which computes the prefill of bundles whose graph ends before it."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        weights: Mapping[str, npt.NDArray[Any]],
        *,
        kv_dtype: Literal["fp32", "fp16", "int8"] | None = None,
        weight_dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
        evidence_layers: Iterable[int] = (),
        way: Literal["steps", "persistent"] | None = None,
        draft_table: Any = None,
        library: Path | None = None,
    ) -> None:
        kernel = compiled_kernel()
        way = way or cast(Any, os.environ.get("EDGE_CUDA_WAY")) or "steps"
        if kv_dtype is None:
            kv_dtype = "fp16" if any(array.dtype in (np.int8, np.uint8) for array in weights.values()) else "fp32"
        for value, known, name in (
            (kv_dtype, ("fp32", "fp16", "int8"), "kv_dtype"),
            (weight_dtype, ("fp32", "fp16", "bf16"), "weight_dtype"),
            (way, ("steps", "persistent"), "EDGE_CUDA_WAY"),
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
        except kernel.DeviceUnusable as error:
            raise DeviceError(str(error)) from None
        except (ValueError, TypeError) as error:
            raise BundleError(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            raise ProcessingError(str(error) or "out of memory") from error
        self.spec = dict(spec)
        self.kv_dtype: Any = kv_dtype
        self.weight_dtype = weight_dtype
        self.way = way
        self._draft_table = draft_table

    def prefill(
        self,
        embeddings: npt.NDArray[np.float32],
        key_bias: npt.NDArray[np.float32] | None = None,
        *,
        bias: bool = True,
        drop_hidden: bool = False,
        lane: int = 0,
    ) -> npt.NDArray[np.float32]:
        """As for :class:`edge.decoder.Decoder`; the processor computes it, and keys and values go to the device."""
        if self.host is None:
            raise ProcessingError("decoder: this device has no prefill of its own, and no decoder of the CPU beside it")
        logits, keys, values = self.host.prefill_with_cache(embeddings, key_bias, bias=bias)
        self.set_prefix(keys, values, key_bias, drop_hidden, lane)
        return logits

    @property
    def isa(self) -> str:
        """``cuda``."""
        return "cuda"

    def set_prefix(
        self,
        keys: npt.NDArray[np.float32] | DeviceArray,
        values: npt.NDArray[np.float32] | DeviceArray,
        key_bias: npt.NDArray[np.float32] | DeviceArray | None = None,
        drop_hidden: bool = False,
        lane: int = 0,
    ) -> None:
        """As for :class:`edge.decoder.Decoder`; arrays that lie on the device are taken there, without a copy to the
        host. `drop_hidden` changes nothing here, and there is one lane."""
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

    @property
    def threads(self) -> int:
        return 1

    def keep(self, ids: Iterable[int], bias: bool = True) -> int:
        """The device does not know which rows it has: all text is dropped."""
        self.rewind(0)
        return 0

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self._kernel.device)


def decoder_on_gpu(
    cpu: Decoder, weights: Mapping[str, npt.NDArray[Any]], evidence_layers: Iterable[int], *, required: bool
) -> Decoder:
    """A decoder on the GPU that agrees with ``cpu``, or ``cpu`` itself; the log says why.

    Parameters
    ----------
    cpu, weights, evidence_layers
        The decoder on the CPU and what it was made of.
    required : bool
        Whether a GPU that cannot be used is an error. A build without the CUDA library is none: there the GPU has the
        vision graph to itself.

    Raises
    ------
    DeviceError
        Required, and the GPU cannot be used or does not agree.
    """
    try:
        device = cuda_device()
        decoder = CudaDecoder(
            cpu.spec,
            weights,
            kv_dtype=cpu.kv_dtype,
            evidence_layers=evidence_layers,
            draft_table=cpu.draft_table,
        )
        check_agreement(decoder, cpu)
    except DeviceError as error:
        if required and library_path().exists():
            raise
        log.info("decoding on the CPU: %s", error)
        return cpu
    log.info("decoding on %s", device.name)
    decoder.host = cpu
    return decoder


def check_agreement(decoder: CudaDecoder, cpu: Decoder) -> None:
    """Compare a device's decoder with the CPU's on the same weights: a chunk of rows, then a greedy text.

    A few milliseconds, so that nothing that the kernels' tests on other hardware could not show - a driver, a card, a
    compiler - ever writes a report unnoticed. Both decoders lose their prefix.

    Raises
    ------
    DeviceError
        They do not agree.
    """
    spec = decoder.spec
    rng = np.random.default_rng(0)
    room = spec["max_positions"] - spec.get("position_offset", 0)
    length = max(1, min(150, room - 12))
    shape = (spec["layers"], spec["heads"], length, spec["head_dim"])
    keys, values = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    bias = rng.random((spec["layers"], length), dtype=np.float32)
    for one in (decoder, cpu):
        one.set_prefix(keys, values, bias)
    ids = rng.integers(0, spec["vocab"], min(5, room - length)).astype(np.int32)
    got, want = decoder.forward(ids), cpu.forward(ids)
    error = _nmse(got, want)
    tokens = min(6, room - length - len(ids))
    if tokens > 0:
        text = decoder.generate(None, GenerationOptions(forced_ids=tuple(int(i) for i in ids), max_new_tokens=tokens))
        # The CPU on the device's own text: a near-tie may go either way, the probabilities may not.
        cpu.rewind(0)
        rows = cpu.forward([*ids, *text.token_ids[:-1]])[len(ids) - 1 :]
        expected = [_log_softmax(row)[token] for row, token in zip(rows, text.token_ids, strict=True)]
        error = max(error, _nmse(np.exp(text.logprobs), np.exp(np.array(expected))))
    limit = max(_AGREEMENT[decoder.weight_dtype], 1e-3 if decoder.kv_dtype == "int8" else 0.0)
    if not error <= limit:
        raise DeviceError(
            f"{decoder.device} does not compute what the CPU computes (error {error:.1e}, at most {limit:.0e} is "
            "expected): it is not used"
        )


def _nmse(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(((got - want) ** 2).sum() / max(float((want**2).sum()), 1e-300))


def _log_softmax(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = row.astype(np.float64) - float(row.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
