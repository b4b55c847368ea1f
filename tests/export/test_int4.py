# SPDX-License-Identifier: Apache-2.0
"""int4 weights as the exporter packs them, against the kernel that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from edge_export.cli import main
from edge_export.errors import UsageError
from edge_export.int4 import LEVELS, quantize_groups, widen_groups
from edge_export.quantize import quantize_decoder
from safetensors.numpy import load_file

import edge
from edge._kernel import ops
from edge.bundle import Bundle

if TYPE_CHECKING:
    from conftest import Exported


def nmse(got: np.ndarray, want: np.ndarray) -> float:
    return float(((got - want) ** 2).sum() / (want**2).sum())


def test_the_kernel_reads_what_is_packed() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 96)).astype(np.float32)
    packed, scale = quantize_groups(weight)
    ones = np.eye(96, dtype=np.float32)
    read = ops.matmul("generic", packed, scale.view(np.uint16), ones, None, None, 0, 7).T
    np.testing.assert_array_equal(read, widen_groups(packed, scale))


def test_error_of_the_groups() -> None:
    rng = np.random.default_rng(1)
    normal = (0.02 * rng.standard_normal((64, 768))).astype(np.float32)
    assert nmse(widen_groups(*quantize_groups(normal)), normal) < 0.0056
    # Levels at even steps with the largest value at the end of the range, as the simplest formats have it.
    groups = normal.reshape(-1, 32)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1)
    plain = np.clip(np.rint(groups / (largest / -8)), -8, 7) * (largest / -8)
    assert nmse(widen_groups(*quantize_groups(normal)), normal) < 0.76 * nmse(plain, groups)
    # What the format holds exactly comes back, whichever side the largest value lies on.
    for sign in (1, -1):
        exact = np.stack([rng.permutation(np.repeat(LEVELS, 2)) for _ in range(6)]) * np.float32(sign * 0.25)
        assert nmse(widen_groups(*quantize_groups(exact)), exact) < 1e-6
    assert not widen_groups(*quantize_groups(np.zeros((2, 64), np.float32))).any()
    assert np.isfinite(quantize_groups(np.full((1, 32), 1e6, np.float32))[1]).all()


def test_which_matrices() -> None:
    shapes = {"embed": (9, 64), "positions": (5, 64), "layers.0.qkv": (6, 64), "layers.1.qkv": (6, 64)}
    shapes |= {"layers.0.mlp_out": (6, 80), "head": (9, 64)}
    arrays = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    arrays["layers.0.qkv.bias"] = np.ones(6, np.float32)

    def stored(*keep: str, head: bool = False) -> dict[str, str]:
        made = quantize_decoder(arrays, "int4", keep, int4_head=head)
        return {n: a.dtype.name for n, a in made.items() if not n.endswith(".scale")}

    common = {f"{name}.weight": "int8" for name in ("embed", "layers.0.mlp_out", "head")}
    common |= {"positions.weight": "float32", "layers.0.qkv.bias": "float32"}
    assert stored() == common | {"layers.0.qkv.weight": "uint8", "layers.1.qkv.weight": "uint8"}
    assert stored("layers.1.qkv") == common | {"layers.0.qkv.weight": "uint8", "layers.1.qkv.weight": "int8"}
    assert stored("qkv") == common | {"layers.0.qkv.weight": "int8", "layers.1.qkv.weight": "int8"}
    whole = {f"{name}.weight": "uint8" for name in ("embed", "head", "layers.0.qkv", "layers.1.qkv")}
    assert stored(head=True) == common | whole
    assert stored("embed", head=True) == common | whole | {"embed.weight": "int8"}
    with pytest.raises(UsageError, match="called kv, positions"):
        stored("kv", "qkv", "positions")


def test_bundle_with_the_head_in_int4(exported: Exported) -> None:
    _, folder = exported(kind="gaussian", quantize="int4", int4_head=True)
    bundle = Bundle.open(folder)
    assert bundle.manifest.kernel_prefill  # the default with quantized weights
    arrays = bundle.weights()
    assert arrays["embed.weight"].dtype == arrays["layers.0.qkv.weight"].dtype == np.uint8
    assert arrays["prefill.layers.0.qkv.weight"].dtype == np.int8  # what the image is taken through
    beside = {name for name in arrays if name.startswith("prefill.")}
    assert not {name for name in beside if "embed" in name or name.endswith(".bias")}
    assert "32 columns, the graph's weights int8" in (folder / "MODEL_CARD.md").read_text()
    film = np.random.default_rng(0).integers(0, 255, (80, 70), dtype=np.uint8)
    assert edge.load(folder, device="cpu", threads=1).report(film).token_ids


def test_a_head_in_int4_needs_int4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--random", "tiny", str(tmp_path / "x"), "--out", str(tmp_path / "y"), "--quantize", "int8", "--int4-head"]
    assert main(call) == 1
    assert "--int4-head goes with --quantize int4" in capsys.readouterr().err


def test_bundle(exported: Exported) -> None:
    _, folder = exported(kind="gaussian", quantize="int4", kv_dtype="int8")
    arrays = load_file(folder / "decoder.safetensors")
    assert arrays["layers.0.qkv.weight"].dtype == np.uint8
    assert arrays["layers.0.qkv.weight"].shape == (192, 32)
    assert arrays["layers.0.qkv.weight.scale"].dtype == np.float16
    assert arrays["embed.weight"].dtype == np.int8
    card = (folder / "MODEL_CARD.md").read_text()
    for words in ("int4 in groups of 32", "what this quantization costs", "text logits, same first choice"):
        assert words in card
    bundle = Bundle.open(folder)
    assert bundle.manifest.precision == "int4"
    assert bundle.manifest.kv_dtype == "int8"
    assert bundle.weights()["layers.2.mlp_out.weight"].dtype == np.uint8
