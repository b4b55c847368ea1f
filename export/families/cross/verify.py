# SPDX-License-Identifier: Apache-2.0
"""Self-check of an export: graph and kernel against the PyTorch model, stage by stage, on several pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ExportError
from ...onnx_graph import GraphSession, quiet
from ...verify import LIMITS, TOKENS, Verification
from .decoders import Decoder
from .encoders import EncoderTokens
from .prompt import without_context


def verify(
    model: Any,
    decoder: Decoder,
    session: GraphSession,
    weights: dict[str, np.ndarray],
    manifest: dict[str, Any],
    images: Sequence[np.ndarray],
    *,
    threads: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> Verification:
    """Compare graph and kernel with the model.

    Parameters
    ----------
    session : GraphSession
        Of the graph with its check outputs.
    weights : dict
        The decoder's arrays as they are written.
    images : sequence of ndarray float32 [1, 3, H, W]

    Raises
    ------
    ExportError
        A stage is beyond tolerance; the message holds the table of errors.
    """
    from edge.decoder import Decoder as Kernel

    count = min(TOKENS, manifest["generation"]["max_new_tokens"])
    result = Verification(len(images), count)
    kernel = Kernel(manifest["decoder"], weights, kv_dtype=manifest.get("kv_dtype"), threads=threads)
    tokens = EncoderTokens(model)
    for pixels in images:
        progress()
        with torch.no_grad():
            want, states = tokens.look(torch.from_numpy(pixels))
            got = session.run(pixels)
            begin = [*without_context(manifest["generation"])]
            if states is not None:
                begin += _check_states(result, states, got["prompt_logits"], manifest)
            _check_image(result, model, decoder, want, got, kernel, manifest, count, begin)
    if not result.passed:
        failed = ", ".join(stage.name for stage in result.stages.values() if not stage.passed)
        raise ExportError(
            f"the exported graph does not compute what the model computes ({failed}); nothing was written\n"
            + result.table()
        )
    return result


def _check_image(
    result: Verification,
    model: Any,
    decoder: Decoder,
    tokens: Tensor,
    got: dict[str, np.ndarray],
    kernel: Any,
    manifest: dict[str, Any],
    count: int,
    begin: list[int],
) -> None:
    from edge.decoder import GenerationOptions

    limits = LIMITS[manifest["precision"]]
    quantized = manifest["precision"] != "fp32"
    result.compare("image tokens", got["prefix_embeddings"], tokens.numpy(), limits["nmse"])
    for what in ("keys", "values"):
        parts = [getattr(block, f"cross_{what[0]}") for block in decoder.blocks]
        rows = torch.stack([tokens @ p.weight.t() + p.bias for p in parts])
        wanted = rows.view(*rows.shape[:2], decoder.heads, -1).transpose(1, 2)
        result.compare(f"cross {what}", got[f"cross_{what}"], wanted.numpy(), limits["nmse"])
    generation = {**manifest["generation"], "begin_ids": begin}
    ids, margins = greedy(model, tokens, generation, count, decoder)
    kernel.set_prefix(got["cross_keys"], got["cross_values"])
    if ids:
        whole = [*begin, *ids[:-1]]
        logits = decoder_logits(model, tokens, whole, decoder)[len(begin) - 1 :].numpy()
        forward = kernel.forward(np.array(whole, np.int32), bias=False)[len(begin) - 1 :]
        result.compare("text logits", forward, logits, limits["nmse"])
        result.compare_choices("text logits, same first choice", forward, logits, limits["tokens"], quantized)
    options = GenerationOptions.from_manifest(
        {**generation, "beams": 1, "forced_end_id": -1}, max_new_tokens=count, bias_rows="none"
    )
    own = kernel.generate(None, options).token_ids
    result.compare_texts(own, ids, margins, limits["tokens"], quantized)


def _check_states(result: Verification, want: Tensor, got: np.ndarray, manifest: dict[str, Any]) -> list[int]:
    """Compare the classifier; the prompt's ids of the model's own states."""
    limits = LIMITS[manifest["precision"]]
    result.compare("states of findings", got, want.numpy(), limits["nmse"])
    quantized = manifest["precision"] != "fp32"
    limit = None if quantized else limits["tokens"]
    result.compare_choices("states of findings, same", got, want.numpy(), limit, quantized)
    return [manifest["generation"]["states"]["token_ids"][state] for state in want.argmax(1)]


def decoder_logits(model: Any, tokens: Tensor, ids: Sequence[int], decoder: Decoder) -> Tensor:
    """The model's logits [n, vocab] of every row of a text."""
    types = {"token_type_ids": torch.tensor([decoder.types_of(ids)])} if decoder.type_after else {}
    with quiet():  # GPT-2 finds its padding token among the ids and wants a mask: there is none, every row counts
        return model.decoder(
            input_ids=torch.tensor([list(ids)]), encoder_hidden_states=tokens[None], use_cache=False, **types
        ).logits[0]


def greedy(
    model: Any, tokens: Tensor, generation: dict[str, Any], count: int, decoder: Decoder
) -> tuple[list[int], list[float]]:
    """The model's greedy ids without the stop id, and how far ahead each was of the second choice."""
    ids: list[int] = []
    margins: list[float] = []
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    rows, begin = list(generation["begin_ids"]), list(generation["begin_ids"])
    for _ in range(count):
        types = {}
        if decoder.type_after:
            types["token_type_ids"] = torch.tensor([decoder.types_of([*begin, *ids])[-len(rows) :]])
        with quiet():
            out = model.decoder(
                input_ids=torch.tensor([rows]),
                encoder_hidden_states=tokens[None],
                past_key_values=cache,
                use_cache=True,
                **types,
            )
        cache = out.past_key_values
        scores = processed(out.logits[0, -1], [*begin, *ids], generation)
        best = torch.topk(scores, 2).values
        token = int(scores.argmax())
        if token in generation["stop_ids"]:
            margins.append(float(best[0] - best[1]))
            break
        ids.append(token)
        margins.append(float(best[0] - best[1]))
        rows = [token]
    return ids, margins


def processed(logits: Tensor, seen: Sequence[int], generation: dict[str, Any]) -> Tensor:
    """Scores as the library's processors make them."""
    scores = logits.clone()
    penalty = generation["repetition_penalty"]
    generated = len(seen) - len(generation["begin_ids"])
    if penalty != 1.0:
        at = torch.tensor(sorted(set(seen)))
        scores[at] = torch.where(scores[at] < 0, scores[at] * penalty, scores[at] / penalty)
    scores[list(generation["suppressed_ids"])] = -torch.inf
    if generated < generation.get("min_new_tokens", 0):
        scores[list(generation["stop_ids"])] = -torch.inf
    if n := generation.get("no_repeat_ngram", 0):
        grams = [tuple(seen[i : i + n]) for i in range(len(seen) - n + 1)]
        tail = tuple(seen[len(seen) - n + 1 :])
        scores[[gram[-1] for gram in grams if gram[:-1] == tail]] = -torch.inf
    return scores
