# SPDX-License-Identifier: Apache-2.0
"""Token for token against transformers' GPT-2 with an image prefix and a per-layer additive bias."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small import spec_of

import edge._kernel as kernel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IMAGES, PREFIX, TOKENS = 20, 48, 100
SPEC = spec_of(max_positions=160)
NAMES = {
    "ln_1": "attn_norm", "ln_2": "mlp_norm", "attn.c_attn": "qkv", "attn.c_proj": "attn_out",
    "mlp.c_fc": "mlp_in", "mlp.c_proj": "mlp_out",
}  # fmt: skip

modes = pytest.mark.parametrize("rows", ["all", "prefill", "none"])
penalties = pytest.mark.parametrize("penalty", [1.0, 1.2])
masks = pytest.mark.parametrize("strict", [False, True], ids=["soft", "strict"])


def weights_of_gpt2(model: Any) -> dict[str, NDArray[np.float32]]:
    """The kernel's names and layouts for a GPT2LMHeadModel."""
    state = {k: v.detach().numpy() for k, v in model.transformer.state_dict().items()}
    weights = {
        "embed.weight": state["wte.weight"], "positions.weight": state["wpe.weight"],
        "final_norm.weight": state["ln_f.weight"], "final_norm.bias": state["ln_f.bias"],
    }  # fmt: skip
    for i in range(len(model.transformer.h)):
        for theirs, ours in NAMES.items():
            w = state[f"h.{i}.{theirs}.weight"]
            weights[f"layers.{i}.{ours}.weight"] = np.ascontiguousarray(w.T if w.ndim == 2 else w)
            weights[f"layers.{i}.{ours}.bias"] = state[f"h.{i}.{theirs}.bias"]
    return weights


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    # Matrices this small gain nothing from threads, and a second team of them would fight the kernel's.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=SPEC["vocab"], n_positions=SPEC["max_positions"], n_embd=SPEC["hidden"], n_layer=SPEC["layers"],
        n_head=SPEC["heads"], attn_implementation="eager", initializer_range=0.15,
    )  # fmt: skip
    yield transformers.GPT2LMHeadModel(config).eval()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images() -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
    """Prefix embeddings [images, prefix, hidden], and a soft and a strict bias [images, layers, prefix]."""
    rng = np.random.default_rng(1)
    soft = 2 * rng.random((IMAGES, SPEC["layers"], PREFIX), dtype=np.float32)
    strict = np.where(rng.random(soft.shape) < 0.6, np.finfo(np.float32).min, soft)
    return torch.from_numpy(rng.standard_normal((IMAGES, PREFIX, SPEC["hidden"]), dtype=np.float32)), soft, strict


@contextmanager
def biased(model: Any, bias: NDArray[np.float32], on: tuple[bool, bool]) -> Iterator[None]:
    """Adds the bias [images, layers, prefix] to the image keys' scores in the prefix rows (on[0]) and in the
    text rows (on[1]), layer by layer, through the attention mask that each layer is handed."""

    def hook(layer: int) -> Any:
        def before(_module: Any, args: Any, kwargs: Any) -> Any:
            mask = kwargs["attention_mask"].clone()
            add = torch.from_numpy(bias[:, layer])[:, None, None]
            start = mask.shape[-1] - mask.shape[-2]  # the position of the first row
            split = max(0, PREFIX - start)
            visible = mask == 0
            if on[0]:
                mask[:, :, :split, :PREFIX] += add
            if on[1]:
                mask[:, :, split:, :PREFIX] += add
            # A key that is both hidden and in the future stays one finite number away, as in the original.
            kwargs["attention_mask"] = torch.where(visible, mask, torch.finfo(torch.float32).min)
            return args, kwargs

        return before

    handles = [
        block.attn.register_forward_pre_hook(hook(i), with_kwargs=True) for i, block in enumerate(model.transformer.h)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def causal(images: int, rows: int, keys: int) -> Any:
    """Additive mask [images, 1, rows, keys] of the last `rows` of `keys` positions."""
    seen = torch.arange(keys)[None] <= torch.arange(keys - rows, keys)[:, None]
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    return mask[None, None].expand(images, 1, rows, keys)


def penalised(scores: Any, generated: list[int], penalty: float) -> Any:
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1.0 else None
    if not processor or not generated:
        return scores
    return processor(torch.tensor([generated]), scores[None].clone())[0]


@torch.no_grad()
def prefill(model: Any, x: Any, bias: NDArray[np.float32], rows: str) -> Any:
    with biased(model, bias, (rows != "none", rows == "all")):
        return model(inputs_embeds=x, attention_mask=causal(len(x), PREFIX, PREFIX), use_cache=True)


def kernel_text(
    decoder: kernel.Decoder, cache: Any, logits: Any, image: int, bias: NDArray[np.float32], rows: str, penalty: float
) -> list[int]:
    keys = np.stack([layer.keys[image].numpy() for layer in cache.layers])
    values = np.stack([layer.values[image].numpy() for layer in cache.layers])
    decoder.set_prefix(keys, values, bias[image])
    first = np.ascontiguousarray(logits[image, -1].numpy())
    result = decoder.generate(first, bias_rows=rows, max_new_tokens=TOKENS, repetition_penalty=penalty)
    return result.token_ids


@modes
@penalties
@masks
def test_greedy_tokens(model: Any, images: Any, rows: str, penalty: float, strict: bool) -> None:
    """Each of the hundred tokens of each image is PyTorch's greedy choice after those before it."""
    x, soft, hidden = images
    bias = hidden if strict else soft
    out = prefill(model, x, bias, rows)
    decoder = kernel.Decoder(SPEC, weights_of_gpt2(model), threads=1)
    texts = [kernel_text(decoder, out.past_key_values, out.logits, i, bias, rows, penalty) for i in range(IMAGES)]
    assert all(len(text) == TOKENS for text in texts)
    assert len({tuple(text) for text in texts}) > 1
    text = model.transformer.wte(torch.tensor(texts)[:, :-1])
    embeds, total = torch.cat([x, text], 1), PREFIX + TOKENS - 1
    with torch.no_grad(), biased(model, bias, (rows != "none", rows == "all")):
        logits = model(inputs_embeds=embeds, attention_mask=causal(IMAGES, total, total)).logits[:, PREFIX - 1 :]
    for i, ids in enumerate(texts):
        want = [int(penalised(logits[i, n], ids[:n], penalty).argmax()) for n in range(TOKENS)]
        assert ids == want


@modes
@masks
def test_greedy_loop(model: Any, images: Any, rows: str, strict: bool) -> None:
    """PyTorch's own loop with its cache, token by token, on one image."""
    x, soft, hidden = images
    bias = (hidden if strict else soft)[:1]
    out = prefill(model, x[:1], bias, rows)
    decoder = kernel.Decoder(SPEC, weights_of_gpt2(model), threads=1)
    ids = kernel_text(decoder, out.past_key_values, out.logits, 0, bias, rows, 1.2)
    want: list[int] = []
    logits, cache = out.logits[0, -1], out.past_key_values
    with torch.no_grad(), biased(model, bias, (rows != "none", rows == "all")):
        for n in range(TOKENS):
            want.append(int(penalised(logits, want, 1.2).argmax()))
            mask = causal(1, 1, PREFIX + n + 1)
            out = model(
                input_ids=torch.tensor([want[-1:]]), attention_mask=mask, past_key_values=cache, use_cache=True,
                position_ids=torch.tensor([[PREFIX + n]]),
            )  # fmt: skip
            logits, cache = out.logits[0, -1], out.past_key_values
    assert ids == want


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512vnni"])
def test_logits(model: Any, images: Any, isa: str) -> None:
    """Teacher forcing: float32 against float32."""
    if isa not in kernel.isa_supported():
        pytest.skip(f"this machine lacks {isa}")
    x, soft, _ = images
    out = prefill(model, x[:1], soft[:1], "all")
    decoder = kernel.Decoder(SPEC, weights_of_gpt2(model), threads=1, isa=isa)
    kernel_text(decoder, out.past_key_values, out.logits, 0, soft, "all", 1.0)
    decoder.rewind(0)
    ids = np.random.default_rng(2).integers(0, SPEC["vocab"], 60).astype(np.int32)
    with torch.no_grad(), biased(model, soft[:1], (True, True)):
        want = model(
            input_ids=torch.from_numpy(ids[None].astype(np.int64)), attention_mask=causal(1, 60, PREFIX + 60),
            past_key_values=out.past_key_values, use_cache=True,
            position_ids=torch.arange(PREFIX, PREFIX + 60)[None],
        ).logits[0].numpy()  # fmt: skip
    got = decoder.forward(ids, True)
    assert ((got - want) ** 2).sum() / (want**2).sum() < 2e-11
