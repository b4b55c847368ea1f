# SPDX-License-Identifier: Apache-2.0
"""Adds a draft table to a bundle that exists: the model stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from edge.bundle import Bundle

from . import bundle_writer as writer
from .draft_corpus import corpus_table
from .draft_table import save_table
from .errors import UsageError
from .model_card import draft_section, without_draft_section


def add_draft_table(bundle: Path, texts: Sequence[str], out: Path, *, source: str, force: bool = False) -> str:
    """Write a copy of `bundle` whose draft table is learnt from `texts`, in place of one it may have.

    Parameters
    ----------
    bundle, out : Path
        May be the same folder, with `force`.
    texts : sequence of str
        One report or sentence each.
    source : str
        One sentence for the model card: where the texts come from.

    Returns
    -------
    str
        SHA-256 of the new manifest.

    Raises
    ------
    BundleError, UsageError, OutputError
    """
    opened = Bundle.open(bundle)
    manifest = json.loads((opened.path / "manifest.json").read_bytes())
    listed = {name: opened.file(name) for name in opened.manifest.files}
    old = opened.manifest.draft_file
    if old is None and writer.DRAFT in listed:
        raise UsageError(f"the bundle uses the name {writer.DRAFT} for something else")
    tokenizer = Tokenizer.from_str(opened.file(opened.manifest.tokenizer_file).read_text("utf-8"))
    arrays = corpus_table(texts, tokenizer, opened.manifest.generation.stop_ids)
    del manifest["format_version"], manifest["files"]
    manifest["draft"] = writer.DRAFT
    with writer.staged_bundle(out, force=force) as stage:
        for name, path in listed.items():
            if name != old:
                shutil.copyfile(path, stage / name)
        save_table(arrays, stage / writer.DRAFT)
        card = stage / writer.CARD
        if card.is_file():
            text = without_draft_section(card.read_text("utf-8"))
            card.write_text(f"{text.rstrip()}\n\n{draft_section(arrays, len(texts), source)}\n", "utf-8")
        return writer.write_manifest(stage, manifest)
