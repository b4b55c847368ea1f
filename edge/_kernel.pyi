# SPDX-License-Identifier: Apache-2.0
"""The compiled decoding kernel. Use it through edge.decoder, which adds types and errors.

Floats of another type or layout are converted first; ids are int32. Where a value or a shape is wrong ``ValueError``
says which; arguments of another type are a ``TypeError``, what fails in a run is a ``RuntimeError``. The interpreter's
lock is free during long calls.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ops: Any  # single kernels, for the tests only

def isa_supported() -> list[str]:
    """Instruction sets this machine can run, weakest first."""

def isa_selected() -> str:
    """The best one, or the one that EDGE_ISA names; ValueError where the machine lacks it."""

class ReadMeter:
    """How fast threads read memory: a buffer of so many bytes, each thread a part of it."""

    def __init__(self, bytes: int, threads: int) -> None: ...
    def passes(self, seconds: float) -> list[float]:
        """GB/s of every pass within so many seconds, at least three."""

class MultiplyMeter:
    """How fast threads multiply integers, without memory."""

    def __init__(self, threads: int, isa: str | None = ...) -> None: ...
    def passes(self, seconds: float) -> list[float]:
        """1e9 products per second, all threads together, of every pass within so many seconds, at least three."""

class BusyError(RuntimeError):
    """The decoder is at work already, perhaps in a callback of its own."""

class DeviceUnusable(RuntimeError):
    """No CUDA library, driver, device or memory; the text says which."""

class ModelUnsupported(DeviceUnusable):
    """The device is there, and its kernels do not take this model."""

def device_copy_bandwidth(library: str, bytes: int) -> float:
    """GB/s, read and written together, of copies of so many bytes within the device's memory."""

def cuda_device(library: str) -> dict[str, Any]:
    """What the CUDA library at this path says about its device; DeviceUnusable where there is none."""

def device_read(library: str, address: int, array: NDArray[Any]) -> None:
    """Fill an array with as many bytes from an address of the device."""

class DeviceBuffer:
    """So many bytes of the device's memory; `write` and `read` move a whole array of as many."""

    def __init__(self, library: str, bytes: int) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def write(self, array: NDArray[Any]) -> None: ...
    def read(self, array: NDArray[Any]) -> None: ...

class DeviceStream:
    """A stream of the device; `handle` is its cudaStream_t."""

    def __init__(self, library: str) -> None: ...
    @property
    def handle(self) -> int: ...
    def wait(self) -> None: ...

class DeviceGraph:
    """What `work` gave to a stream, recorded, to be done again by `replay`; RuntimeError where it returned false."""

    def __init__(self, stream: DeviceStream, work: Callable[[], bool]) -> None: ...
    def replay(self) -> None: ...

class CancelToken:
    """Ends the texts it is given to, from any thread, at their next token; it stays cancelled."""

    def __init__(self) -> None: ...
    def cancel(self) -> None: ...
    @property
    def cancelled(self) -> bool: ...

class GenerationResult:
    """A text, as :class:`edge.generation.Generation`.

    logprobs are float32 [tokens], natural; evidence is float32 [tokens, image keys], [tokens, 0] without evidence
    layers; sequences and their float32 scores are of beams, best first.
    """

    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> NDArray[np.float32]: ...
    @property
    def evidence(self) -> NDArray[np.float32]: ...
    @property
    def forced_ids(self) -> list[int]: ...
    @property
    def stop_reason(self) -> Literal["stop", "length", "cancelled"]: ...
    @property
    def decode_seconds(self) -> float: ...
    @property
    def sequences(self) -> list[list[int]]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def passes(self) -> int: ...
    @property
    def drafted(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def sketch_passes(self) -> int: ...

class DraftTable:
    """What usually follows which words: a trie over contexts read backwards (docs/bundle.md).

    children is [nodes + 1]; tokens, next and share are [nodes], ids below `vocab` and shares above 0 and up to 1. The
    arrays are read in place. ValueError where they are no such trie.
    """

    def __init__(
        self,
        children: NDArray[np.int32],
        tokens: NDArray[np.int32],
        next: NDArray[np.int32],
        share: NDArray[np.float32],
        vocab: int,
    ) -> None: ...
    @property
    def nodes(self) -> int: ...
    def guess(self, text: Sequence[int]) -> tuple[int, float]:
        """The id that follows the longest known end of `text` most often, and how often it does, 0 to 1."""

class TextOptions:
    """Options of a text, as keywords of ``Decoder.generate``, too."""

    def __init__(
        self,
        *,
        begin_ids: Sequence[int] = ...,
        forced_ids: Sequence[int] = ...,
        bias_rows: str = "all",
        max_new_tokens: int = 100,
        repetition_penalty: float = 1.0,
        stop_ids: Sequence[int] = ...,
        suppressed_ids: Sequence[int] = ...,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        draft: bool = False,
        draft_table: DraftTable | None = None,
        sketch: bool = False,
        draft_script: Sequence[Sequence[int]] = ...,
        draft_costs: Sequence[float] = ...,
        no_repeat_ngram: int = 0,
        min_new_tokens: int = 0,
        penalise_prompt: bool = False,
        forced_end: int = -1,
        counted_begin: int = 0,
        beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: str = "no",
        sequences: int = 1,
    ) -> None: ...

class Decoder:
    """The decoder of the CPU, as :class:`edge.decoder.Decoder`; one call at a time, others get a BusyError.

    weights: [rows, columns] in float32, int8 (with a float32 scale [rows]) or int4 (uint8 [rows, columns / 2], with a
    float16 scale [rows, columns / 32]), read in place. ``*_bytes`` are bytes that the next step reads.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        weights: Mapping[str, NDArray[Any]],
        *,
        kv_dtype: str = "fp32",
        threads: int,
        isa: str | None = None,
        evidence_layers: Sequence[int] = ...,
        prefill_int8: Sequence[str] = ...,
        screen_head: bool | None = ...,
        sketch: bool | None = ...,
    ) -> None: ...
    def set_prefix(
        self,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        key_bias: NDArray[np.float32] | None = None,
        drop_hidden: bool = False,
    ) -> None:
        """keys, values: [layers, heads, prefix, head_dim]; key_bias: [layers, prefix or more keys]. Drops all text."""
    def prefill(
        self,
        embeddings: NDArray[np.float32],
        key_bias: NDArray[np.float32] | None = None,
        *,
        bias: bool = True,
        drop_hidden: bool = False,
        with_cache: bool = False,
        lane: int = 0,
    ) -> Any:
        """Logits [vocab] of the last row of embeddings [prefix, hidden].

        With `with_cache` (logits, keys, values), the latter [layers, heads, prefix, head_dim].
        """
    def lane_kept_keys(self, lane: int) -> int:
        """As `kept_keys`, of a lane."""
    def lane_cache_bytes(self, lane: int) -> int:
        """As `cache_bytes`, of a lane."""
    def set_lane_prefix(
        self,
        lane: int,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        key_bias: NDArray[np.float32] | None = None,
        drop_hidden: bool = False,
    ) -> None:
        """As `set_prefix`, of one of the lanes 0 to 15."""
    def generate_texts(
        self,
        texts: Sequence[
            tuple[int, NDArray[np.float32] | None, TextOptions, Callable[[int, float], bool | None] | None]
        ],
        *,
        cancel: CancelToken | None = None,
    ) -> list[GenerationResult]:
        """Texts of lanes at once: (lane, first logits [vocab] or None, options, on_token or None) each."""
    def forward(self, ids: NDArray[np.int32], bias: bool) -> NDArray[np.float32]:
        """Append text rows; their logits [ids, vocab]. ValueError where positions run out."""
    def rewind(self, n_text: int) -> None:
        """Drop all text rows but the first so many."""
    def keep(self, ids: NDArray[np.int32], bias: bool) -> int:
        """Drop the text rows from the first that is not of `ids` or was made otherwise; how many are left."""
    def generate(
        self,
        first_logits: NDArray[np.float32] | None = None,
        *,
        on_token: Callable[[int, float], bool | None] | None = None,
        cancel: CancelToken | None = None,
        **options: Any,
    ) -> GenerationResult:
        """A text; first_logits [vocab] are of the film's last row. options: those of :class:`TextOptions`.

        on_token gets (id, log-probability); False cancels. RuntimeError where the logits are not finite.
        """
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def sketches(self) -> bool: ...
    @property
    def prefix_rows(self) -> int: ...
    @property
    def text_rows(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kept_keys(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...

class CudaDecoder:
    """The same on a CUDA device: weights are copied there; there is one lane. DeviceUnusable where it cannot be."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        weights: Mapping[str, NDArray[Any]],
        *,
        library: str,
        kv_dtype: str,
        weight_dtype: str,
        way: str = "steps",
        evidence_layers: Sequence[int] = ...,
    ) -> None: ...
    @property
    def has_persistent(self) -> bool: ...
    persistent: bool
    def set_prefix(
        self,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        key_bias: NDArray[np.float32] | None = None,
        drop_hidden: bool = False,
    ) -> None:
        """keys, values: [layers, heads, prefix, head_dim]; key_bias: [layers, prefix or more keys]. Drops all text."""
    def set_prefix_on_device(
        self, keys: int, values: int, length: int, key_bias: int = 0, bias_length: int = 0
    ) -> None:
        """As `set_prefix`, by addresses of float32 arrays on the device; key_bias 0 for none."""
    def forward(self, ids: NDArray[np.int32], bias: bool) -> NDArray[np.float32]:
        """As :meth:`Decoder.forward`."""
    def rewind(self, n_text: int) -> None:
        """As :meth:`Decoder.rewind`."""
    def generate(self, first_logits: NDArray[np.float32] | None = None, **options: Any) -> GenerationResult:
        """As :meth:`Decoder.generate`, greedy or sampled."""
    @property
    def device(self) -> str: ...
    @property
    def prefix_rows(self) -> int: ...
    @property
    def text_rows(self) -> int: ...
    @property
    def kept_keys(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
