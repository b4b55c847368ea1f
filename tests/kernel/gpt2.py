# SPDX-License-Identifier: Apache-2.0
"""The reference: transformers' GPT-2 with an image prefix and a per-layer additive bias on its image keys.

Import it only where torch is there (``pytest.importorskip``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from edge import _kernel as kernel

HIDDEN = float(np.finfo(np.float32).min)
NAMES = {
    "ln_1": "attn_norm",
    "ln_2": "mlp_norm",
    "attn.c_attn": "qkv",
    "attn.c_proj": "attn_out",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}


def gpt2_of(spec: Mapping[str, Any], spread: float) -> Any:
    """A random GPT2LMHeadModel of the spec's shape."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=spec["vocab"],
        n_positions=spec["max_positions"],
        n_embd=spec["hidden"],
        n_layer=spec["layers"],
        n_head=spec["heads"],
        attn_implementation="eager",
        initializer_range=spread,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def weights_of_gpt2(model: Any) -> dict[str, NDArray[np.float32]]:
    """The kernel's names and layouts for a GPT2LMHeadModel."""
    state = {k: v.detach().numpy() for k, v in model.transformer.state_dict().items()}
    weights = {
        "embed.weight": state["wte.weight"],
        "positions.weight": state["wpe.weight"],
        "final_norm.weight": state["ln_f.weight"],
        "final_norm.bias": state["ln_f.bias"],
    }
    for i in range(len(model.transformer.h)):
        for theirs, ours in NAMES.items():
            w = state[f"h.{i}.{theirs}.weight"]
            weights[f"layers.{i}.{ours}.weight"] = np.ascontiguousarray(w.T if w.ndim == 2 else w)
            weights[f"layers.{i}.{ours}.bias"] = state[f"h.{i}.{theirs}.bias"]
    return weights


def random_images(spec: Mapping[str, Any], images: int, length: int) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """Prefix embeddings [images, length, hidden], and a soft and a strict bias [images, layers, length]."""
    rng = np.random.default_rng(1)
    soft = 2 * rng.random((images, spec["layers"], length), dtype=np.float32)
    strict = np.where(rng.random(soft.shape) < 0.6, np.float32(HIDDEN), soft)
    x = rng.standard_normal((images, length, spec["hidden"]), dtype=np.float32)
    return torch.from_numpy(x), {"soft": soft, "strict": strict}


def causal(images: int, rows: int, keys: int) -> Any:
    """Additive mask [images, 1, rows, keys] of the last `rows` of `keys` positions."""
    seen = torch.arange(keys)[None] <= torch.arange(keys - rows, keys)[:, None]
    return torch.where(seen, 0.0, HIDDEN)[None, None].expand(images, 1, rows, keys)


@contextmanager
def biased(model: Any, bias: NDArray[np.float32] | None) -> Iterator[None]:
    """Adds the bias [images, layers, prefix] to every row's scores of the image keys, layer by layer, through the
    attention mask that each layer is handed."""

    def hook(layer: int) -> Any:
        def before(_module: Any, args: Any, kwargs: Any) -> Any:
            assert bias is not None
            mask = kwargs["attention_mask"].clone()
            visible = mask == 0
            mask[..., : bias.shape[-1]] += torch.from_numpy(bias[:, layer])[:, None, None]
            # A key both hidden and in the future stays at the lowest finite number.
            kwargs["attention_mask"] = torch.where(visible, mask, HIDDEN)
            return args, kwargs

        return before

    blocks = model.transformer.h if bias is not None else []
    handles = [block.attn.register_forward_pre_hook(hook(i), with_kwargs=True) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def prefill(model: Any, x: Any, bias: NDArray[np.float32] | None) -> tuple[Any, Any]:
    """Cache of the prefix, and the logits [images, vocab] of its last row."""
    images, length, _ = x.shape
    with biased(model, bias):
        out = model(inputs_embeds=x, attention_mask=causal(images, length, length), use_cache=True, logits_to_keep=1)
    return out.past_key_values, out.logits[:, -1]


@torch.no_grad()
def extend(model: Any, cache: Any, ids: Any, bias: NDArray[np.float32] | None) -> Any:
    """Logits [images, n, vocab] of the ids [images, n] after the cache, which grows by them."""
    start, (images, n) = cache.get_seq_length(), ids.shape
    with biased(model, bias):
        return model(
            input_ids=ids,
            attention_mask=causal(images, n, start + n),
            past_key_values=cache,
            use_cache=True,
            position_ids=torch.arange(start, start + n)[None].expand(images, n),
        ).logits


def penalised(scores: Any, generated: list[int], penalty: float) -> Any:
    """transformers' own repetition penalty on the scores [vocab] of one row."""
    if penalty == 1.0 or not generated:
        return scores
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    return processor(torch.tensor([generated]), scores[None].clone())[0]


def set_prefix(decoder: kernel.Decoder, cache: Any, image: int, bias: NDArray[np.float32]) -> None:
    """Hands one image's part of a prefilled cache to the kernel."""
    keys = np.stack([layer.keys[image].numpy() for layer in cache.layers])
    values = np.stack([layer.values[image].numpy() for layer in cache.layers])
    decoder.set_prefix(keys, values, bias[image])


def check_greedy(
    model: Any,
    decoder: kernel.Decoder,
    x: Any,
    bias: NDArray[np.float32],
    tokens: int,
    modes: tuple[str, ...] = ("all", "prefill", "none"),
    penalties: tuple[float, ...] = (1.0, 1.2),
) -> None:
    """Each token the kernel writes is PyTorch's greedy choice after those before it."""
    for with_bias in (True, False):
        chosen = [rows for rows in modes if (rows != "none") == with_bias]
        if not chosen:
            continue
        cache, first = prefill(model, x, bias if with_bias else None)
        for rows in chosen:
            for penalty in penalties:
                texts = []
                for i in range(len(x)):
                    set_prefix(decoder, cache, i, bias)
                    logits = np.ascontiguousarray(first[i].numpy())
                    result = decoder.generate(logits, bias_rows=rows, max_new_tokens=tokens, repetition_penalty=penalty)
                    assert len(result.token_ids) == tokens
                    texts.append(result.token_ids)
                assert len(x) == 1 or len({tuple(text) for text in texts}) > 1
                rest = extend(model, cache, torch.tensor(texts)[:, :-1], bias if rows == "all" else None)
                cache.crop(x.shape[1])
                scores = torch.cat([first[:, None], rest], 1)
                for i, ids in enumerate(texts):
                    want = [int(penalised(scores[i, n], ids[:n], penalty).argmax()) for n in range(tokens)]
                    assert ids == want, f"bias rows {rows}, penalty {penalty}, image {i}"
