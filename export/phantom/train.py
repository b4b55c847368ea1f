# SPDX-License-Identifier: Apache-2.0
"""Training of the demo model in five resumable stages.

1. ``segmenter``: one ConvNeXt trunk with a lung and a heart head, on the exact masks.
2. ``encoder``: the ViT with a per-patch finding head, on where each finding was painted. A ViT that starts from
   nothing learns from a few thousand films this way, where a caption alone would take far more.
3. ``devices``: the same again with half of every batch from films with thin devices, the last thing a ViT learns.
4. ``decoder``: connector and decoder on findings texts, written anew at every visit of a film, under the anatomical
   bias in every row (bias rows ``all``). The encoder stands still, so its tokens are computed once and kept.
5. ``report``: encoder, connector and decoder together, films picked as in the third stage; the patch head stays as
   a second loss.

Seeds fix the order of films, texts and augmentation, so a run is repeated by the same command on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..families.lana.model import LanaModel
from .config import END_OF_TEXT, demo_config
from .data import Shard, load_shard
from .grammar import write_findings
from .labels import LABELS
from .staged import StagedTrainer, StageOptions

KINDS: dict[str, list[int]] = {}
for _index, _name in enumerate(LABELS):
    _sided = ("effusion", "pneumothorax", "opacity", "nodule", "elevated")
    _kind = _name.split("_")[0] if _name.startswith(_sided) else _name
    KINDS.setdefault(_kind, []).append(_index)
STAGES = ("segmenter", "encoder", "devices", "decoder", "report")
THIN = [LABELS.index(name) for name in ("sternal_wires", "central_line")]
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
MAX_TEXT = 126


DEFAULTS = {
    "segmenter": StageOptions(steps=700, batch=16, learning_rate=1.5e-3),
    "encoder": StageOptions(steps=3600, batch=8, learning_rate=8e-4),
    "devices": StageOptions(steps=900, batch=8, learning_rate=5e-4, warmup=50, decay=0.7),
    "decoder": StageOptions(steps=1300, batch=8, learning_rate=8e-4, decay=0.0),
    "report": StageOptions(steps=700, batch=8, learning_rate=5e-4, warmup=50, decay=0.7, patch_loss=1.0, average=False),
}


class Films:
    """All shards of a cache, visited in a seeded order; waits for shards that are still being drawn.

    The pool grows with the steps (``grow`` shards are opened every hundred steps), so training can start while
    drawing goes on and still see the same films in the same order in every run.
    """

    def __init__(self, cache: Path, seed: int, size: int, shards: int, start: int = 24, grow: int = 2) -> None:
        self.cache, self.seed, self.size, self.limit = cache, seed, size, shards
        self.start, self.grow = min(start, shards), grow
        self.shards: list[Shard] = []

    def shard(self, index: int) -> Shard:
        while len(self.shards) <= index:
            self.shards.append(load_shard(self.cache, self.seed, self.size, len(self.shards), wait_seconds=900))
        return self.shards[index]

    def sample(self, step: int, batch: int, rng: np.random.Generator) -> list[tuple[Shard, int]]:
        wanted = min(self.limit, self.start + self.grow * step // 100)
        self.shard(wanted - 1)
        per_shard = len(self.shards[0].images)
        picks = rng.integers(0, wanted * per_shard, batch)
        return [(self.shards[p // per_shard], int(p % per_shard)) for p in picks]


def augment(images: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Exposure, contrast and noise; uint8 [B,S,S] to normalised float [B,3,S,S].

    Whites are not clipped at less than full ``strength``: a bright film must not lose a wire in front of the spine.
    """
    values = torch.from_numpy(images).float()[:, None] / 255
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32)) * strength

    values = values.clamp_min(1e-4) ** (1 + draw(-0.2, 0.25))
    values = (values - 0.5) * (1 + draw(-0.15, 0.12)) + 0.5 + draw(-0.06, 0.06)
    noise = torch.from_numpy(rng.standard_normal(values.shape, dtype=np.float32))
    values = (values + noise * draw(0.0, 0.02)).clamp(0, 1 if strength >= 1 else 2)
    return (values - MEAN) / STD


def patch_loss(logits: Tensor, regions: Tensor, labels: Tensor) -> Tensor:
    """Where each finding is (per patch) and whether it is there at all (log-sum-exp over patches).

    ``logits`` [B,P,C+K] for the C labels and the K kinds they belong to: a nodule looks alike in all six zones, so
    the kinds see many more positives and form the features that the labels then place.
    ``regions`` [B,C,g,g] coverage 0..1; ``labels`` [B,C].
    """
    labels = torch.cat([labels, torch.stack([labels[:, k].any(1) for k in KINDS.values()], 1)], 1)
    target = (regions.flatten(2).transpose(1, 2) * 6).clamp(max=1)
    target = torch.cat([target, torch.stack([target[..., k].amax(-1) for k in KINDS.values()], -1)], -1)
    weight = torch.full((logits.shape[-1],), 6.0, device=logits.device)
    local = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight) * 12
    pooled = logits.logsumexp(1) - 2.0
    return local + F.binary_cross_entropy_with_logits(pooled, labels.float())


class Trainer(StagedTrainer):
    """Model, patch head, optimizer and an exponential average of the weights, with checkpoints."""

    def __init__(
        self,
        out: Path,
        films: Films,
        tokenizer: Tokenizer,
        seed: int,
        *,
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(out, device)
        torch.manual_seed(seed)
        self.films, self.tokenizer, self.seed = films, tokenizer, seed
        self.config = demo_config()
        self.model = LanaModel(self.config)
        self._initialise()
        self.patch_head = nn.Linear(self.config.encoder_hidden, len(LABELS) + len(KINDS))
        self.model.to(self.device)
        self.patch_head.to(self.device)
        self.encode: Callable[[Tensor], Tensor] = self.model.encoder
        self.decode: Callable[..., Tensor] = self.model.decode_teacher_forced
        if compiled:
            self.encode = torch.compile(self.encode, dynamic=False)
            self.decode = torch.compile(self.decode, dynamic=False)
        self.stop_id = tokenizer.token_to_id(END_OF_TEXT)

    def _initialise(self) -> None:
        """Layer scales start small and ConvNeXt's large enough to learn in a short run; GELU gets its fast form."""
        for name, parameter in self.model.named_parameters():
            if name.endswith(".gamma"):
                nn.init.constant_(parameter, 0.1)
            elif "lambda1" in name:
                nn.init.constant_(parameter, 0.5)
        for block in self.model.decoder.transformer.h:
            block.mlp.act = nn.GELU(approximate="tanh")

    def modules(self, stage: str) -> list[nn.Module]:
        assert self.model.segmenter is not None
        if stage == "segmenter":
            return [self.model.segmenter]
        if stage in ("encoder", "devices"):
            return [self.model.encoder, self.patch_head]
        if stage == "decoder":
            return [self.model.linear_projection, self.model.decoder]
        return [self.model.encoder, self.patch_head, self.model.linear_projection, self.model.decoder]

    def loss(self, stage: str, step: int, options: StageOptions) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, STAGES.index(stage), step])
        picked = self.films.sample(step if stage != "decoder" else 10**6, options.batch, rng)
        if stage in ("devices", "report"):
            more = self.films.sample(10**6, 12 * options.batch, rng)
            thin = [(s, i) for s, i in more if s.labels[i, THIN].any()]
            picked = thin[: options.batch // 2] + picked[: options.batch - min(len(thin), options.batch // 2)]
        if stage == "decoder":
            tokens = self.put([self.tokens[id(s)][i] for s, i in picked])
            return {"loss": self._text_loss(picked, tokens.float(), rng)}
        strength = 0.4 if stage == "report" else 1.0
        pixels = augment(np.stack([s.images[i] for s, i in picked]), rng, strength).to(self.device)
        if stage == "segmenter":
            return self._segmenter_loss(picked, pixels)
        regions = self.put([s.regions[i] for s, i in picked]).float() / 255
        labels = self.put([s.labels[i] for s, i in picked])
        patches = self.encode(pixels)
        where = patch_loss(self.patch_head(patches), regions, labels)
        if stage in ("encoder", "devices"):
            return {"loss": where}
        text = self._text_loss(picked, patches, rng)
        return {"loss": text + options.patch_loss * where, "text": text, "where": where}

    def before(self, stage: str, log: Callable[[str], None]) -> None:
        if stage == "decoder":
            self.keep_tokens(log)

    @torch.no_grad()
    def keep_tokens(self, log: Callable[[str], None]) -> None:
        """Run the encoder over every film once, under augmentation, and keep its tokens as fp16 in memory."""
        self.model.encoder.eval()
        self.tokens: dict[int, np.ndarray] = {}
        for index in range(self.films.limit):
            shard = self.films.shard(index)
            rng = np.random.default_rng([self.seed, 41, index])
            parts = [
                self.model.encoder(augment(shard.images[i : i + 25], rng).to(self.device)).half().cpu().numpy()
                for i in range(0, len(shard.images), 25)
            ]
            self.tokens[id(shard)] = np.concatenate(parts)
            if index % 8 == 7:
                log(f"decoder: tokens of {index + 1}/{self.films.limit} shards")

    def _segmenter_loss(self, picked: list[tuple[Shard, int]], pixels: Tensor) -> dict[str, Tensor]:
        assert self.model.segmenter is not None
        lung = self.put([s.lung[i] for s, i in picked]).float()
        heart = self.put([s.heart[i] for s, i in picked]).bool()
        lung_logits, heart_logits = self.model.segmenter.logits(pixels, shared_trunk=True)
        classes = torch.where(heart, 2, torch.where(lung > 0.5, 1, 0))
        return {
            "loss": F.binary_cross_entropy_with_logits(lung_logits[:, 0], lung) + F.cross_entropy(heart_logits, classes)
        }

    def _text_loss(self, picked: list[tuple[Shard, int]], patches: Tensor, rng: np.random.Generator) -> Tensor:
        masks = self.put([s.lung[i] | s.heart[i] for s, i in picked])[:, None]
        bias = self.model.anatomy(masks.float())
        texts = [
            write_findings(frozenset(n for n, on in zip(LABELS, s.labels[i], strict=True) if on), rng)
            for s, i in picked
        ]
        encoded = [[*e.ids[:MAX_TEXT], self.stop_id] for e in self.tokenizer.encode_batch(texts)]
        longest = -(-max(map(len, encoded)) // 32) * 32
        targets = torch.full((len(encoded), longest), -100)
        for row, ids in enumerate(encoded):
            targets[row, : len(ids)] = torch.tensor(ids)
        targets = targets.to(self.device)
        prefix = self.model.linear_projection(patches)
        logits = self.decode(prefix, targets[:, :-1].clamp_min(0), bias)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    def finished_model(self) -> LanaModel:
        """The model with both segmenters on the one trunk that was trained."""
        assert self.model.segmenter is not None
        self.model.segmenter.heart_model.encoder.load_state_dict(self.model.segmenter.lung_model.encoder.state_dict())
        return self.model.cpu().eval()
