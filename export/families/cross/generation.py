# SPDX-License-Identifier: Apache-2.0
"""Generation configuration of a folder to the manifest's generation section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...checkpoint import read_json
from ...errors import BadCheckpoint
from ..limits import GENERATION, check
from .cxrmate import BEAMS, Layout
from .cxrmate import NEW_TOKENS as CXRMATE_TOKENS
from .prompt import Words, decoder_positions, prompt_rows

NEW_TOKENS = 100
"""Cap where the folder names none: the library's own default of 20 is no report."""
_ODD = (ValueError, TypeError, AttributeError, OverflowError)
"""What values of other types than a configuration's come to."""


def generation_config(path: Path, model: Any) -> Any:
    """The folder's ``generation_config.json``, else what its configuration says."""
    from transformers import GenerationConfig

    file = path / "generation_config.json"
    try:
        if file.is_file():
            values = read_json(file)
            check(values, GENERATION, f"{path.name}: {file.name}")
            return GenerationConfig.from_dict(values)
        return GenerationConfig.from_model_config(model.config)
    except _ODD as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> BadCheckpoint:
    return BadCheckpoint(f"{path.name}: generation_config.json cannot be used ({' '.join(str(error).split())[:200]})")


def generation_section(
    path: Path, model: Any, notes: list[str], *, words: Words | None = None, own: Layout | None = None
) -> dict[str, Any]:
    """The manifest's generation section.

    Parameters
    ----------
    notes : list of str
        What a user must know is added.
    words : Words, optional
        The folder's tokenizer: asked for start and end where no configuration names them.
    own : Layout, optional
        What the model's published code says.

    Raises
    ------
    BadCheckpoint
        No start token is named, or a value is of another type.
    """
    try:
        return _section(path, model, notes, words, own)
    except _ODD as error:
        raise _unusable(path, error) from None


def _section(path: Path, model: Any, notes: list[str], words: Words | None, own: Layout | None) -> dict[str, Any]:
    config = generation_config(path, model)
    start = config.decoder_start_token_id
    if start is None:
        start = config.bos_token_id
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    ends = config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if own is not None:
        start, ends = own.begin, [own.end]
        _published_defaults(config)
    elif words is not None and (not isinstance(start, int) or not ends):
        start, ends = words.start_and_ends(start, ends, notes)
    if not isinstance(start, int):
        raise BadCheckpoint(f"{path.name}: no decoder_start_token_id: the text has no beginning")
    begin = [start, *_forced(path, config)]
    decoder = model.decoder.config
    prompt = 1  # what the library calls the prompt; a forced first token is text to it
    layers = int(getattr(decoder, "decoder_layers", None) or decoder.num_hidden_layers)
    section = {
        "max_new_tokens": _cap(config, model, len(begin), notes),
        "repetition_penalty": float(config.repetition_penalty or 1.0),
        "stop_ids": ends,
        "suppressed_ids": sorted(set(config.suppress_tokens or [])),
        "begin_ids": begin,
        "cut_at_sentence": False,
        "evidence_layers": list(range(layers // 2, layers)),
    }
    if section["repetition_penalty"] != 1.0:
        section["penalise_prompt"] = True
    if config.do_sample:
        notes.append("The folder's generation configuration samples; this bundle writes the most likely text.")
    if (config.num_beams or 1) > 1:
        early = {False: "no", True: "yes", None: "no", "never": "never"}.get(config.early_stopping, "no")
        section |= {
            "beams": int(config.num_beams),
            "length_penalty": float(config.length_penalty if config.length_penalty is not None else 1.0),
            "early_stopping": early,
        }
    rules = {
        "no_repeat_ngram": config.no_repeat_ngram_size or 0,
        "min_new_tokens": max((config.min_length or 0) - len(begin), (config.min_new_tokens or 0) - len(begin) + 1),
        "forced_end_id": config.forced_eos_token_id,
        "counted_begin": len(begin) - prompt,
    }
    section |= {name: int(v) for name, v in rules.items() if v is not None and (v > 0 or name == "forced_end_id")}
    if own is not None:
        section["sections"] = own.sections
        if own.context:
            section["context"] = own.context
            room = decoder_positions(model) - prompt_rows(section)
            section["max_new_tokens"] = max(1, min(section["max_new_tokens"], room))
    _refuse_unknown(path, config)
    return section


def _published_defaults(config: Any) -> None:
    """Length and beams with which CXRMate's published code writes, where the folder names none."""
    if config.max_new_tokens is None and config.max_length in (None, 20):
        config.max_new_tokens = CXRMATE_TOKENS
    if (config.num_beams or 1) == 1:
        config.num_beams = BEAMS


def _forced(path: Path, config: Any) -> list[int]:
    """Ids that follow the start token whatever the model would choose."""
    if isinstance(config.forced_bos_token_id, int):
        return [config.forced_bos_token_id]
    file = next((f for f in (path / "generation_config.json", path / "config.json") if f.is_file()), None)
    forced = (read_json(file).get("forced_decoder_ids") if file is not None else None) or []  # the library drops them
    if not isinstance(forced, list):
        forced = [forced]
    places = [pair[0] for pair in forced if isinstance(pair, (list, tuple)) and len(pair) == 2]
    if places != list(range(1, len(forced) + 1)) or not all(type(pair[1]) is int for pair in forced):
        raise BadCheckpoint(f"{path.name}: forced_decoder_ids must name the tokens at 1, 2, ... of the text")
    return [pair[1] for pair in forced]


def _refuse_unknown(path: Path, config: Any) -> None:
    """Rules that change a text and that the runtime does not have."""
    unknown = {
        "num_beam_groups": (config.num_beam_groups or 1) > 1,
        "penalty_alpha": bool(config.penalty_alpha),
        "bad_words_ids": bool(config.bad_words_ids),
        "begin_suppress_tokens": bool(config.begin_suppress_tokens),
        "encoder_no_repeat_ngram_size": bool(config.encoder_no_repeat_ngram_size),
        "exponential_decay_length_penalty": config.exponential_decay_length_penalty is not None,
        "sequence_bias": bool(config.sequence_bias),
        "constraints": config.constraints is not None or config.force_words_ids is not None,
    }
    if asked := [name for name, there in unknown.items() if there]:
        raise BadCheckpoint(f"{path.name}: not supported in its generation configuration: {', '.join(asked)}")


def _cap(config: Any, model: Any, begin: int, notes: list[str]) -> int:
    room = decoder_positions(model) - begin
    if config.max_new_tokens is not None:
        cap = int(config.max_new_tokens) - (begin - 1)
    elif config.max_length is not None and config.max_length != 20:
        cap = int(config.max_length) - begin
    else:
        cap = NEW_TOKENS
        notes.append(f"The folder names no length of a report: {NEW_TOKENS} tokens were taken.")
    return max(1, min(cap, room))
