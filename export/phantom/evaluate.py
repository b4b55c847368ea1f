# SPDX-License-Identifier: Apache-2.0
"""What a bundle scores on unseen phantoms: labels read back from its text, and its mask against the exact one.

Films go the whole way of a clinic's: drawn, written as DICOM objects, read, preprocessed, reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import UsageError

from .labels import LABELS
from .workers import drawing_pool


@dataclass
class _Film:
    dicom: bytes
    labels: frozenset[str]
    mask: np.ndarray


def _draw_film(seed: int, long_side: int, mask_side: int) -> _Film:
    import io

    import cv2

    from .write import phantom_dataset

    cv2.setNumThreads(1)
    dataset, phantom, case = phantom_dataset(seed, long_side)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    union = (phantom.lungs | phantom.heart).astype(np.float32)
    mask = cv2.resize(union, (mask_side, mask_side), interpolation=cv2.INTER_AREA) > 0.5
    return _Film(buffer.getvalue(), case.labels, mask)


def _films(count: int, seed: int, long_side: int, mask_side: int, workers: int) -> Iterator[_Film]:
    with drawing_pool(workers) as pool:
        yield from pool.map(
            _draw_film,
            [seed * 10000 + i for i in range(count)],
            [long_side] * count,
            [mask_side] * count,
            chunksize=4,
        )


def evaluate(
    count: int,
    seed: int,
    *,
    bundle: Path | None = None,
    against: Path | None = None,
    long_side: int = 1024,
    threads: int = 1,
) -> dict[str, Any]:
    """Report ``count`` unseen phantoms and score them.

    Returns
    -------
    dict
        ``macro_f1`` over the labels, ``per_label`` (precision, recall, f1, positives), ``exact_match`` (share of
        films with every label right), ``mask_dice`` (mean, at the mask's resolution), ``stopped`` (share of reports
        that ended by themselves) and, with ``against``, what two bundles share: ``label_agreement`` (share of single
        labels), ``positive_agreement`` (the same among labels that either reports: most labels are absent from most
        films), ``identical_label_sets`` and ``identical_token_ids`` (shares of films).

    Raises
    ------
    UsageError
        Of no phantom there are no scores.
    """
    import io
    import os

    import pydicom
    from tqdm import tqdm

    import edge

    from .labeller import label

    if count < 1:
        raise UsageError("scores need at least one phantom")
    engine = edge.load(bundle, device="cpu", threads=threads)
    other = edge.load(against, device="cpu", threads=threads) if against is not None else None
    side = int(engine.bundle.manifest.image["height"]) // 8
    truth = np.zeros((count, len(LABELS)), bool)
    found = np.zeros_like(truth)
    second = np.zeros_like(truth)
    dice, stopped, same_ids = [], 0, 0
    workers = max(1, (os.cpu_count() or 2) - 1)
    films = _films(count, seed, long_side, side, workers)
    for row, film in enumerate(tqdm(films, total=count, desc="phantoms", unit="film", leave=False)):
        report = engine.report(pydicom.dcmread(io.BytesIO(film.dicom)))
        truth[row] = [name in film.labels for name in LABELS]
        read = label(report.findings)
        found[row] = [name in read for name in LABELS]
        stopped += report.stop_reason == "stop"
        if report.mask is not None:
            mask = np.asarray(report.mask) > 0
            dice.append(2 * (mask & film.mask).sum() / max(1, mask.sum() + film.mask.sum()))
        if other is not None:
            again = other.report(pydicom.dcmread(io.BytesIO(film.dicom)))
            read = label(again.findings)
            second[row] = [name in read for name in LABELS]
            same_ids += again.token_ids == report.token_ids
    result: dict[str, Any] = {"films": count, "seed": seed, "long_side": long_side}
    result["model"] = engine.bundle.manifest.name
    result["precision"] = engine.bundle.manifest.precision
    result.update(_scores(truth, found))
    result["mask_dice"] = float(np.mean(dice)) if dice else None
    result["stopped"] = stopped / count
    if other is not None:
        result["against"] = {
            "precision": other.bundle.manifest.precision,
            "macro_f1": _scores(truth, second)["macro_f1"],
            "label_agreement": float((found == second).mean()),
            "positive_agreement": float((found & second).sum() / max(1, (found | second).sum())),
            "identical_label_sets": float((found == second).all(1).mean()),
            "identical_token_ids": same_ids / count,
        }
    return result


def _scores(truth: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    hit = (truth & found).sum(0)
    precision = hit / np.maximum(1, found.sum(0))
    recall = hit / np.maximum(1, truth.sum(0))
    f1 = 2 * hit / np.maximum(1, truth.sum(0) + found.sum(0))
    return {
        "macro_f1": float(f1.mean()),
        "micro_f1": float(2 * hit.sum() / max(1, truth.sum() + found.sum())),
        "exact_match": float((truth == found).all(1).mean()),
        "per_label": {
            name: {
                "positives": int(truth[:, i].sum()),
                "precision": round(float(precision[i]), 4),
                "recall": round(float(recall[i]), 4),
                "f1": round(float(f1[i]), 4),
            }
            for i, name in enumerate(LABELS)
        },
    }


def table(result: dict[str, Any]) -> str:
    """The scores as text."""
    lines = [f"{'label':32} {'films':>5} {'prec':>6} {'recall':>6} {'F1':>6}"]
    for name, row in result["per_label"].items():
        lines.append(f"{name:32} {row['positives']:5d} {row['precision']:6.3f} {row['recall']:6.3f} {row['f1']:6.3f}")
    lines.append(f"{result['model']} ({result['precision']}), {result['films']} unseen phantoms")
    lines.append(
        f"macro-F1 {result['macro_f1']:.4f}  micro-F1 {result['micro_f1']:.4f}  "
        f"all labels right {result['exact_match']:.3f}  stopped by itself {result['stopped']:.3f}"
    )
    if result["mask_dice"] is not None:
        lines.append(f"mask Dice {result['mask_dice']:.4f}")
    if "against" in result:
        other = result["against"]
        lines.append(
            f"against {other['precision']}: macro-F1 {other['macro_f1']:.4f}, "
            f"labels agree {other['label_agreement']:.4f}, "
            f"of those that either reports {other['positive_agreement']:.4f}, "
            f"whole label set {other['identical_label_sets']:.4f}, same ids {other['identical_token_ids']:.4f}"
        )
    return "\n".join(lines)
