# SPDX-License-Identifier: Apache-2.0
"""The decoding kernel from Python: weights from a file, options from a manifest, typed errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from edge.errors import BundleError, DeviceError, ProcessingError, UsageError
from edge.generation import BiasRows, Generation, GenerationOptions, OnToken, TextRequest
from edge.threads import NO_THREAD, check_threads

__all__ = ["BiasRows", "Decoder", "Generation", "GenerationOptions", "OnToken", "TextRequest"]

KvDtype = Literal["fp32", "fp16", "int8"]


def _guarded(on_token: OnToken | None, raised: list[BaseException]) -> OnToken | None:
    """A callback for the kernel: an exception in it ends the text and is kept."""
    if on_token is None:
        return None

    def guarded(token: int, logprob: float) -> bool:
        try:
            return on_token(token, logprob) is not False
        except BaseException as error:
            raised.append(error)
            return False

    return guarded


def _generation(result: Any) -> Generation:
    return Generation(
        token_ids=list(result.token_ids),
        logprobs=result.logprobs,
        stop_reason=result.stop_reason,
        evidence=result.evidence,
        decode_seconds=result.decode_seconds,
        forced_ids=list(result.forced_ids),
        passes=int(result.passes),
        drafted=int(result.drafted),
        accepted=int(result.accepted),
        sketch_passes=int(result.sketch_passes),
        sequences=[(list(ids), float(s)) for ids, s in zip(result.sequences, result.scores, strict=True)],
    )


def cancel_token() -> Any:
    """A token whose ``cancel()``, called from any thread, ends a running ``Decoder.generate``."""
    return _kernel().CancelToken()


def isa_supported() -> list[str]:
    """Instruction sets that this build and this machine share, weakest first."""
    return list(_kernel().isa_supported())


def isa_selected() -> str:
    """The instruction set in use: the best one, or the one the environment variable EDGE_ISA names.

    Raises
    ------
    DeviceError
        EDGE_ISA names an unknown one, or one this machine lacks.
    """
    try:
        return str(_kernel().isa_selected())
    except ValueError as error:
        raise DeviceError(str(error)) from error


def is_cancel_token(token: object) -> bool:
    """Whether the kernel can be stopped by it."""
    return isinstance(token, _kernel().CancelToken)


def _kernel() -> Any:
    try:
        from edge import _kernel as module
    except ImportError as error:
        raise DeviceError(f"the compiled decoding kernel does not load ({error}); reinstall the package") from error
    return module


def check_kv(kv_dtype: str | None) -> KvDtype | None:
    """A type of the KV cache, or None.

    Raises
    ------
    UsageError
        It is neither.
    """
    if kv_dtype is not None and kv_dtype not in get_args(KvDtype):
        raise UsageError(f"kv_dtype {str(kv_dtype)[:40]!r} is not one of {', '.join(get_args(KvDtype))}")
    return cast(KvDtype | None, kv_dtype)


class Decoder:
    """A decoder on the CPU: weights, KV cache and a team of threads.

    One generation at a time: a second concurrent call is refused. Several decoders may live in one process and
    share the same weight arrays.

    Parameters
    ----------
    spec : mapping
        The manifest's decoder spec.
    weights : mapping of str to ndarray
        Arrays by name: float32, int8 or packed int4 with scales, matrix by matrix. Kept alive and read in place
        when C-contiguous.
    kv_dtype : {"fp32", "fp16", "int8"}, optional
        Of the KV cache (int8: a scale per head and position); by default fp32 where every matrix is float32, else fp16.
    threads : int, optional
        Including the caller's; by default the physical cores this process may run on.
    isa : str, optional
        Instruction set; by default EDGE_ISA, else the best one.
    evidence_layers : iterable of int
        Layers whose attention over the image is gathered per token; none: no evidence.
    prefill_int8 : iterable of str
        Matrices, such as ``layers.0.mlp_in``, whose products in a prefill have activations of 8 bits; without effect on
        float32 matrices.
    draft_table : table of :func:`edge.draft.load_draft_table`, optional
        What texts are drafted from, beside themselves.
    sketch : bool, optional
        Whether the layers' float32 matrices have a copy in int8, by which greedy texts are drafted (`draft` of the
        options); the result is the same bit by bit. By default from 32 MiB on, unless ``isa`` is generic; it is made
        for the first text and takes a quarter of their memory.
    screen_head : bool, optional
        Whether greedy steps look at the head roughly first, and in full only at the rows that could win or that weigh a
        ten-thousandth of the probability: of a float32 head they read 8 bits, with an int8 or int4 head they multiply
        the activations' upper digits, where the processor multiplies bytes. Ids are the same, by a proven bound;
        log-probabilities move by the rounding of what is lighter. By default from 32 MiB on (a weight of int4 counts as
        a byte), of float32 unless ``isa`` is generic.

    Raises
    ------
    BundleError
        Spec or weights are not what the kernel implements, naming each difference.
    DeviceError
        The instruction set is unknown or missing here.
    UsageError
        ``threads`` or ``kv_dtype`` out of range.
    """

    lanes = 16
    """Films whose texts can be written at once."""
    prefix_serial = 0
    """How many films have been put into the cache: whoever remembers it knows whether theirs is still there."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        weights: Mapping[str, npt.NDArray[Any]],
        *,
        kv_dtype: KvDtype | None = None,
        threads: int | None = None,
        isa: str | None = None,
        evidence_layers: Iterable[int] = (),
        prefill_int8: Iterable[str] = (),
        draft_table: Any = None,
        screen_head: bool | None = None,
        sketch: bool | None = None,
    ) -> None:
        kernel = _kernel()
        if kv_dtype is None:
            quantized = any(array.dtype in (np.int8, np.uint8) for array in weights.values())
            kv_dtype = "fp16" if quantized else "fp32"
        check_kv(kv_dtype)
        if isa:
            supported = kernel.isa_supported()
            if isa not in supported:
                raise DeviceError(f"instruction set {isa!r} cannot run here; choices: {', '.join(supported)}")
        else:
            isa_selected()
        try:
            self._kernel = kernel.Decoder(
                dict(spec),
                dict(weights),
                kv_dtype=kv_dtype,
                threads=check_threads(threads),
                isa=isa,
                evidence_layers=list(evidence_layers),
                prefill_int8=list(prefill_int8),
                screen_head=screen_head,
                sketch=sketch,
            )
        except (ValueError, TypeError) as error:
            raise BundleError(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            message = str(error) or "out of memory"
            raise ProcessingError(NO_THREAD if message == os.strerror(errno.EAGAIN) else message) from error
        self.spec = dict(spec)
        self.kv_dtype = kv_dtype
        self._draft_table = draft_table

    @property
    def draft_table(self) -> Any:
        """What texts are drafted from beside themselves, or None."""
        return self._draft_table

    @classmethod
    def from_files(cls, spec: Mapping[str, Any], path: str | Path, **options: Any) -> Decoder:
        """A decoder on a memory-mapped safetensors file; ``options`` as for the class."""
        from edge.weights import map_safetensors

        return cls(spec, map_safetensors(Path(path)), **options)

    @property
    def isa(self) -> str:
        """Instruction set in use."""
        return str(self._kernel.isa)

    @property
    def threads(self) -> int:
        """Threads of a step, the caller's included."""
        return int(self._kernel.threads)

    @property
    def sketches(self) -> bool:
        """Whether it has a copy in int8 to draft with."""
        return bool(self._kernel.sketches)

    @property
    def text_rows(self) -> int:
        """Text rows in the cache."""
        return int(self._kernel.text_rows)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights and cache that the next decode step reads."""
        return self.bytes_per_token_in(0)

    def bytes_per_token_in(self, lane: int) -> int:
        """The same of a lane; the weights are read once for all."""
        cache = self._kernel.lane_cache_bytes(lane) if lane else self._kernel.cache_bytes
        return int(self._kernel.weight_bytes + cache)

    @property
    def kept_keys(self) -> int:
        """Image keys in the cache, summed over the layers: fewer than layers times prefix where hidden ones are
        left out."""
        return self.kept_keys_in(0)

    def kept_keys_in(self, lane: int) -> int:
        """The same of a lane."""
        return int(self._kernel.lane_kept_keys(lane) if lane else self._kernel.kept_keys)

    def set_prefix(
        self,
        keys: npt.NDArray[np.float32],
        values: npt.NDArray[np.float32],
        key_bias: npt.NDArray[np.float32] | None = None,
        drop_hidden: bool = False,
        lane: int = 0,
    ) -> None:
        """Begin a new film: copy its prefix into the cache and drop all text.

        Parameters
        ----------
        keys, values : ndarray, float32, [layers, heads, prefix, head_dim]
        key_bias : ndarray, float32, [layers, n], optional
            Added to the scores of the first n keys, strength included. n is the prefix, or more where the bias
            covers text keys too.
        drop_hidden : bool
            Leave out of the cache, layer by layer, the image keys whose bias is the lowest finite number. Rows with
            the bias give them no weight at all, so their result stays what it is, up to the rounding of shorter sums;
            rows without it (``bias_rows`` other than all) are refused afterwards.
        lane : int
            One of up to 16 films whose texts :meth:`generate_several` writes at once; every other method is about
            lane 0. A lane takes memory from when it is first used.

        Raises
        ------
        ProcessingError
            A wrong shape, or a prefix longer than the decoder's positions.
        """
        if lane:
            self._call(self._kernel.set_lane_prefix, int(lane), keys, values, key_bias, bool(drop_hidden))
            return
        self.prefix_serial += 1
        self._call(self._kernel.set_prefix, keys, values, key_bias, bool(drop_hidden))

    def prefill(
        self,
        embeddings: npt.NDArray[np.float32],
        key_bias: npt.NDArray[np.float32] | None = None,
        *,
        bias: bool = True,
        drop_hidden: bool = False,
        lane: int = 0,
    ) -> npt.NDArray[np.float32]:
        """Begin a new film: compute its prefix from embeddings, put it into the cache and drop all text.

        Parameters
        ----------
        embeddings : ndarray, float32, [prefix, hidden]
            Without positions: these are added here.
        key_bias : ndarray, float32, [layers, n], optional
            As for :meth:`set_prefix`.
        bias : bool
            Whether the rows of the prefix get the key bias; text rows say so themselves.
        drop_hidden : bool
            As for :meth:`set_prefix`; the prefix itself is computed with all keys.
        lane : int
            As for :meth:`set_prefix`.

        Returns
        -------
        ndarray, float32, [vocab]
            Logits of the last row.

        Raises
        ------
        ProcessingError
            A wrong shape, or a prefix longer than the decoder's positions.
        """
        if lane == 0:
            self.prefix_serial += 1
        logits: npt.NDArray[np.float32] = self._call(
            self._kernel.prefill, embeddings, key_bias, bias=bool(bias), drop_hidden=bool(drop_hidden), lane=int(lane)
        )
        return logits

    def prefill_with_cache(
        self,
        embeddings: npt.NDArray[np.float32],
        key_bias: npt.NDArray[np.float32] | None = None,
        *,
        bias: bool = True,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """:meth:`prefill`, and beside the logits its keys and values in float32 [layers, heads, prefix, head_dim]."""
        self.prefix_serial += 1
        logits, keys, values = self._call(self._kernel.prefill, embeddings, key_bias, bias=bool(bias), with_cache=True)
        return logits, keys, values

    def forward(self, ids: npt.ArrayLike, bias: bool = True) -> npt.NDArray[np.float32]:
        """Append rows to the text and return their logits [n, vocab] (teacher forcing).

        ``bias`` says whether these rows get the key bias. Logits do not depend on how rows are chunked.

        Raises
        ------
        ProcessingError
            Ids outside the vocabulary, more rows than positions are left, or no prefix.
        """
        rows = np.atleast_1d(np.asarray(ids))
        # Before the cast to 32 bits, which would wrap.
        if rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= self.spec["vocab"]):
            raise ProcessingError(f"decoder: ids must be integers below the vocabulary of {self.spec['vocab']}")
        logits: npt.NDArray[np.float32] = self._call(
            self._kernel.forward, np.ascontiguousarray(rows, dtype=np.int32), bool(bias)
        )
        return logits

    def rewind(self, n_text: int) -> None:
        """Drop the text rows after the first ``n_text``."""
        self._call(self._kernel.rewind, int(n_text))

    def keep(self, ids: Iterable[int], bias: bool = True) -> int:
        """Drop the text rows after those that a text of `ids`, rows of this `bias`, would begin with.

        Returns
        -------
        int
            How many rows are left: so many of `ids` need no :meth:`forward`.
        """
        return int(self._call(self._kernel.keep, np.asarray(list(ids), dtype=np.int32), bool(bias)))

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
        """Write a text after the prefix; text that is there is dropped, but for the rows it shares with the prompt.

        Parameters
        ----------
        first_logits : ndarray, float32, [vocab], or None
            Logits of the last prefix row. Not used where there is a prompt (begin or forced ids).
        options : GenerationOptions
        on_token : callable
            Called with (id, log-probability) after each token; returning False ends the text as cancelled, an
            exception ends it and is raised here.
        cancel : token of :func:`cancel_token`
        draft_script : iterable of iterables of int
            For tests and measurements: the ids to draft where so many have been generated, instead of guesses.
        draft_costs : iterable of float
            For tests and measurements: what passes over 1 to 16 rows cost, instead of what is assumed.

        Raises
        ------
        ProcessingError
            Ids outside the vocabulary, options out of range, no prefix, logits that are not finite, or another
            generation running on this decoder.
        """
        raised: list[BaseException] = []
        result = self._call(
            self._kernel.generate,
            first_logits,
            on_token=_guarded(on_token, raised),
            cancel=cancel,
            **self._text_options(options or GenerationOptions()),
            draft_script=[list(draft) for draft in draft_script],
            draft_costs=list(draft_costs),
        )
        if raised:
            raise raised[0]
        return _generation(result)

    def generate_several(self, texts: Sequence[TextRequest], *, cancel: Any = None) -> list[Generation]:
        """Write the texts of several films at once; each is the one that it would be alone.

        A row of every text shares a pass over the weights; what is left of the 16 rows of a pass serves drafts.

        Parameters
        ----------
        texts : sequence of TextRequest
            Each in a lane of its own, whose prefix has been set. With beams a text takes as many rows: 16 together.
        cancel : token of :func:`cancel_token`
            Ends all of them.

        Raises
        ------
        ProcessingError
            As for :meth:`generate`; or two texts in one lane, or more rows than a pass has.
        """
        kernel, raised = _kernel(), list[BaseException]()

        def one(text: TextRequest) -> tuple[int, Any, Any, Any]:
            options = self._call(kernel.TextOptions, **self._text_options(text.options))
            return text.lane, text.first_logits, options, _guarded(text.on_token, raised)

        results = self._call(self._kernel.generate_texts, [one(text) for text in texts], cancel=cancel)
        if raised:
            raise raised[0]
        return [_generation(result) for result in results]

    def _text_options(self, o: GenerationOptions) -> dict[str, Any]:
        """The kernel's names of them."""
        return {
            "begin_ids": list(o.begin_ids),
            "forced_ids": list(o.forced_ids),
            "bias_rows": o.bias_rows,
            "max_new_tokens": o.max_new_tokens,
            "repetition_penalty": o.repetition_penalty,
            "stop_ids": list(o.stop_ids),
            "suppressed_ids": list(o.suppressed_ids),
            "temperature": o.temperature,
            "top_k": o.top_k,
            "top_p": o.top_p,
            "seed": o.seed,
            "draft": o.draft is True,
            "draft_table": self._draft_table if o.draft is True else None,
            "sketch": bool(o.draft),
            "no_repeat_ngram": o.no_repeat_ngram,
            "min_new_tokens": o.min_new_tokens,
            "penalise_prompt": o.penalise_prompt,
            "forced_end": o.forced_end_id,
            "counted_begin": o.counted_begin,
            "beams": o.beams,
            "length_penalty": o.length_penalty,
            "early_stopping": o.early_stopping,
            "sequences": o.sequences,
        }

    @staticmethod
    def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError, RuntimeError, MemoryError) as error:
            message = str(error).splitlines()[0] if str(error) else "out of memory"
            raise ProcessingError(f"decoder: {message}") from error
