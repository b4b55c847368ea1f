# SPDX-License-Identifier: Apache-2.0
"""The anatomical bias against the original code's numbers and against an independent NumPy twin."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_export.families.lana.anatomy import LOWEST, AnatomicalBias, BiasConfig, stretch  # noqa: E402
from reference_model import bias_twin  # noqa: E402

GOLDEN = Path(os.environ.get("EDGE_GOLDEN_BIAS", Path(__file__).parents[2].parent / "shared/data/golden_bias.npz"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    if not GOLDEN.exists():
        pytest.skip("golden_bias.npz is not beside the repository")
    with np.load(GOLDEN) as data:
        return {key: data[key] for key in data.files}


def bias_of(masks: np.ndarray, kind: str, strength: float, prefix: int = 1024) -> np.ndarray:
    module = AnatomicalBias(BiasConfig(kind, strength), 12, 64, 32, prefix)
    return module(torch.from_numpy(masks.astype(np.float32))[:, None]).numpy()


def test_gaussian(golden: dict[str, np.ndarray]) -> None:
    assert np.abs(bias_of(golden["masks"], "gaussian", 1.0) - golden["gaussian"]).max() < 4e-6


def test_gaussian_strength(golden: dict[str, np.ndarray]) -> None:
    assert np.abs(bias_of(golden["masks"], "gaussian", 2.5) - 2.5 * golden["gaussian"]).max() < 1e-5


def test_hidden_visibility_is_exact(golden: dict[str, np.ndarray]) -> None:
    bias = bias_of(golden["masks"], "hidden", 1.0)
    visible = bias > LOWEST
    assert np.array_equal(visible, golden["hidden_visible"].astype(bool))
    assert np.abs(bias - golden["gaussian"])[visible].max() < 4e-6
    assert (bias[~visible] == np.finfo(np.float32).min).all()


def test_layerwise(golden: dict[str, np.ndarray]) -> None:
    base = torch.from_numpy(bias_of(golden["masks"], "layerwise", 2.0, 1028))
    assert base.shape == (6, 12, 1024)
    assert np.abs(stretch(base, 1129).numpy() - golden["layerwise_1129"]).max() < 1e-5


def test_gaussian_legacy(golden: dict[str, np.ndarray]) -> None:
    bias = bias_of(golden["masks"], "gaussian_legacy", 2.0, 1028)
    assert np.abs(bias - golden["gaussian_legacy_1028"]).max() < 1e-5


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("mask_size", "grid", "layers"), [(64, 32, 12), (32, 16, 4), (8, 4, 3), (8, 4, 6)])
def test_twin(mask_size: int, grid: int, layers: int, strict: bool) -> None:
    rng = np.random.default_rng(mask_size + layers)
    mask = np.zeros((mask_size, mask_size), np.float32)
    mask[: mask_size // 2, 1 : mask_size // 2] = rng.random((mask_size // 2, mask_size // 2 - 1)) > 0.3
    module = AnatomicalBias(BiasConfig("hidden" if strict else "gaussian"), layers, mask_size, grid, grid**2)
    got = module(torch.from_numpy(mask)[None, None])[0].numpy()
    want = bias_twin(mask.astype(np.float64), layers, grid, strict)
    assert np.array_equal(got == LOWEST, want == LOWEST)
    assert np.abs(np.where(want == LOWEST, 0, got - want)).max() < 4e-6


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["gaussian", "layerwise", "gaussian_legacy"])
def test_constant_masks_guide_nowhere(kind: str, value: float) -> None:
    module = AnatomicalBias(BiasConfig(kind, 2.0), 5, 16, 8, 64)
    assert (module(torch.full((1, 1, 16, 16), value)) == 0).all()


def test_registers_in_the_prefix_get_no_bias() -> None:
    mask = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    plain = AnatomicalBias(BiasConfig("gaussian"), 3, 16, 8, 64)(mask)
    longer = AnatomicalBias(BiasConfig("gaussian"), 3, 16, 8, 68)(mask)
    assert (longer[..., :4] == 0).all()
    assert torch.equal(longer[..., 4:], plain)


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="gaussian, hidden"):
        BiasConfig("gauss")
    with pytest.raises(ValueError, match="all, prefill, none"):
        BiasConfig(rows="some")
