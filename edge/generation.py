# SPDX-License-Identifier: Apache-2.0
"""What a decoder is asked to write, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edge.errors import UsageError

BiasRows = Literal["all", "prefill", "none"]
Draft: TypeAlias = bool | Literal["sketch"]
"""Whether texts are drafted, or by what alone."""
OnToken = Callable[[int, float], bool | None]


def check_draft(draft: Any) -> Draft:
    """What it means: ``"sketch"``, or whether it is true.

    Raises
    ------
    UsageError
        Another text.
    """
    if isinstance(draft, str):
        if draft != "sketch":
            raise UsageError(f"draft must be true, false or 'sketch', not {draft[:40]!r}")
        return "sketch"
    return bool(draft)


@dataclass(frozen=True)
class GenerationOptions:
    """How a text is written.

    Attributes
    ----------
    max_new_tokens : int
        Cap on generated tokens; the decoder's positions cap them too.
    repetition_penalty : float
        Over the generated ids only: a score below 0 is multiplied by it, others divided. 1 is off.
    stop_ids, suppressed_ids : tuple of int
        Ids that end the text (not part of it), and ids that are never chosen.
    begin_ids, forced_ids : tuple of int
        Prompt after the image: the model's begin tokens, then a text the report must begin with.
    bias_rows : {"all", "prefill", "none"}
        Which rows get the anatomical bias; prompt rows count as prefill.
    temperature : float
        0 is greedy (equal scores: the lowest id).
    top_k, top_p : int, float
        Sampling filters, 0 and 1 are off.
    seed : int
        Of the sampling; the same seed gives the same text on every platform and for any thread count.
    draft : bool or "sketch"
        Greedy texts only: guess tokens from the decoder's draft table, from the text itself and by the sketch of a
        float32 decoder, and check several in one pass. The result is the same bit by bit. ``"sketch"``: by that alone.
    no_repeat_ngram : int
        No group of so many ids, prompt included, appears twice; 0 is off.
    min_new_tokens : int
        No stop id before so many tokens.
    penalise_prompt : bool
        The repetition penalty counts the prompt's ids, too.
    forced_end_id : int
        Takes the last place of a text that reaches the cap (it is no part of the text); -1 is off.
    counted_begin : int
        So many of the begin ids count as text in the length penalty.
    beams : int
        Texts searched at once, 1 to 16; 1 is greedy or sampled.
    length_penalty : float
        A finished text's score is divided by its length to this power.
    early_stopping : {"no", "yes", "never"}
        As ``False``, ``True`` and ``"never"`` in transformers.
    sequences : int
        Texts to return with beams; the best one is the result, all are in `Generation.sequences`.
    """

    max_new_tokens: int = 100
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    suppressed_ids: tuple[int, ...] = ()
    begin_ids: tuple[int, ...] = ()
    forced_ids: tuple[int, ...] = ()
    bias_rows: BiasRows = "all"
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    draft: Draft = True
    no_repeat_ngram: int = 0
    min_new_tokens: int = 0
    penalise_prompt: bool = False
    forced_end_id: int = -1
    counted_begin: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: Literal["no", "yes", "never"] = "no"
    sequences: int = 1

    @classmethod
    def from_manifest(cls, generation: Mapping[str, Any], **overrides: Any) -> GenerationOptions:
        """Options of a manifest's ``generation`` block; ``overrides`` that are not None win.

        Keys of the block that do not concern the decoder (``cut_at_sentence``, ``evidence_layers``) are left
        to others.

        Raises
        ------
        UsageError
            An override is no option of the decoder.
        """
        known = {one.name for one in fields(cls)}
        values = {key: value for key, value in generation.items() if key in known}
        for key, value in overrides.items():
            if key not in known:
                raise UsageError(f"unknown generation option {key!r}")
            if value is not None:
                values[key] = value
        return cls(**values)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", check_draft(self.draft))
        for name in ("stop_ids", "suppressed_ids", "begin_ids", "forced_ids"):
            object.__setattr__(self, name, tuple(int(i) for i in getattr(self, name)))

    def but(self, **changes: Any) -> GenerationOptions:
        """A copy with some options changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Generation:
    """A generated text.

    Attributes
    ----------
    token_ids : list of int
        Generated ids, without the prompt and without the stop id.
    logprobs : ndarray, float32, [n]
        Log-probability of each id under the raw logits, before penalty and temperature.
    stop_reason : {"stop", "length", "cancelled"}
    evidence : ndarray, float32, [n, prefix]
        Attention mass over the image keys in the row that chose each id, mean over heads and evidence layers;
        ``[n, 0]`` without evidence layers. A first id chosen from ``first_logits`` has zeros.
    decode_seconds : float
    forced_ids : list of int
    passes : int
        Passes over the weights after the prompt.
    drafted, accepted : int
        Ids drafted for these passes, and how many of them were right: the passes chose ``passes + accepted`` ids, a
        stop id included.
    sketch_passes : int
        Passes over the sketch of the decoder, to draft them.
    sequences : list of (list of int, float)
        With beams: the texts asked for with their scores, best first.
    """

    token_ids: list[int]
    logprobs: npt.NDArray[np.float32]
    stop_reason: Literal["stop", "length", "cancelled"]
    evidence: npt.NDArray[np.float32]
    decode_seconds: float
    forced_ids: list[int]
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    sketch_passes: int = 0
    sequences: list[tuple[list[int], float]] = field(default_factory=list)

    @property
    def tokens_per_pass(self) -> float:
        """Ids chosen per pass, 1 without drafts; 0 where there was no pass."""
        return (self.passes + self.accepted) / self.passes if self.passes else 0.0


@dataclass(frozen=True)
class TextRequest:
    """A text for :meth:`Decoder.generate_several`.

    Attributes
    ----------
    lane : int
        Whose film it is about, see :meth:`Decoder.set_prefix`.
    first_logits, options, on_token
        As for :meth:`Decoder.generate`.
    """

    lane: int
    first_logits: npt.NDArray[np.float32] | None = None
    options: GenerationOptions = field(default_factory=GenerationOptions)
    on_token: OnToken | None = None
