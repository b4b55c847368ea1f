# SPDX-License-Identifier: Apache-2.0
"""The compiled decoding kernel. Use it through edge.decoder, which adds types and errors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ops: Any  # single kernels, for the tests only

def isa_supported() -> list[str]: ...
def isa_selected() -> str: ...

class ReadMeter:
    def __init__(self, bytes: int, threads: int) -> None: ...
    def passes(self, seconds: float) -> list[float]: ...

class MultiplyMeter:
    def __init__(self, threads: int, isa: str | None = ...) -> None: ...
    def passes(self, seconds: float) -> list[float]: ...

class BusyError(RuntimeError): ...
class DeviceUnusable(RuntimeError): ...
class ModelUnsupported(DeviceUnusable): ...

def device_copy_bandwidth(library: str, bytes: int) -> float: ...
def cuda_device(library: str) -> dict[str, Any]: ...
def device_read(library: str, address: int, array: NDArray[Any]) -> None: ...

class DeviceBuffer:
    def __init__(self, library: str, bytes: int) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def write(self, array: NDArray[Any]) -> None: ...
    def read(self, array: NDArray[Any]) -> None: ...

class DeviceStream:
    def __init__(self, library: str) -> None: ...
    @property
    def handle(self) -> int: ...
    def wait(self) -> None: ...

class DeviceGraph:
    def __init__(self, stream: DeviceStream, work: Callable[[], bool]) -> None: ...
    def replay(self) -> None: ...

class CancelToken:
    def __init__(self) -> None: ...
    def cancel(self) -> None: ...
    @property
    def cancelled(self) -> bool: ...

class GenerationResult:
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
    def guess(self, text: Sequence[int]) -> tuple[int, float]: ...

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
    ) -> None: ...
    def prefill(
        self,
        embeddings: NDArray[np.float32],
        key_bias: NDArray[np.float32] | None = None,
        *,
        bias: bool = True,
        drop_hidden: bool = False,
        with_cache: bool = False,
        lane: int = 0,
    ) -> Any: ...
    def lane_kept_keys(self, lane: int) -> int: ...
    def lane_cache_bytes(self, lane: int) -> int: ...
    def set_lane_prefix(
        self,
        lane: int,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        key_bias: NDArray[np.float32] | None = None,
        drop_hidden: bool = False,
    ) -> None: ...
    def generate_texts(
        self,
        texts: Sequence[
            tuple[int, NDArray[np.float32] | None, TextOptions, Callable[[int, float], bool | None] | None]
        ],
        *,
        cancel: CancelToken | None = None,
    ) -> list[GenerationResult]: ...
    def forward(self, ids: NDArray[np.int32], bias: bool) -> NDArray[np.float32]: ...
    def rewind(self, n_text: int) -> None: ...
    def keep(self, ids: NDArray[np.int32], bias: bool) -> int: ...
    def generate(
        self,
        first_logits: NDArray[np.float32] | None = None,
        *,
        on_token: Callable[[int, float], bool | None] | None = None,
        cancel: CancelToken | None = None,
        **options: Any,
    ) -> GenerationResult: ...
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
    ) -> None: ...
    def set_prefix_on_device(
        self, keys: int, values: int, length: int, key_bias: int = 0, bias_length: int = 0
    ) -> None: ...
    def forward(self, ids: NDArray[np.int32], bias: bool) -> NDArray[np.float32]: ...
    def rewind(self, n_text: int) -> None: ...
    def generate(self, first_logits: NDArray[np.float32] | None = None, **options: Any) -> GenerationResult: ...
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
