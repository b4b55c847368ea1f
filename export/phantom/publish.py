# SPDX-License-Identifier: Apache-2.0
"""Trained checkpoints to the two demo bundles: fp32 to compare with, int8 to ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ..options import ExportOptions, GenerationOptions, ImageOptions
from ..pipeline import export_model
from .coding import coding_json
from .config import END_OF_TEXT, INTENDED_USE, NAME, NOTICE
from .data import INTENSITY
from .labels import LABELS
from .own_drafts import SOURCE
from .train import DEFAULTS, STAGES, Trainer


def publish(
    trainer: Trainer,
    tokenizer_path: Path,
    out: Path,
    scores: str,
    log: Callable[[str], None],
    texts: Sequence[str] | None = None,
) -> dict[str, Path]:
    """Export the averaged weights of the last stage that ran.

    Parameters
    ----------
    trainer : Trainer
        With every stage's averaged weights loaded.
    scores : str
        Markdown with what ``edge-phantom evaluate`` printed, for the model card; may be empty.
    texts : sequence of str, optional
        Corpus of the draft tables (:mod:`edge_export.phantom.own_drafts`).

    Returns
    -------
    dict
        Precision to bundle folder.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    model = trainer.finished_model()
    bundles = {}
    for precision, quantize in (("fp32", "none"), ("int8", "int8")):
        target = out / f"{NAME}-{precision}"
        log(f"exporting {target.name}")
        options = ExportOptions(
            name=NAME,
            intended_use=INTENDED_USE,
            notice=NOTICE,
            synthetic=True,
            labels=list(LABELS),
            quantize=quantize,
            gpu_graph=quantize != "none",  # fp32 has none of its own: GPUs run its only graph
            force=True,
            sources=[
                "Trained from nothing by `edge-phantom train` on phantoms drawn by `edge-phantom draw`; "
                "no radiograph and no patient's report was used.",
                "Stages and steps: " + ", ".join(f"{s} {DEFAULTS[s].steps}" for s in STAGES) + ".",
            ],
            card=scores,
            draft_source=SOURCE,
            coding=coding_json(),
            image=ImageOptions(intensity=dict(INTENSITY)),
            generation=GenerationOptions(
                max_new_tokens=120,
                repetition_penalty=1.0,
                stop_ids=[tokenizer.token_to_id(END_OF_TEXT)],
            ),
        )
        export_model(model, tokenizer_path, target, options, draft_texts=texts)
        bundles[precision] = target
    return bundles
