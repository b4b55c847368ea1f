# SPDX-License-Identifier: Apache-2.0
"""One film, looked at once: reports and completions that cost only their own tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edge.errors import Cancelled, UsageError
from edge.numeric import as_whole
from edge.prompt import Context, FindingState, room_behind, states_of
from edge.report import Report, Sentence, make_sentences, provenance
from edge.tail import Tail, begin_word
from edge.text import TextStream, cut_at_sentence, text_warnings
from edge.timing import Clock
from edge.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.decoder import Generation, GenerationOptions
    from edge.engine import Engine
    from edge.generation import Draft
    from edge.manifest import BiasRows
    from edge.prepare import Prepared
    from edge.prompt import ContextTexts
    from edge.vision import VisionOutput

    CancelToken: TypeAlias = Any
    OnText: TypeAlias = Callable[[str], None]

_FEW_ROWS = 4
SYNTHETIC = "the model was trained on synthetic data only"


def beside_notice(report: Report) -> list[str]:
    """A report's warnings but for the one that its notice has said already."""
    return [warning for warning in report.warnings if warning != SYNTHETIC or not report.notice]


def check_callbacks(on_text: object, cancel: object) -> None:
    """Refuse what cannot be called, and what cannot be cancelled: both would be found out in mid-report.

    Raises
    ------
    UsageError
    """
    if on_text is not None and not callable(on_text):
        raise UsageError(f"on_text must be a function of a text, not {type(on_text).__name__}")
    if cancel is not None:
        from edge.decoder import is_cancel_token

        if not is_cancel_token(cancel):
            raise UsageError(f"cancel must be an edge.CancelToken, not {type(cancel).__name__}")


@dataclass(frozen=True)
class Asked:
    """A report as it was asked for, checked."""

    options: GenerationOptions
    context: Context
    prompt: str = ""
    cut: bool = False
    on_text: OnText | None = None
    cancel: CancelToken | None = None


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a text.

    Attributes
    ----------
    text : str
        To be appended to the given text as it is.
    sentences : tuple of Sentence
        Those that hold something the model wrote, whole; confidence and evidence are of that part alone.
    token_ids : tuple of int
        Generated ones: the first of what a report with the same prompt would go on with.
    logprobs : tuple of float
    stop_reason : str
        ``sentence`` (as many sentences as asked for), ``stop`` (the model ended the report) or ``length``.
    timings_ms : dict of str to float
        ``first_token`` and ``decode``; and ``total``.
    """

    text: str
    sentences: tuple[Sentence, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: Literal["sentence", "stop", "length"]
    timings_ms: dict[str, float]


class FilmSession:
    """A film, or a study, that the model has looked at; made by :meth:`edge.Engine.open`.

    The vision graph has run; what it gave stays with the session (``nbytes``), and the image in the decoder's cache as
    long as no other film is looked at in between. Any number of sessions of one engine may be open; their calls are
    made one after the other, from any thread.

    Attributes
    ----------
    mask : ndarray uint8 [mask_h, mask_w] of 0 and 1, or None
        Lungs and heart as the segmenters see them.
    warnings : tuple of str
        About the film and its mask, known before any text is.
    states : tuple of FindingState
        What the model's classifier says about each of its findings; empty without one.
    nbytes : int
        Bytes of arrays that the session holds.
    """

    def __init__(
        self,
        engine: Engine,
        ready: Sequence[Prepared],
        seen: VisionOutput,
        rows: BiasRows,
        warnings: list[str],
        clock: Clock,
    ) -> None:
        self._engine, self._rows, self._clock = engine, rows, clock
        self._seen: VisionOutput | None = seen
        self._gray, self._input = ready[0].gray, provenance([one.film for one in ready])
        self._images = len(ready)
        self._state_ids: tuple[int, ...] = ()
        self.states: tuple[FindingState, ...] = ()
        if (spec := engine.manifest.generation.states) is not None:
            assert seen.prompt_logits is not None  # an output that the graph was checked for
            self._state_ids, self.states = states_of(spec, seen.prompt_logits)
        self._prefix_serial = -1
        self._first_logits: NDArray[np.float32] | None = None
        self.mask: NDArray[np.uint8] | None = None if seen.mask is None else (seen.mask > 0.5).astype("uint8")
        self.warnings = tuple(dict.fromkeys([*(w for one in ready for w in one.film.warnings), *warnings]))
        self.nbytes = ready[0].gray.nbytes + seen.nbytes

    def report(
        self,
        *,
        max_new_tokens: int | None = None,
        context: ContextTexts = None,
        prompt: str = "",
        repetition_penalty: float | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        cut: bool | None = None,
        draft: Draft | None = None,
        beams: int | None = None,
        on_text: OnText | None = None,
        cancel: CancelToken | None = None,
    ) -> Report:
        """Draft the findings; everything as with :meth:`edge.Engine.report`, whose ids these are.

        Raises
        ------
        UsageError, ProcessingError, Cancelled
        """
        asked = self._engine._asked(
            context=context,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            repetition_penalty=repetition_penalty,
            sampling=(temperature, top_k, top_p, seed),
            cut=cut,
            draft=draft,
            beams=beams,
            on_text=on_text,
            cancel=cancel,
        )
        return self._report(asked)

    def room(self, text: str) -> int:
        """How many tokens may follow `text`, without a context, before the model's positions are used up; below 1:
        it is too long."""
        engine = self._engine
        return room_behind(engine.manifest, engine.read_context(None), len(engine._text.encode(text)))

    def complete(
        self,
        text: str,
        *,
        sentences: int | None = 1,
        partial_word: bool = False,
        context: ContextTexts = None,
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
        cancel: CancelToken | None = None,
    ) -> Completion:
        """Go on writing after `text`, greedily.

        Parameters
        ----------
        text
            The findings so far. White space at its end is the model's to write, and is not written twice.
        sentences
            End after so many sentences, the one that `text` begins counts. ``None``: go on to the end of the report.
        partial_word
            The last word of `text` may be a word's beginning: "The hea" becomes "The heart", not what happens to follow
            the tokens of "hea". Otherwise the ids are those of a report with `text` as its prompt.
        context
            As for :meth:`edge.Engine.report`.
        max_new_tokens
            Token cap. Default: the bundle's.
        on_text
            Called with pieces of the completion as they come; put together they are `Completion.text`.
        cancel
            As for :meth:`edge.Engine.report`.

        Raises
        ------
        UsageError
            Among others: there is no room for more text.
        ProcessingError, Cancelled
        """
        if not isinstance(text, str):
            raise UsageError("the text to complete must be a text")
        check_callbacks(on_text, cancel)
        wanted = as_whole(sentences)
        if sentences is not None and (wanted is None or wanted < 1):
            raise UsageError("sentences must be a whole number from 1, or None")
        asked = self._engine._asked(
            context=context, prompt=text.rstrip(), max_new_tokens=max_new_tokens, cancel=cancel, beams=1
        )
        with self._engine._lock:
            return self._complete(text, asked, wanted, partial_word, on_text)

    def _complete(
        self, text: str, asked: Asked, sentences: int | None, partial_word: bool, on_text: OnText | None
    ) -> Completion:
        clock, begun = Clock(), None
        if partial_word:
            begun = begin_word(self._engine._text, text, partial(self._after, asked.context))
            asked = asked if begun is None else replace(asked, options=asked.options.but(forced_ids=begun))
        forced = list(asked.options.forced_ids)
        given = len(self._engine._text.decode(asked.options.forced_ids)) if begun is None else len(text)
        tail = Tail(self._engine._text.decode, forced, given, text, sentences)

        def on_token(token: int) -> bool:
            piece = tail.push(token)
            if piece and on_text is not None:
                on_text(piece)
            return not tail.done

        result = self._write(asked, clock, on_token)
        if result.stop_reason == "cancelled" and not tail.done:
            raise Cancelled("stopped before the sentence was complete")
        if (rest := tail.finish()) and on_text is not None:
            on_text(rest)
        ids = result.token_ids[: tail.tokens]
        logprobs = tuple(float(p) for p in result.logprobs[: tail.tokens])
        reason: Any = "sentence" if tail.done else result.stop_reason
        return Completion(
            text=tail.text,
            sentences=self._completed(forced, ids, logprobs, result, tail.whole),
            token_ids=tuple(int(i) for i in ids),
            logprobs=logprobs,
            stop_reason=reason,
            timings_ms=clock.finish(),
        )

    def _sections(self, ids: Sequence[int], ends: Sequence[int], dropped: int) -> list[tuple[int, str]]:
        """Where the sections of a report begin: its characters and the sections' names."""
        generation = self._engine.manifest.generation
        names = {section.token_id: section.name for section in generation.sections}
        found = [(0, names[i]) for i in generation.begin_ids if i in names][-1:]
        return found + [(max(end - dropped, 0), names[i]) for i, end in zip(ids, ends, strict=True) if i in names]

    def _after(self, context: Context, ids: list[int]) -> NDArray[np.float32]:
        """The logits [vocab] of what follows `ids`; rows that are in the cache are not computed again."""
        engine = self._engine
        options = self._behind_states(engine._options(ids, context, max_new_tokens=1, beams=1))
        prompt = [*options.begin_ids, *ids]
        if not prompt:
            self._in_cache()
            assert self._first_logits is not None  # a model without begin tokens has them
            return self._first_logits
        self._in_cache()
        decoder, bias = engine._decoder, self._rows != "none"
        kept = min(decoder.keep(prompt, bias), len(prompt) - 1)
        if len(prompt) - kept > _FEW_ROWS:  # without the logits of each
            decoder.generate(None, options)
            kept = len(prompt) - 1
        decoder.rewind(kept)
        logits: NDArray[np.float32] = decoder.forward(prompt[kept:], bias)[-1]
        return logits

    def _completed(
        self, forced: list[int], ids: list[int], logprobs: tuple[float, ...], result: Generation, whole: str
    ) -> tuple[Sentence, ...]:
        """The sentences of `whole` that hold a generated token."""
        _, ends = self._engine._text.ends([*forced, *ids])
        evidence = self._patch_evidence(result)
        made = make_sentences(
            whole.strip(),
            ends,
            dropped=len(whole) - len(whole.lstrip()),
            forced=len(forced),
            logprobs=logprobs,
            evidence=None if evidence is None else evidence[: len(ids)],
            grid=self._engine.manifest.prefix.grid,
        )
        return tuple(sentence for sentence in made if sentence.confidence is not None)

    def _write(self, asked: Asked, clock: Clock, on_token: Callable[[int], bool | None]) -> Generation:
        """Run the decoding kernel; an exception in a callback (Ctrl-C is one) stops it and is raised here."""

        def first(token: int, _logprob: float) -> bool | None:
            clock.lap("first_token", once=True)
            return on_token(token)

        self._in_cache()
        options = self._behind_states(asked.options)
        result = self._engine._decoder.generate(self._first_logits, options, on_token=first, cancel=asked.cancel)
        clock.lap("first_token", once=True)
        clock.lap("decode")
        return result

    def _place(self) -> None:
        """Hand the image over to the decoder, the last part of looking at it."""
        with self._clock.part("prefill", of="vision"):
            self._in_cache()
        self._clock.lap("vision")

    def _behind_states(self, options: GenerationOptions) -> GenerationOptions:
        """Options with this film's states of findings, and which of its rows get the bias."""
        return options.but(begin_ids=(*options.begin_ids, *self._state_ids), bias_rows=self._rows)

    def _in_cache(self) -> None:
        """See to it that the decoder's cache holds this film; under the engine's lock."""
        decoder = self._engine._decoder
        if self._prefix_serial == decoder.prefix_serial:
            return
        self._first_logits = self._fill(0)
        self._prefix_serial = decoder.prefix_serial

    def _fill(self, lane: int) -> NDArray[np.float32] | None:
        """Put the image into a lane of the decoder; the logits [vocab] of its last row where it is a prefix."""
        rows, seen = self._rows, self._seen
        assert seen is not None
        # A strict mask hides keys from every row that follows, where these all get the bias.
        strict = rows == "all" and self._engine.manifest.bias.kind == "hidden"
        first: NDArray[np.float32] | None = seen.fill(
            self._engine._decoder, key_bias=rows != "none", drop_hidden=strict, lane=lane
        )
        return first

    def _forget(self) -> None:
        """Let go of what the vision graph gave: the image is in a lane, and one report is all there will be."""
        self._seen = None

    def _report(self, asked: Asked) -> Report:
        engine, on_text = self._engine, asked.on_text
        stream = TextStream(engine._text, asked.options.forced_ids, whole_sentences=asked.cut) if on_text else None

        def on_token(token: int) -> None:
            if stream is not None and on_text is not None and (piece := stream.push(token)):
                on_text(piece)

        clock = Clock(self._clock.laps, self._clock.parts)
        with engine._lock:
            result = self._write(asked, clock, on_token)
            if result.stop_reason == "cancelled":
                raise Cancelled("stopped before the report was complete")
            cache = self._cache()
        return self._compose(asked, result, clock, cache, stream)

    def _compose(
        self,
        asked: Asked,
        result: Generation,
        clock: Clock,
        cache: dict[str, int],
        stream: TextStream | None = None,
        texts: int = 1,
    ) -> Report:
        """The report of a text that has been written, one of `texts` at once."""
        engine, manifest = self._engine, self._engine.manifest
        forced, on_text = asked.options.forced_ids, asked.on_text
        text, ends = engine._text.ends([*forced, *result.token_ids])
        dropped = len(text) - len(text.lstrip())
        whole = findings = text.strip()
        if result.stop_reason == "length" and asked.cut:
            findings = cut_at_sentence(findings)
        if stream is not None and on_text is not None and (piece := stream.finish(findings)):
            on_text(piece)
        prior = any(name.startswith("prior") for name in asked.context.given)
        warnings = [
            *self.warnings,
            *asked.context.warnings,
            *self._general_warnings(result.stop_reason, whole != findings),
            *text_warnings(findings, prior=prior),
        ]
        sentences = make_sentences(
            findings,
            ends,
            dropped=dropped,
            forced=len(forced),
            logprobs=[float(p) for p in result.logprobs],
            evidence=self._patch_evidence(result),
            grid=manifest.prefix.grid,
            sections=self._sections([*forced, *result.token_ids], ends, dropped),
        )
        timings = clock.finish()
        after_first, decode_ms = len(result.token_ids) - 1, timings["decode"]
        return Report(
            findings=findings,
            sentences=sentences,
            token_ids=tuple(int(i) for i in result.token_ids),
            logprobs=tuple(float(p) for p in result.logprobs),
            stop_reason=result.stop_reason,
            warnings=tuple(dict.fromkeys(warnings)),
            model={
                "name": manifest.name,
                "bundle_sha256": engine.bundle.sha256,
                "family": manifest.family,
                "precision": manifest.precision,
                "kv_dtype": engine._decoder.kv_dtype,
                "bias_rows": self._rows,
            },
            input=dict(self._input),
            timings_ms=timings,
            tokens_per_s=round(after_first / decode_ms * 1e3, 2) if after_first > 0 and decode_ms else 0.0,
            software={
                "version": __version__,
                "device": engine.device,
                "vision": engine._vision.runtime,
                "isa": engine.isa,
                "threads": engine.threads,
            },
            intended_use=manifest.intended_use,
            notice=engine.notice,
            prompt=asked.prompt,
            context=asked.context.given,
            states=self.states,
            decoding={
                "passes": result.passes,
                "tokens_per_pass": round(result.tokens_per_pass, 4),
                "drafted": result.drafted,
                "accepted": result.accepted,
                **({"sketch_passes": result.sketch_passes} if result.sketch_passes else {}),
                **({"texts": texts} if texts > 1 else {}),
            },
            cache=cache,
            coding=engine.coding,
            mask=self.mask,
            film=self._gray,
        )

    def _cache(self, lane: int = 0) -> dict[str, int]:
        """What the decoder reads per token of the report just written."""
        manifest, decoder = self._engine.manifest, self._engine._decoder
        keys = manifest.decoder["layers"] * manifest.prefix.length * self._images
        kept, per_token = decoder.kept_keys_in(lane), decoder.bytes_per_token_in(lane)
        return {"image_keys": keys, "image_keys_kept": kept, "bytes_per_token": per_token}

    def _patch_evidence(self, result: Generation) -> NDArray[np.floating[Any]] | None:
        """Attention per generated token over the patches [tokens, films * grid_h * grid_w], without registers."""
        manifest = self._engine.manifest
        if not manifest.generation.evidence_layers:
            return None
        tokens, patches = len(result.evidence), manifest.prefix.patches
        films = result.evidence.reshape(tokens, self._images, manifest.prefix.length)
        return films[:, :, -patches:].reshape(tokens, self._images * patches)

    def _general_warnings(self, stop_reason: str, was_cut: bool) -> list[str]:
        warnings = []
        own, manifest = self._engine.manifest.bias.rows, self._engine.manifest
        if self._rows != own:
            warnings.append(f"bias rows {self._rows} were used; the model was exported for {own}")
        if was_cut:
            warnings.append("the token cap was reached: the last sentence was broken off and is left out")
        elif stop_reason == "length":
            warnings.append("the token cap was reached: the text may break off in mid-sentence")
        if manifest.synthetic:
            warnings.append(SYNTHETIC)
        return warnings
