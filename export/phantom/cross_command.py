# SPDX-License-Identifier: Apache-2.0
"""``edge-phantom train --family gpt2-cross|bert-cross``: from nothing to a folder that ``edge-export`` takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.errors import UsageError

IMAGES = 6000


def train_cross(arguments: argparse.Namespace, cache: Path) -> None:
    """Draw what is missing, train the stages that are not finished, write ``OUT/FAMILY``.

    Raises
    ------
    UsageError
        The stage asked for is one of the demo model's only.
    """
    import torch

    from .cross import IMAGE_SIZE, tokenizer_for, write_folder
    from .cross_train import DEFAULTS, STAGES, CrossTrainer
    from .data import SHARD, ensure_shards
    from .train import MAX_TEXT, Films

    if arguments.stage not in ("all", *STAGES):
        raise UsageError(f"--family {arguments.family} has the stages {', '.join(STAGES)}, not {arguments.stage}")
    if arguments.compile:
        raise UsageError(f"--family {arguments.family} is not compiled")
    shards = max(1, (arguments.images or IMAGES) // SHARD)
    if not arguments.no_draw:
        ensure_shards(cache, arguments.seed, IMAGE_SIZE, shards, arguments.workers)
    if arguments.draw_only:
        return
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = tokenizer_for(arguments.family, arguments.out / f"{arguments.family}-tokenizer.json")
    films = Films(cache, arguments.seed, IMAGE_SIZE, shards)
    trainer = CrossTrainer(arguments.out, films, arguments.family, tokenizer, arguments.seed, device=device)
    wanted = STAGES if arguments.stage == "all" else (arguments.stage,)
    for stage in wanted:
        for earlier in STAGES[: STAGES.index(stage)]:
            trainer.load_average(earlier)
        options = DEFAULTS[stage]
        if arguments.steps is not None:
            options.steps = arguments.steps
        trainer.run(stage, options, lambda line: print(line, flush=True))
    if wanted[-1] == STAGES[-1]:
        folder = arguments.out / arguments.family
        write_folder(trainer.model.cpu().eval(), arguments.family, tokenizer, folder, MAX_TEXT + 1)
        print(f"{folder}: now edge-export {folder} --intensity percentile:0.5:99.5 --out BUNDLE")
