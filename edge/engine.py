# SPDX-License-Identifier: Apache-2.0
"""The engine: one film in, one report out.

film -> 8-bit picture -> pixels -> vision graph -> mask check -> decoding kernel -> report; one way only.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from edge.bundle import Bundle
from edge.errors import MissingRuntime, UsageError
from edge.manifest import BIAS_ROWS, BiasRows
from edge.mask import gives_no_guidance, hides_everything, mask_warnings
from edge.numeric import as_real, as_whole
from edge.prepare import Prepared, prepare
from edge.prompt import Context, check_cap, context_of
from edge.session import SYNTHETIC, Asked, FilmSession, check_callbacks
from edge.study import Study, check_films, check_list, check_same_study, joined
from edge.text import TextDecoder
from edge.threads import check_threads, decode_threads, starting_threads
from edge.timing import Clock
from edge.vision import VisionOutput, VisionSession, check_device, check_runtime

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pydicom
    from numpy.typing import NDArray

    from edge.decoder import Decoder, GenerationOptions
    from edge.generation import Draft
    from edge.prompt import ContextTexts
    from edge.report import Report

    CancelToken: TypeAlias = Any
    Source: TypeAlias = str | Path | bytes | pydicom.Dataset | NDArray[np.generic]

log = logging.getLogger("edge")

__all__ = ["SYNTHETIC", "Engine", "load"]


def load(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    device: str = "auto",
    threads: int | None = None,
    bias_rows: str | None = None,
    vision: str | None = None,
    draft: Draft = True,
    kv_dtype: str | None = None,
) -> Engine:
    """Load a model.

    Parameters
    ----------
    bundle
        Folder of a bundle. ``None``: ``$EDGE_REPORT_BUNDLE``, and without it the demo bundle of the package,
        whose model was trained on synthetic phantoms and is not for clinical use.
    device
        ``auto``, ``cpu``, ``cuda`` or ``tensorrt``. The latter two demand a GPU, for the vision graph and, where its
        kernels take the model, for decoding. ``auto`` uses one for whatever it can be used for, and
        :attr:`Engine.fallback` says why not for the rest.
    threads
        Threads of the vision graph and of the decoder. Default: the physical cores this process may run on.
    bias_rows
        Which rows get the anatomical bias: ``all``, ``prefill`` or ``none``. Default: what the bundle says.
    vision
        Runtime of the vision graph: ``auto``, ``ort`` (ONNX Runtime) or ``openvino``. Default:
        ``$EDGE_VISION_RUNTIME``, and without it ``auto``.
    draft
        Write greedy texts several tokens per pass where they can be guessed: the same tokens in less time.
        ``"sketch"``: guessed by an 8-bit copy of a float32 decoder alone, not from its table and the text.
    kv_dtype
        Of the KV cache: ``fp32``, ``fp16`` or ``int8``. Default: what the bundle says, else fp32 with fp32 weights and
        fp16 with others.

    Raises
    ------
    BundleError, MissingRuntime, DeviceError, UsageError
        Each an :class:`edge.EdgeError`.
    """
    return Engine(
        bundle, device=device, threads=threads, bias_rows=bias_rows, vision=vision, draft=draft, kv_dtype=kv_dtype
    )


class Engine:
    """A loaded model. Safe to share between threads: reports are made one after the other.

    Attributes
    ----------
    bundle : Bundle
    device : str
        Where the vision graph runs: ``cpu``, ``cuda`` or ``tensorrt``.
    fallback : tuple of str
        What is on the CPU although it was not asked for by name, and why: a sentence each.
    threads : int
    isa : str
        Instruction set of the decoding kernel, or ``cuda``.
    coding : CodingTable or None
        How findings are coded, where the bundle says so.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        bias_rows: str | None = None,
        vision: str | None = None,
        draft: Draft = True,
        kv_dtype: str | None = None,
    ) -> None:
        check_device(device)
        vision = check_runtime(vision)
        self.threads = check_threads(threads)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.manifest = self.bundle.manifest
        self._default_rows = self._check_rows(bias_rows)
        from edge.generation import check_draft

        self._draft: Draft = check_draft(draft)
        self.coding = self.bundle.coding_table()
        import numpy  # noqa: F401  # here, not first in two threads at once: it does not survive that

        # Most of a load is the graph's, and leaves the interpreter to others.
        with starting_threads(), ThreadPoolExecutor(1, thread_name_prefix="edge-load") as pool:
            session = pool.submit(VisionSession, self.bundle, device=device, threads=self.threads, runtime=vision)
            self._text = _text_decoder(self.bundle)
            self._decoder = _decoder(self.bundle, self.threads, self._draft, kv_dtype)
            self._vision = session.result()
        self.fallback: tuple[str, ...] = ()
        if device != "cpu":
            from edge.place import on_gpu

            self._decoder, self._vision, self.fallback = on_gpu(
                self._decoder, self._vision, self.bundle, device=device, threads=self.threads, runtime=vision
            )
        if self._decoder.isa == "cuda" and self._vision.stay():
            log.info("what the vision graph yields stays on the GPU")
        self.device = self._vision.device
        self.isa = self._decoder.isa
        self._lock = threading.RLock()
        log.info("bundle %s, %d threads, kernel %s", self.manifest.name, self.threads, self.isa)

    @property
    def notice(self) -> str | None:
        """One line that must be shown to whoever reads a report of this model."""
        return self.bundle.notice

    def report(
        self,
        source: Source | Prepared | Study,
        *,
        force: bool = False,
        max_new_tokens: int | None = None,
        bias_rows: str | None = None,
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
        on_text: Callable[[str], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Report:
        """Draft the findings of one frontal chest radiograph.

        Parameters
        ----------
        source
            Path of a DICOM, PNG or JPEG file or the bytes of one, a :class:`pydicom.Dataset`, or an array
            [rows, columns] (brighter means denser); or what :func:`edge.prepare.prepare` made of one of them
            beforehand. Or an :class:`edge.Study` of several, for models that look at more than one.
        force
            Report in spite of a soft refusal (another body part or view in the header).
        max_new_tokens
            Token cap. Default: the bundle's.
        bias_rows
            As in :func:`load`, for this report.
        context
            What the model reads before it writes, for models that read something: the indication, the report of an
            earlier film, ... By the names in ``manifest.generation.context``; a plain text where there is one name.
        prompt
            Text the findings must begin with.
        repetition_penalty
            Over the generated tokens. Default: the bundle's.
        temperature, top_k, top_p, seed
            Sampling; temperature 0 is greedy.
        cut
            Drop a last sentence that the token cap broke off. Default: the bundle's.
        draft
            As in :func:`load`, for this report.
        beams
            Texts searched at once; 1 is greedy. Default: the bundle's. With beams the text comes in one piece.
        on_text
            Called with pieces of the findings as they become certain, never inside a character; put together
            they are `Report.findings`.
        cancel
            Cancel it from another thread to stop; :class:`edge.Cancelled` is raised then.

        Raises
        ------
        InputError
            One subclass for each way a film can be wrong.
        UsageError, ProcessingError, Cancelled
        """
        asked = self._asked(
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
        with self._lock:
            return self.open(source, force=force, bias_rows=bias_rows)._report(asked)

    def reports(
        self,
        sources: Iterable[Source | Prepared | Exception],
        *,
        at_once: int = 4,
        force: bool = False,
        max_new_tokens: int | None = None,
        bias_rows: str | None = None,
        prompt: str = "",
        repetition_penalty: float | None = None,
        cut: bool | None = None,
        draft: Draft | None = None,
        beams: int | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Report | Exception]:
        """Draft the findings of several films, in order; texts of several films share the passes over the weights.

        Each report is the one that :meth:`report` makes of the film alone, token by token. More films in the same
        time, and each of them later: the reports of a group come when its last one is written.

        Parameters
        ----------
        sources
            As for :meth:`report`, taken group by group; what reading a film has raised comes out in its place.
        at_once
            Films of a group, 1 to 16; fewer where their beams are more than 16 together, one on a GPU.
        force, max_new_tokens, bias_rows, prompt, repetition_penalty, cut, draft, beams, cancel
            As for :meth:`report`.

        Yields
        ------
        Report or Exception
            An :class:`edge.InputError` where the film cannot be reported: the others are reported all the same.

        Raises
        ------
        UsageError, ProcessingError, Cancelled
        """
        from edge.several import reports

        width = as_whole(at_once)
        if width is None or not 1 <= width <= 16:
            raise UsageError("at_once must be a whole number from 1 to 16")
        check_list(sources, "films are given as a list, also a single one")
        asked = self._asked(
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            repetition_penalty=repetition_penalty,
            cut=cut,
            draft=draft,
            beams=beams,
            cancel=cancel,
        )
        return reports(self, sources, asked, at_once=width, force=force, bias_rows=bias_rows)

    def open(
        self, source: Source | Prepared | Study, *, force: bool = False, bias_rows: str | None = None
    ) -> FilmSession:
        """Look at a film, or at the films of a study, and keep what the model sees: reports and completions of it need
        no second look.

        Parameters
        ----------
        source, force, bias_rows
            As for :meth:`report`.

        Raises
        ------
        InputError
            One subclass for each way a film can be wrong.
        UsageError, ProcessingError
        """
        with self._lock:
            session = self._see(source, force=force, bias_rows=bias_rows)
            session._place()
        return session

    def _see(self, source: Source | Prepared | Study, *, force: bool, bias_rows: str | None) -> FilmSession:
        """Read a film, or those of a study, and run the vision graph; the decoder has not got it yet."""
        rows = self._check_rows(bias_rows) if bias_rows is not None else self._default_rows
        films = source.films if isinstance(source, Study) else (source,)
        check_films(len(films), self.manifest)
        ready = [
            film if isinstance(film, Prepared) else prepare(film, self.manifest.image, force=force) for film in films
        ]
        check_same_study(ready)
        clock = Clock({name: sum(one.laps[name] for one in ready) for name in ready[0].laps})
        seen, warnings = [], []
        for one in ready:
            output, rows, noted = self._look(one.pixels, rows)
            seen.append(output)
            warnings += noted
        return FilmSession(self, ready, joined(seen), rows, warnings, clock)

    def _look(self, pixels: NDArray[np.float32], rows: BiasRows) -> tuple[VisionOutput, BiasRows, list[str]]:
        """Run the vision graph; the rows that get the bias in the end, and what to warn about."""
        seen = self._vision.run(pixels, bias=rows != "none")
        if seen.mask is None or seen.key_bias is None:
            return seen, "none", []
        warnings = mask_warnings(seen.mask)
        if rows == "none":
            return seen, rows, warnings
        prefix = self.manifest.prefix
        patches = seen.key_bias[:, prefix.length - prefix.patches : prefix.length]
        if hides_everything(patches, self.manifest.bias):
            warnings.append("the strict mask hides the whole image: reported without anatomical guidance")
            unguided = seen if self.manifest.kernel_prefill else self._vision.run(pixels, bias=False)
            return unguided, "none", warnings
        if gives_no_guidance(patches):
            warnings.append("the mask gives no anatomical guidance: every part of the image counts the same")
        return seen, rows, warnings

    def _asked(
        self,
        *,
        context: ContextTexts = None,
        prompt: str = "",
        max_new_tokens: int | None = None,
        repetition_penalty: float | None = None,
        sampling: tuple[float, int, float, int] = (0.0, 0, 1.0, 0),
        cut: bool | None = None,
        draft: Draft | None = None,
        beams: int | None = None,
        on_text: Callable[[str], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Asked:
        """Check what is asked for, before any work."""
        check_callbacks(on_text, cancel)
        forced = self._text.encode(prompt) if prompt else []
        told = self.read_context(context)
        drawn = _check_sampling(*sampling)
        options = self._options(
            forced,
            told,
            max_new_tokens=check_cap(max_new_tokens, self.manifest, told, len(forced)),
            repetition_penalty=self._check_penalty(repetition_penalty),
            draft=self._draft if draft is None else draft,
            beams=self._check_beams(beams, sampled=drawn["temperature"] != 0.0),
            **drawn,
        )
        whole = self.manifest.generation.cut_at_sentence if cut is None else bool(cut)
        return Asked(options, told, prompt, whole, on_text, cancel)

    def read_context(self, context: ContextTexts) -> Context:
        """A context as this model reads it: its token ids, and what of it had to be cut.

        Parameters
        ----------
        context
            As for :meth:`report`.

        Raises
        ------
        UsageError
            The model reads no context, or none of such a name.
        """
        return context_of(self.manifest.generation.context, context, self._text.encode_plain)

    def _options(self, forced: list[int], told: Context, **values: Any) -> GenerationOptions:
        """But for the states of findings, which are known when the film has been looked at."""
        from edge.decoder import GenerationOptions

        generation = self.manifest.generation
        return GenerationOptions(
            stop_ids=generation.stop_ids,
            suppressed_ids=generation.suppressed_ids,
            begin_ids=(*told.ids, *generation.begin_ids),
            forced_ids=tuple(forced),
            **{**generation.rules, **values},
        )

    def _check_beams(self, beams: int | None, *, sampled: bool) -> int:
        if beams is None:
            return 1 if sampled else int(self.manifest.generation.rules.get("beams", 1))
        count = as_whole(beams)
        if count is None or not 1 <= count <= 16 or (sampled and count > 1):
            raise UsageError("beams must be a whole number from 1 to 16, and 1 with a temperature")
        return count

    def _check_rows(self, rows: str | None) -> BiasRows:
        own = self.manifest.bias.rows
        if rows is None:
            return own
        if rows not in BIAS_ROWS:
            raise UsageError(f"bias rows must be one of {', '.join(BIAS_ROWS)}, not {str(rows)[:40]!r}")
        if rows != "none" and not self.manifest.has_mask:
            raise UsageError(f"bias rows {rows} ask for a bias, but this bundle holds no segmenter")
        return rows

    def _check_penalty(self, penalty: float | None) -> float:
        if penalty is None:
            return self.manifest.generation.repetition_penalty
        factor = as_real(penalty)
        if factor is None or not 0.01 <= factor <= 100.0:
            raise UsageError("repetition_penalty must be a number from 0.01 to 100")
        return factor


def _check_sampling(temperature: float, top_k: int, top_p: float, seed: int) -> dict[str, Any]:
    heat, share = as_real(temperature), as_real(top_p)
    most, start = as_whole(top_k), as_whole(seed)
    if heat is None or not (heat == 0.0 or 1e-6 <= heat <= 100.0):
        raise UsageError("temperature must be a number from 0 (greedy) to 100")
    if most is None or not 0 <= most < 1 << 31:
        raise UsageError("top_k must be a whole number, 0 for no limit")
    if share is None or not 1e-6 <= share <= 1.0:  # above 0 in the kernel, too
        raise UsageError("top_p must be a number above 0 and up to 1")
    if start is None or not 0 <= start < 1 << 63:
        raise UsageError("seed must be a whole number from 0")
    return {"temperature": heat, "top_k": most, "top_p": share, "seed": start}


def _text_decoder(bundle: Bundle) -> TextDecoder:
    try:
        return TextDecoder(bundle.file(bundle.manifest.tokenizer_file), bundle.manifest.decoder["vocab"])
    except ImportError:
        raise MissingRuntime('the package tokenizers is missing: pip install "edge-report[cpu]"') from None


def _decoder(bundle: Bundle, threads: int, draft: Draft, kv_dtype: str | None) -> Decoder:
    """The decoding kernel with the bundle's weights."""
    from edge.decoder import Decoder, check_kv

    manifest = bundle.manifest
    weights = bundle.weights()
    table = bundle.draft_table() if draft is True else None
    return Decoder(
        manifest.decoder,
        weights,
        kv_dtype=check_kv(kv_dtype) or manifest.kv_dtype or ("fp32" if manifest.precision == "fp32" else "fp16"),
        threads=decode_threads(threads, sum(array.nbytes for array in weights.values()), draft=table is not None),
        evidence_layers=manifest.generation.evidence_layers,
        prefill_int8=manifest.prefill_int8,
        draft_table=table,
        sketch=None if draft else False,
    )
