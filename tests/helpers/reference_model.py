# SPDX-License-Identifier: Apache-2.0
"""An independent reference of the whole report: transformers' own GPT-2 with ``inputs_embeds`` and 4-D masks.

Shares no code with the exporter's prefill or its self-check: every step runs through the library's
attention and cache, with one additive mask per layer. The bias comes from a NumPy twin.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from edge_export.families.lana.model import LanaModel

LOWEST = float(np.finfo(np.float32).min)


@dataclass
class ReferenceTexts:
    """Greedy texts of a batch: ids [B, n] and the margin [B, n] of each choice over the runner-up."""

    ids: np.ndarray
    margins: np.ndarray


class ReferenceModel:
    """A tiny or full model on a batch of pictures.

    Parameters
    ----------
    model : LanaModel
    pixels : ndarray float32 [B, 3, H, W]
    kind, strength
        Of the bias; ``none`` for no bias.
    """

    def __init__(self, model: LanaModel, pixels: np.ndarray, kind: str, strength: float = 1.0) -> None:
        import torch

        self.model, self.kind = model, kind
        self._prefilled: dict[bool, tuple[Any, torch.Tensor]] = {}
        with torch.no_grad():
            self.embeddings = model.prefix(torch.from_numpy(pixels))
            masks = model.mask(torch.from_numpy(pixels)) if kind != "none" else None
        self.seen = None if masks is None else masks[:, 0].numpy()
        config = model.config
        self.bias = None
        if self.seen is not None:
            grids = np.stack(
                [
                    bias_twin(mask, config.decoder_layers, config.grid, kind == "hidden", kind == "layerwise")
                    for mask in self.seen.astype(np.float64)
                ]
            )
            grids = np.where(grids == LOWEST, grids, grids * strength)
            self.bias = torch.from_numpy(grids.astype(np.float32))  # [B, L, G]

    def masks(self, first: int, total: int, rows: str, prompt: int, sequence: int) -> torch.Tensor:
        """Additive masks [L, B, 1, total - first, total] of the rows from ``first`` on.

        As the paper's code builds them: the lowest float above the diagonal, plus the bias where the mode
        says.
        """
        import torch

        config = self.model.config
        layers, prefix = config.decoder_layers, self.embeddings.shape[1]
        causal = torch.full((total, total), LOWEST).triu(1)[first:]
        mask = causal.expand(layers, len(self.embeddings), 1, -1, -1).clone()
        biased = {"all": total, "prefill": prefix + prompt, "none": 0}[rows] if self.bias is not None else 0
        for row in range(first, min(biased, total)):
            mask[:, :, 0, row - first] += self._row(total, prefix, sequence).transpose(0, 1)
        return mask

    def _row(self, total: int, prefix: int, sequence: int) -> torch.Tensor:
        import torch.nn.functional as F

        if self.kind == "layerwise":
            values = F.interpolate(self.bias, size=sequence, mode="linear", align_corners=False)
        elif self.kind == "gaussian_legacy":
            values = F.interpolate(self.bias, size=prefix, mode="linear", align_corners=False)
        else:
            values = F.pad(self.bias, (prefix - self.bias.shape[-1], 0))
        return F.pad(values, (0, total))[..., :total]

    def full_logits(self, ids: torch.Tensor, rows: str, prompt: int, sequence: int) -> torch.Tensor:
        """Logits [B, T + 1, V] of one pass over image and text [B, T] without a cache."""
        import torch

        decoder = self.model.decoder
        with torch.no_grad():
            embedded = torch.cat([self.embeddings, decoder.transformer.wte(ids)], dim=1)
            masks = self.masks(0, embedded.shape[1], rows, prompt, sequence)
            with _masks_per_layer(decoder, masks):
                logits = decoder(inputs_embeds=embedded, use_cache=False).logits
        return logits[:, self.embeddings.shape[1] - 1 :]

    def greedy(
        self,
        count: int,
        rows: str,
        penalty: float,
        *,
        begin: list[int] | None = None,
        suppressed: list[int] | None = None,
        sequence: int = 0,
    ) -> ReferenceTexts:
        """Greedy texts with the repetition penalty over the generated ids, with the library's own cache."""
        import torch
        from transformers import DynamicCache

        decoder = self.model.decoder
        batch = len(self.embeddings)
        prompt = torch.tensor([begin or []] * batch, dtype=torch.long).reshape(batch, -1)
        rows_in = torch.cat([self.embeddings, decoder.transformer.wte(prompt)], dim=1).detach()
        cache, done = DynamicCache(), 0
        ids = torch.empty(batch, 0, dtype=torch.long)
        margins = []
        for _ in range(count):
            total = done + rows_in.shape[1]
            masks = self.masks(done, total, rows, prompt.shape[1], sequence)
            with torch.no_grad(), _masks_per_layer(decoder, masks):
                out = decoder(inputs_embeds=rows_in, past_key_values=cache, use_cache=True, logits_to_keep=1)
            done = total
            scores = out.logits[:, -1].clone()
            if suppressed:
                scores[:, suppressed] = -torch.inf
            if ids.shape[1]:
                old = scores.gather(1, ids)
                scores.scatter_(1, ids, torch.where(old < 0, old * penalty, old / penalty))
            top = scores.topk(2, dim=1).values
            margins.append(top[:, 0] - top[:, 1])
            chosen = scores.argmax(1, keepdim=True)
            ids = torch.cat([ids, chosen], dim=1)
            rows_in = decoder.transformer.wte(chosen).detach()
        return ReferenceTexts(ids.numpy(), torch.stack(margins, 1).numpy())

    def choices(self, texts: list[list[int]], rows: str, penalty: float) -> ReferenceTexts:
        """The greedy choice at each place of texts [B, n] that are there already, from all that lies before it.

        Texts that equal these choices are the greedy texts, in two passes instead of n + 1: for models of full size.
        """
        import torch
        from transformers import DynamicCache

        decoder, prefix = self.model.decoder, self.embeddings.shape[1]
        ids = torch.tensor(texts)
        guided = rows != "none"
        if guided not in self._prefilled:
            cache = DynamicCache()
            with torch.no_grad(), _masks_per_layer(decoder, self.masks(0, prefix, rows, 0, 0)):
                out = decoder(inputs_embeds=self.embeddings, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._prefilled[guided] = cache, out.logits
        cache, first = self._prefilled[guided]
        rows_in = decoder.transformer.wte(ids[:, :-1]).detach()
        masks = self.masks(prefix, prefix + rows_in.shape[1], rows, 0, 0)
        with torch.no_grad(), _masks_per_layer(decoder, masks):
            rest = decoder(inputs_embeds=rows_in, past_key_values=cache, use_cache=True).logits
        cache.crop(prefix)
        scores = torch.cat([first, rest], dim=1)
        for place in range(1, ids.shape[1]):
            old = scores[:, place].gather(1, ids[:, :place])
            scores[:, place].scatter_(1, ids[:, :place], torch.where(old < 0, old * penalty, old / penalty))
        top = scores.topk(2, dim=2)
        return ReferenceTexts(scores.argmax(2).numpy(), (top.values[..., 0] - top.values[..., 1]).numpy())


@contextmanager
def _masks_per_layer(decoder: Any, masks: torch.Tensor) -> Iterator[None]:
    """Hand each layer's attention its own 4-D additive mask."""

    def replace(layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": masks[layer]}

        return hook

    handles = [
        block.attn.register_forward_pre_hook(replace(i), with_kwargs=True)
        for i, block in enumerate(decoder.transformer.h)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bias_twin(mask: np.ndarray, layers: int, grid: int, strict: bool, plain: bool = False) -> np.ndarray:
    """The bias in direct form, float64: bilinear sampling, explicit reflect padding, explicit sums.

    Parameters
    ----------
    mask : ndarray [M, M]
    plain : bool
        Leave out the first min-max scaling (the kind ``layerwise``).

    Returns
    -------
    ndarray [layers, grid * grid]
    """
    size = mask.shape[0]
    if not plain:
        mask = (mask - mask.min()) / max(mask.max() - mask.min(), 1e-8)
    at = np.clip((np.arange(grid) + 0.5) * size / grid - 0.5, 0, size - 1)
    low = at.astype(int)
    high = np.minimum(low + 1, size - 1)
    part = at - low
    rows = mask[low] * (1 - part)[:, None] + mask[high] * part[:, None]
    small = rows[:, low] * (1 - part) + rows[:, high] * part
    result = np.zeros((layers, grid * grid))
    if small.max() == small.min():
        return np.full_like(result, LOWEST) if strict else result
    for layer in range(layers):
        k = min(2 * (layers - layer) + 3, 2 * grid - 1)
        r = k // 2
        weights = np.array([np.exp(-((i - r) ** 2) / (2 * ((k - 1) / 6) ** 2)) for i in range(k)])
        weights /= weights.sum()
        padded = np.pad(small, r, mode="reflect")
        across = sum(w * padded[:, i : i + grid] for i, w in enumerate(weights))
        both = sum(w * across[i : i + grid] for i, w in enumerate(weights))
        visible = both > both.min() * (1 + 2.0**-18)
        both = (both - both.min()) / max(both.max() - both.min(), 1e-8)
        result[layer] = np.where(visible, both, LOWEST).ravel() if strict else both.ravel()
    return result
