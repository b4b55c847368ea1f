# SPDX-License-Identifier: Apache-2.0
"""Slow twins of the kernels: the same mathematics in NumPy, in float64 and without any cleverness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]

_erf = np.vectorize(math.erf, otypes=[float])


def nmse(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Squared error over squared signal."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(((got - want) ** 2).sum() / max((want**2).sum(), 1e-300))


def layer_norm(x: F64, weight: NDArray[Any], bias: NDArray[Any], eps: float) -> F64:
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu_tanh(x: NDArray[Any]) -> F64:
    x = np.asarray(x, np.float64)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: NDArray[Any]) -> F64:
    x = np.asarray(x, np.float64)
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


LEVELS = np.array([-127, -98, -78, -62, -48, -36, -23, -11, 1, 12, 24, 37, 50, 65, 83, 105]) / 128


def _places() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The columns of a group of 32 in the low and in the high nibbles of its 16 bytes."""
    places = [(8 * a + 2 * j + e, 16 * a + 8 * e + j) for a in (0, 1) for j in range(4) for e in (0, 1)]
    low = np.array([column for _, column in sorted(places)])
    return low, low + 4


def pack4(nibbles: NDArray[Any]) -> NDArray[np.uint8]:
    """Nibbles [rows, columns] to int4 weights [rows, columns / 2]."""
    low, high = _places()
    groups = nibbles.astype(np.uint8).reshape(len(nibbles), -1, 32)
    return np.ascontiguousarray((groups[..., low] | groups[..., high] << 4).reshape(len(nibbles), -1))


def full(w: NDArray[Any], scale: NDArray[Any] | None) -> F64:
    """The matrix that is stored as float32, int8 or int4."""
    if scale is None:
        return np.asarray(w, np.float64)
    if w.dtype == np.int8:
        return np.asarray(w, np.float64) * np.asarray(scale, np.float64)[:, None]
    low, high = _places()
    groups = w.reshape(len(w), -1, 16)
    wide = np.empty((*groups.shape[:2], 32))
    wide[..., low], wide[..., high] = LEVELS[groups & 15], LEVELS[groups >> 4]
    return (wide * np.asarray(scale, np.float64)[..., None]).reshape(len(w), -1)


def matmul(w: NDArray[Any], scale: NDArray[Any] | None, x: NDArray[Any], bias: NDArray[Any] | None) -> F64:
    y = np.asarray(x, np.float64) @ full(w, scale).T
    return y if bias is None else y + bias


def integers(x: NDArray[Any], levels: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows as integers up to `levels` with one scale each, in the kernel's float32 arithmetic."""
    largest = np.abs(x).max(-1)
    steps = np.divide(np.float32(levels), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(x * steps[:, None]).astype(np.int64), largest / np.float32(levels)


def matmul_integers(
    w: NDArray[Any], scale: NDArray[Any], x: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """A product of many rows with int8 or int4 weights, to the bit: sums of integers below 2^31, then float32."""
    cols, most = x.shape[1], 2**31 - 1
    levels = 127 if w.dtype == np.int8 else min(math.isqrt(most // cols), 32767)
    small, x_scale = integers(x, min(most // cols // levels, 32767))
    if w.dtype == np.int8:
        whole, w_scale = w.astype(np.int64), scale
    else:
        whole, w_scale = integers(full(w, scale).astype(np.float32), levels)
    sums = small @ whole.T
    assert np.abs(sums).max() <= most
    y = sums.astype(np.float32) * (x_scale[:, None] * w_scale)
    return y if bias is None else y + bias


def narrow(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows as integers of 8 bits less the one that stands for 0, and the scales that undo it."""
    f = np.float32
    low, high = np.minimum(x.min(1), f(0)), np.maximum(x.max(1), f(0))
    span = high - low
    with np.errstate(divide="ignore"):
        steps = np.where(span < 1e-30, f(0), f(255) / span).astype(f)
    zero = np.rint(-low * steps) - f(128)
    small = np.clip(np.rint(x * steps[:, None]) + zero[:, None], -128, 127) - zero[:, None]
    return small.astype(np.int64), np.where(span < 1e-30, f(0), span / f(255)).astype(f)


def matmul_narrow(
    w: NDArray[Any], scale: NDArray[Any], x: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """A product of many rows whose activations have 8 bits, to the bit."""
    small, x_scale = narrow(x)
    if w.dtype == np.int8:
        whole, w_scale = w.astype(np.int64), scale
    else:
        whole, w_scale = integers(full(w, scale).astype(np.float32), 127)
    y = (small @ whole.T).astype(np.float32) * (x_scale[:, None] * w_scale)
    return y if bias is None else y + bias


def attention(q: F64, k: F64, v: F64, bias: NDArray[Any] | None, counts: Sequence[int]) -> tuple[F64, F64]:
    """q [rows, d], k and v [keys, d], bias [rows, keys]; row r sees counts[r] keys. Output and attention."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    scores = q @ k.T / math.sqrt(q.shape[1])
    if bias is not None:
        scores = np.maximum(scores + bias, -np.finfo(np.float32).max)
    scores[np.arange(k.shape[0])[None] >= np.asarray(counts)[:, None]] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p @ v, p


def log_softmax(x: NDArray[Any]) -> F64:
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def adjusted(
    logits: NDArray[np.float32], generated: Sequence[int], penalty: float, suppressed: Sequence[int]
) -> NDArray[np.float32]:
    """Repetition penalty (each id once, whatever its count) and suppression, in float32."""
    scores = np.array(logits, np.float32)
    for token in set(generated):
        s = scores[token]
        scores[token] = s * np.float32(penalty) if s < 0 else s / np.float32(penalty)
    scores[list(suppressed)] = -np.inf
    return scores


def candidates(
    scores: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> tuple[list[int], list[float]]:
    """Ids that survive top-k and top-p with their probabilities, in id order."""
    s = (scores / np.float32(temperature)).astype(np.float64)
    if 0 < top_k < len(s):
        s[s < np.sort(s)[-top_k]] = -np.inf
    p = np.exp(s - s.max())
    p /= p.sum()
    if top_p < 1:
        order = np.lexsort((np.arange(len(p)), -p))
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= np.float32(top_p)]] = 0
        p /= p.sum()
    ids = np.flatnonzero(p)
    return [int(i) for i in ids], [float(x) for x in p[ids]]


def splitmix(seed: int, n: int) -> list[float]:
    mask, out = (1 << 64) - 1, []
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(((z ^ (z >> 31)) >> 11) * 2.0**-53)
    return out


def cached(x: NDArray[Any], kv_dtype: str) -> NDArray[Any]:
    """Keys or values [n, head_dim] as a cache of the type holds them; in int8 each row has its own scale. The float32
    arithmetic is the kernel's, or values halfway between two steps would fall either way."""
    if kv_dtype == "fp16":
        return x.astype(np.float16)
    x = x.astype(np.float32)
    if kv_dtype == "fp32":
        return x
    largest = np.abs(x).max(-1, keepdims=True)
    steps = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(x * steps).astype(np.float64) * (largest / np.float32(127))


class Twin:
    """The whole decoder, one row at a time."""

    def __init__(self, spec: Mapping[str, Any], weights: Weights, kv_dtype: str = "fp32") -> None:
        self.spec, self.weights = spec, weights
        self.kv = kv_dtype
        self.activation = gelu_tanh if spec["activation"] == "gelu_tanh" else gelu_erf

    def set_prefix(self, keys: NDArray[Any], values: NDArray[Any], bias: NDArray[Any] | None) -> None:
        self.k = [[cached(keys[i, h], self.kv) for h in range(keys.shape[1])] for i in range(keys.shape[0])]
        self.v = [[cached(values[i, h], self.kv) for h in range(keys.shape[1])] for i in range(keys.shape[0])]
        self.image, self.rows, self.ids = keys.shape[2], 0, list[int]()
        self.cross = self.spec.get("cross_keys", 0) > 0
        self.prefix = 0 if self.cross else self.image
        if self.cross:  # the image's keys are a cache of their own
            self.image_k, self.image_v = self.k, self.v
            empty = np.zeros((0, keys.shape[3]), keys.dtype)
            self.k, self.v = ([[empty] * keys.shape[1] for _ in keys] for _ in range(2))
        self.bias = bias

    def linear(self, name: str, x: F64) -> F64:
        w = self.weights
        return matmul(w[f"{name}.weight"], w.get(f"{name}.weight.scale"), x, w.get(f"{name}.bias"))

    def norm(self, name: str, x: F64) -> F64:
        w = self.weights
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], self.spec["norm_eps"])

    def bias_row(self, layer: int, total: int) -> F64:
        assert self.bias is not None
        return np.concatenate([self.bias[layer], np.zeros(total)])[:total]

    def block(self, i: int, x: F64, bias: bool) -> tuple[F64, F64]:
        """One transformer block on one row; also the attention [heads, keys]."""
        s, at, post = self.spec, f"layers.{i}.", self.spec["norm_position"] == "post"

        def before(name: str, x: F64) -> F64:
            return x if post else self.norm(at + name, x)

        def after(name: str, x: F64) -> F64:
            return self.norm(at + name, x) if post else x

        q, k, v = self.linear(at + "qkv", before("attn_norm", x)).reshape(3, s["heads"], s["head_dim"])
        heads, attention_rows = [], []
        for h in range(s["heads"]):
            self.k[i][h] = np.vstack([self.k[i][h], cached(k[h], self.kv)])
            self.v[i][h] = np.vstack([self.v[i][h], cached(v[h], self.kv)])
            total = len(self.k[i][h])
            row = self.bias_row(i, total)[None] if bias and self.bias is not None and not self.cross else None
            out, p = attention(q[h][None], self.k[i][h], self.v[i][h], row, [total])
            heads.append(out[0])
            attention_rows.append(p[0])
        x = after("attn_norm", x + self.linear(at + "attn_out", np.concatenate(heads)))
        if self.cross:
            q = self.linear(at + "cross_q", before("cross_norm", x)).reshape(s["heads"], s["head_dim"])
            row = self.bias[i][None] if bias and self.bias is not None else None
            seen = [
                attention(q[h][None], self.image_k[i][h], self.image_v[i][h], row, [self.image])
                for h in range(s["heads"])
            ]
            x = after("cross_norm", x + self.linear(at + "cross_out", np.concatenate([out[0] for out, _ in seen])))
            attention_rows = [p[0] for _, p in seen]
        hidden = self.activation(self.linear(at + "mlp_in", before("mlp_norm", x)))
        return after("mlp_norm", x + self.linear(at + "mlp_out", hidden)), np.stack(attention_rows)

    def step(self, token: int, bias: bool) -> tuple[F64, F64]:
        """Logits [vocab] and attention over the image [layers, keys], mean over heads."""
        s, w = self.spec, self.weights
        scale = w.get("embed.weight.scale")
        one = slice(token, token + 1)
        x = full(w["embed.weight"][one], None if scale is None else scale[one])[0]
        x = x * s.get("embed_scale", 1.0) + w["positions.weight"][self.prefix + self.rows + s["position_offset"]]
        if s.get("token_types"):
            pairs = zip(s["type_after"][::2], s["type_after"][1::2], strict=True)
            x = x + w["types.weight"][([0] + [kind for id_, kind in pairs if id_ in self.ids])[-1]]
        self.ids.append(token)
        if s.get("embed_norm"):
            x = self.norm("embed_norm", x)
        mass = []
        for i in range(s["layers"]):
            x, p = self.block(i, x, bias)
            mass.append(p[:, : self.image].mean(0))
        self.rows += 1
        if s["norm_position"] == "pre":
            x = self.norm("final_norm", x)
        if s.get("head_transform"):
            x = self.norm("transform_norm", self.activation(self.linear("transform", x)))
        logits = self.linear("embed" if s["tied_head"] else "head", x)
        return logits + (w["head.bias"] if s.get("head_bias") and s["tied_head"] else 0), np.stack(mass)


def rounded(x: F64) -> F64:
    """Queries or keys as integers with a scale per row, of as many levels as keep a sum of products inside 32 bits."""
    size = x.shape[-1]
    small, scale = integers(x.astype(np.float32).reshape(-1, size), min(math.isqrt((2**31 - 1) // size), 32767))
    return (small * scale[:, None].astype(np.float64)).reshape(x.shape)


def values_mixed(p: F64, v: F64) -> F64:
    return (p / p.sum(-1, keepdims=True)) @ v


def values_mixed_by_integers(p: F64, v: F64) -> F64:
    """Values have 1023 levels each side; what one counts, times its scale, has 16383 between 0 and the largest of its
    block of 128. A row that sees nothing but looks at all there is takes its values as they are stored."""
    heads, rows, size = v.shape
    small, scale = integers(v.astype(np.float32).reshape(-1, size), 1023)
    small, scale = small.reshape(v.shape), scale.reshape(heads, 1, rows).astype(np.float64)
    sums = np.zeros((heads, rows, size))
    for block in range(0, rows, 128):
        part = slice(block, block + 128)
        weights = p[:, :, part] * scale[:, :, part]
        step = np.maximum(weights.max(-1, keepdims=True), 1e-300) / 16383
        sums += np.rint(weights / step) @ small[:, part] * step
    exact = (p * scale) @ small
    looks_ahead = np.triu(p, 1).any(-1, keepdims=True)
    return np.where(looks_ahead, exact, sums) / p.sum(-1, keepdims=True)


def prefill(
    spec: Mapping[str, Any],
    weights: Weights,
    embeddings: NDArray[Any],
    bias: NDArray[Any] | None,
    narrow: Sequence[str] = (),
    whole: bool = False,
) -> tuple[F64, F64, F64]:
    """Logits of the last row, and the keys and values [layers, heads, rows, head_dim] of all rows.

    The products of matrices in `narrow` have activations of 8 bits, but for those of the last row in the last layer.
    With `whole`, attention is one of integers.

    Hidden keys and later ones have the lowest score, and -inf together: a row that sees nothing looks at the keys it
    may not see, and evenly.
    """
    slow, rows = Twin(spec, weights), len(embeddings)

    def linear(name: str, x: F64) -> F64:
        if name not in narrow:
            return slow.linear(name, x)
        w = (weights[f"{name}.weight"], weights[f"{name}.weight.scale"])
        return matmul_narrow(*w, x.astype(np.float32), weights[f"{name}.bias"]).astype(np.float64)

    lowest = float(np.finfo(np.float32).min)
    at = spec["position_offset"]
    x = np.asarray(embeddings, np.float64) + weights["positions.weight"][at : at + rows]
    keys, values = [], []
    for i in range(spec["layers"]):
        qkv = linear(f"layers.{i}.qkv", slow.norm(f"layers.{i}.attn_norm", x))
        q, k, v = qkv.reshape(rows, 3, spec["heads"], -1).transpose(1, 2, 0, 3)
        mix = values_mixed
        if whole:
            q, k_seen = rounded(q), rounded(k)
            mix = values_mixed_by_integers
        else:
            k_seen = k
        scores = q @ k_seen.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        added = np.triu(np.full((rows, rows), lowest), 1)
        if bias is not None:
            added = added + bias[i][:rows].astype(np.float64)
        # In float32 a score vanishes beside the lowest number, and twice the lowest is -inf.
        scores = np.where(added > lowest / 2, scores + added, np.where(added < 1.5 * lowest, -np.inf, lowest))
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = mix(p, v)
        if i + 1 == spec["layers"]:
            narrow = ()
        x = x + linear(f"layers.{i}.attn_out", mixed.transpose(1, 0, 2).reshape(rows, -1))
        hidden = slow.activation(linear(f"layers.{i}.mlp_in", slow.norm(f"layers.{i}.mlp_norm", x)))
        x = x + linear(f"layers.{i}.mlp_out", hidden)
        keys.append(k)
        values.append(v)
    head = "embed" if spec["tied_head"] else "head"
    return slow.linear(head, slow.norm("final_norm", x[-1])), np.stack(keys), np.stack(values)
