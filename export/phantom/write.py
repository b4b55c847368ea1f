# SPDX-License-Identifier: Apache-2.0
"""``edge-phantom draw``: films, masks, findings text and labels in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import OutputError

from .case import Case, sample_case
from .dicom import film_size, to_dataset, write_dicom, write_mask, write_png8
from .draw import Phantom, draw
from .grammar import write_findings

if TYPE_CHECKING:
    from pydicom import Dataset


def phantom_dataset(seed: int, long_side: int) -> tuple[Dataset, Phantom, Case]:
    """Draw one phantom and make its DICOM object; exposure, depth and photometric interpretation vary by seed."""
    rng = np.random.default_rng([seed, 29])
    case = sample_case(rng)
    phantom = draw(case, *film_size(case, long_side))
    dataset = to_dataset(
        phantom,
        case,
        bits=int(rng.integers(12, 17)),
        photometric=str(rng.choice(["MONOCHROME1", "MONOCHROME2"])),
        modality=str(rng.choice(["CR", "DX"])),
        rng=rng,
    )
    return dataset, phantom, case


def draw_to_folder(count: int, out: Path, seed: int, long_side: int, form: str) -> None:
    """Write ``phantom-NNNN.{dcm,png,lung.png,heart.png,txt}`` and one ``labels.json``."""
    from tqdm import tqdm

    try:
        out.mkdir(parents=True, exist_ok=True)
        labels: dict[str, list[str]] = {}
        for index in tqdm(range(count), desc="drawing", unit="film"):
            name = f"phantom-{index:04d}"
            dataset, phantom, case = phantom_dataset(seed * 10000 + index, long_side)
            if form in ("dicom", "both"):
                write_dicom(dataset, out / f"{name}.dcm")
            if form in ("png", "both"):
                write_png8(phantom, out / f"{name}.png")
            write_mask(phantom.lungs, out / f"{name}.lung.png")
            write_mask(phantom.heart, out / f"{name}.heart.png")
            text = write_findings(case.labels, np.random.default_rng([seed, index, 31]))
            (out / f"{name}.txt").write_text(text + "\n")
            labels[name] = sorted(case.labels)
        (out / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror or error}") from error
