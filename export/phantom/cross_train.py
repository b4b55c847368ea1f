# SPDX-License-Identifier: Apache-2.0
"""Training of the small cross-attention models in three resumable stages.

1. ``encoder``: the ViT with a per-patch finding head, on where each finding was painted; a quarter of every batch
   are films with thin devices. Both families read the same encoder, so it is trained once per folder.
2. ``decoder``: connector and decoder on findings texts written anew at every visit, the encoder standing still.
3. ``report``: all together, the patch head as a second loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from .cross import build_model, special_ids
from .data import Shard
from .grammar import write_findings
from .labels import LABELS
from .staged import StagedTrainer, StageOptions
from .train import KINDS, MAX_TEXT, THIN, Films, augment, patch_loss

STAGES = ("encoder", "decoder", "report")
DEFAULTS = {
    "encoder": StageOptions(steps=1300, batch=8, learning_rate=8e-4, decay=0.4),
    "decoder": StageOptions(steps=700, batch=8, learning_rate=7e-4, decay=0.2),
    "report": StageOptions(steps=250, batch=8, learning_rate=4e-4, warmup=50, decay=0.8, patch_loss=1.0, average=False),
}


class CrossTrainer(StagedTrainer):
    """A ``VisionEncoderDecoderModel`` of one family and its patch head.

    Parameters
    ----------
    family : str
        One of :data:`edge_export.phantom.cross.FAMILIES`.
    """

    def __init__(
        self, out: Path, films: Films, family: str, tokenizer: Tokenizer, seed: int, *, device: str = "cpu"
    ) -> None:
        super().__init__(out, device)
        torch.manual_seed(seed)
        self.films, self.family, self.tokenizer, self.seed = films, family, tokenizer, seed
        self.model = build_model(family, tokenizer).to(self.device)
        self.patch_head = nn.Linear(self.model.config.encoder.hidden_size, len(LABELS) + len(KINDS)).to(self.device)
        ids = special_ids(family, tokenizer)
        self.start_id, self.stop_id = ids["decoder_start_token_id"], ids["eos_token_id"]

    def checkpoint(self, stage: str) -> Path:
        return self.out / ("encoder.pt" if stage == "encoder" else f"{self.family}-{stage}.pt")

    def modules(self, stage: str) -> list[nn.Module]:
        model = self.model
        encoder, decoder = [model.encoder, self.patch_head], [model.enc_to_dec_proj, model.decoder]
        return {"encoder": encoder, "decoder": decoder, "report": encoder + decoder}[stage]

    def before(self, stage: str, log: Callable[[str], None]) -> None:
        if stage == "decoder":
            self._keep_tokens(log)

    def loss(self, stage: str, step: int, options: StageOptions) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 50 + STAGES.index(stage), step])
        picked = self.films.sample(step if stage == "encoder" else 10**6, options.batch, rng)
        if stage == "decoder":
            return {"loss": self._text_loss(picked, self.put([self.tokens[id(s)][i] for s, i in picked]).float(), rng)}
        more = self.films.sample(step if stage == "encoder" else 10**6, 4 * options.batch, rng)
        thin = [(s, i) for s, i in more if s.labels[i, THIN].any()][: options.batch // 4]
        picked = thin + picked[: options.batch - len(thin)]
        pixels = augment(np.stack([s.images[i] for s, i in picked]), rng, 0.4 if stage == "report" else 1.0)
        tokens = self._encode(pixels.to(self.device))
        regions = self.put([s.regions[i] for s, i in picked]).float() / 255
        labels = self.put([s.labels[i] for s, i in picked])
        where = patch_loss(self.patch_head(tokens[:, 1:]), regions, labels)
        if stage == "encoder":
            return {"loss": where}
        text = self._text_loss(picked, tokens, rng)
        return {"loss": text + options.patch_loss * where, "text": text, "where": where}

    def _encode(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.model.encoder(pixel_values=pixels).last_hidden_state
        return tokens

    @torch.no_grad()
    def _keep_tokens(self, log: Callable[[str], None]) -> None:
        """Run the encoder over every film once, under augmentation, and keep its tokens as fp16 in memory."""
        self.model.encoder.eval()
        self.tokens: dict[int, np.ndarray] = {}
        for index in range(self.films.limit):
            shard = self.films.shard(index)
            rng = np.random.default_rng([self.seed, 43, index])
            parts = [
                self._encode(augment(shard.images[i : i + 25], rng).to(self.device)).half().cpu().numpy()
                for i in range(0, len(shard.images), 25)
            ]
            self.tokens[id(shard)] = np.concatenate(parts)
        log(f"decoder: tokens of {self.films.limit} shards")

    def _text_loss(self, picked: list[tuple[Shard, int]], tokens: Tensor, rng: np.random.Generator) -> Tensor:
        texts = [
            write_findings(frozenset(n for n, on in zip(LABELS, s.labels[i], strict=True) if on), rng)
            for s, i in picked
        ]
        encoded = [[*e.ids[:MAX_TEXT], self.stop_id] for e in self.tokenizer.encode_batch(texts)]
        longest = max(map(len, encoded))
        targets = torch.full((len(encoded), longest), -100)
        for row, ids in enumerate(encoded):
            targets[row, : len(ids)] = torch.tensor(ids)
        begin = torch.full((len(encoded), 1), self.start_id)
        rows = torch.cat([begin, targets[:, :-1].clamp_min(0)], 1)
        logits = self.model.decoder(
            input_ids=rows.to(self.device), encoder_hidden_states=self.model.enc_to_dec_proj(tokens), use_cache=False
        ).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.to(self.device).flatten(), ignore_index=-100)
