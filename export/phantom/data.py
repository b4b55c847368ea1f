# SPDX-License-Identifier: Apache-2.0
"""Training pictures, drawn once and kept in shards.

A picture goes through the runtime's own door (``edge.film`` and ``edge.preprocess``), so the model is trained on
what it will be shown. Shard ``k`` holds phantoms ``k*SHARD .. (k+1)*SHARD-1`` of a seed and is always the same.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .labels import LABELS
from .workers import drawing_pool

SHARD = 250
INTENSITY = {"mode": "percentile", "low": 0.5, "high": 99.5, "equalize": False}


@dataclass
class Shard:
    """One shard.

    Attributes
    ----------
    images : uint8 [n, S, S]
        Pictures as the model's image pipeline makes them, before normalisation.
    lung, heart : uint8 [n, S/8, S/8]
        Binary masks at the segmenters' resolution.
    regions : uint8 [n, labels, S/16, S/16]
        Share of each patch covered by each finding, 0..255.
    labels : bool [n, labels]
    """

    images: np.ndarray
    lung: np.ndarray
    heart: np.ndarray
    regions: np.ndarray
    labels: np.ndarray


def draw_sample(seed: int, size: int) -> tuple[np.ndarray, ...]:
    """Draw the phantom of one seed and bring it to the model's resolution (fields of :class:`Shard`)."""
    import cv2
    from PIL import Image

    from edge.film import read_film
    from edge.preprocess import to_gray8

    from .case import sample_case
    from .draw import draw

    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 17])
    case = sample_case(rng)
    width = int(2 * size)
    height = round(width * rng.uniform(1.0, 1.25))
    phantom = draw(case, height, width)
    exposed = np.clip(phantom.image * 4095, 0, 4095).astype(np.uint16)
    gray = to_gray8(read_film(exposed), INTENSITY)
    image = np.asarray(Image.fromarray(gray).resize((size, size), Image.Resampling.BICUBIC))

    def shrink(mask: np.ndarray, side: int) -> np.ndarray:
        return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)

    lung = (shrink(phantom.lungs, size // 8) > 0.5).astype(np.uint8)
    heart = (shrink(phantom.heart, size // 8) > 0.5).astype(np.uint8)
    regions = np.zeros((len(LABELS), size // 16, size // 16), np.uint8)
    for index, name in enumerate(LABELS):
        if name in phantom.regions:
            regions[index] = np.round(shrink(phantom.regions[name], size // 16) * 255)
    present = np.array([name in case.labels for name in LABELS])
    return image, lung, heart, regions, present


def _write_shard(path: str, first_seed: int, size: int) -> str:
    rows = [draw_sample(first_seed + i, size) for i in range(SHARD)]
    fields = [np.stack(column) for column in zip(*rows, strict=True)]
    partial = f"{path}.{os.getpid()}.tmp"
    with open(partial, "wb") as file:
        np.savez_compressed(file, **dict(zip(("images", "lung", "heart", "regions", "labels"), fields, strict=True)))
    os.replace(partial, path)
    return path


def shard_path(cache: Path, seed: int, size: int, index: int) -> Path:
    return cache / f"phantoms-{size}-seed{seed}-{index:04d}.npz"


def first_seed(seed: int, index: int) -> int:
    """Seed of a shard's first phantom; training seeds start at 10**9 so that no evaluation seed is met."""
    return 10**9 + seed * 10**7 + index * SHARD


def ensure_shards(cache: Path, seed: int, size: int, count: int, workers: int) -> None:
    """Draw the shards that are missing; a finished shard is never drawn again."""
    from tqdm import tqdm

    cache.mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(count) if not shard_path(cache, seed, size, i).exists()]
    if not missing:
        return
    with drawing_pool(workers) as pool:
        futures = [
            pool.submit(_write_shard, str(shard_path(cache, seed, size, i)), first_seed(seed, i), size) for i in missing
        ]
        for future in tqdm(futures, desc=f"drawing {len(missing) * SHARD} phantoms", unit="shard"):
            future.result()


def load_shard(cache: Path, seed: int, size: int, index: int, wait_seconds: float = 0.0) -> Shard:
    """Read one shard, waiting for another process to finish drawing it."""
    path = shard_path(cache, seed, size, index)
    deadline = time.monotonic() + wait_seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{path.name} is not drawn yet; run with --draw-only first")
        time.sleep(1.0)
    with np.load(path, allow_pickle=False) as data:
        return Shard(**{name: data[name] for name in ("images", "lung", "heart", "regions", "labels")})
