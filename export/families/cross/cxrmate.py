# SPDX-License-Identifier: Apache-2.0
"""CXRMate's folders: what their published code does and their files do not say.

They are ``VisionEncoderDecoderModel`` folders with a CvT encoder, a projection head and a BERT decoder whose token
types tell the sections of a report apart; three kinds of model by the name of the class in ``config.json``: one film,
several, or several and the report of an earlier study.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from ...errors import BadCheckpoint

IMAGES = 5
"""Films of a study that the published models were trained with at most."""
NEW_TOKENS, BEAMS = 256, 4
LOW_RANK_SCALE = 32.0
_PRIOR = (("prior_findings", "[PMT]", "[NPF]", 160), ("prior_impression", "[PMT-SEP]", "[NPI]", 90))


@dataclass
class Layout:
    """What a folder is beside its configuration.

    Attributes
    ----------
    type_after : list of int
        Pairs of a token id and the type of the tokens behind it.
    images : int
        Films of a study, at most.
    context : list of dict
        The manifest's ``generation.context``.
    """

    begin: int
    end: int
    type_after: list[int]
    sections: list[dict[str, Any]]
    images: int = 1
    context: list[dict[str, Any]] = field(default_factory=list)


def is_cxrmate(values: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is one of theirs."""
    encoder, decoder = values.get("encoder"), values.get("decoder")
    return (
        isinstance(encoder, dict)
        and isinstance(decoder, dict)
        and encoder.get("model_type") == "cvt"
        and isinstance(encoder.get("projection_size"), int)
        and decoder.get("model_type") == "bert"
    )


def layout(values: dict[str, Any], words: Tokenizer, special: dict[str, int]) -> Layout:
    """Read the kind of model and its special tokens.

    Parameters
    ----------
    values : dict
        ``config.json``.
    special : dict of str to int
        Ids of the tokenizer's ``bos_token``, ``eos_token`` and ``sep_token``.

    Raises
    ------
    BadCheckpoint
        A token that the model was trained with is missing.
    """
    missing = [name for name in ("bos_token", "eos_token", "sep_token") if name not in special]
    named = values.get("architectures")
    kind = " ".join(str(name) for name in (named if isinstance(named, list) else [named]))
    prior = "Longitudinal" in kind
    tokens = {token: words.token_to_id(token) for part in _PRIOR for token in part[1:3]} if prior else {}
    missing += [token for token, number in tokens.items() if number is None]
    if missing:
        raise BadCheckpoint(f"the tokenizer lacks what the model's sections are told by: {', '.join(missing)}")
    begin, separator = special["bos_token"], special["sep_token"]
    found = Layout(
        begin,
        special["eos_token"],
        [separator, 1],
        [{"token_id": begin, "name": "findings"}, {"token_id": separator, "name": "impression"}],
    )
    if prior or "Multi" in kind or "Variable" in kind:
        found.images = IMAGES
    if prior:
        found.type_after = [tokens["[PMT-SEP]"], 1, begin, 0, separator, 1]
        found.context = [
            {"name": name, "before": [tokens[token]], "absent": [tokens[token], tokens[none]], "max_tokens": most}
            for name, token, none, most in _PRIOR
        ]
    return found


def image_size(processor: dict[str, Any]) -> dict[str, Any]:
    """A preprocessor configuration as the published code uses it: the shorter edge, bilinear, and the middle of it."""
    size = processor.get("size", {})
    edge = size.get("shortest_edge", 384) if isinstance(size, dict) else 384
    kept = {key: value for key, value in processor.items() if key not in ("crop_pct", "size", "resample")}
    return {**kept, "size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": edge, "resample": 2}
