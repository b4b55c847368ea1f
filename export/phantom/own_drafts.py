# SPDX-License-Identifier: Apache-2.0
"""Texts for the demo bundle's draft table: what the model writes about training phantoms, and the grammar's own.

A model that writes greedily has habits that the grammar it learnt from does not show, so its own drafts tell best what
it will write next. The phantoms are those it was trained on; no phantom that ``edge-phantom evaluate`` draws is among
them.
"""

from __future__ import annotations

from pathlib import Path

from .config import demo_config
from .data import SHARD, ensure_shards, load_shard
from .grammar import corpus

OWN_TEXTS = 3000
GRAMMAR_TEXTS = 500
GRAMMAR_SEED = 91
SOURCE = (
    f"Learnt from what this model writes about {OWN_TEXTS} of its training phantoms, and from {GRAMMAR_TEXTS} texts of "
    "the phantoms' grammar."
)


def own_drafts(
    bundle: Path | None, cache: Path, *, seed: int = 1, count: int = OWN_TEXTS, workers: int = 1
) -> list[str]:
    """The bundle's drafts of the first `count` training phantoms; phantoms not in the cache are drawn."""
    from tqdm import tqdm

    import edge

    size = demo_config().image_size
    shards = -(-count // SHARD)
    ensure_shards(cache, seed, size, shards, workers)
    engine = edge.load(bundle, device="cpu", threads=workers, draft=False)
    texts: list[str] = []
    with tqdm(total=count, desc="drafting", unit="film", leave=False) as bar:
        for index in range(shards):
            for image in load_shard(cache, seed, size, index).images[: count - len(texts)]:
                texts.append(engine.report(image).findings)
                bar.update()
    return texts


def draft_texts(bundle: Path | None, cache: Path, *, seed: int = 1, workers: int = 1) -> list[str]:
    """The corpus of the demo bundle's draft table."""
    return [*own_drafts(bundle, cache, seed=seed, workers=workers), *corpus(GRAMMAR_TEXTS, GRAMMAR_SEED)]
