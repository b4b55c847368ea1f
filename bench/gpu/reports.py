# SPDX-License-Identifier: Apache-2.0
"""Whole reports of one film with the vision graph on a GPU: milliseconds by stage.

Run as a child: a runtime that ends the process, or a plan that takes minutes to build, costs one line.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from ..films import choose_film
from ..stats import median

FULL_SIZE = "full size"
"""In place of a bundle's folder: the reference shape with random weights."""
AFTER_PIXELS = ("vision", "first_token", "decode")
"""Stages from the pixels to the last token."""


def measure(
    where: str, bundle: str | None, *, tokens: int, repeat: int, weights: str | None = None, draft: bool = True
) -> dict[str, Any]:
    """Milliseconds by stage.

    Parameters
    ----------
    where : {"cuda", "tensorrt", "auto"}
        ``auto``: what there is, the processor if need be; the device decodes.
    bundle : str or None
        A folder, :data:`FULL_SIZE`, or the demo model.
    tokens : int
        Of each report, exactly; of the demo model as many as it writes.
    weights : {"fp32", "fp16", "bf16"}, optional
        How float32 matrices of the decoder are kept on the device.
    draft : bool
        Whether passes take several tokens where they can be guessed.

    Raises
    ------
    EdgeError
        It does not run there.
    """
    import edge
    from edge.bundle import Bundle

    from ..reports_part import without_stop

    folder = _full_size() if bundle == FULL_SIZE else bundle
    opened = Bundle.open(folder)
    if folder is not None:
        opened = without_stop(opened, tokens)
    if weights is not None:
        os.environ["EDGE_CUDA_WEIGHTS"] = weights
    begin = perf_counter()
    engine = edge.load(opened, device=where, draft=draft)
    load_ms = (perf_counter() - begin) * 1e3
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as work:
        film = choose_film(None, Path(work))
        reports = [engine.report(film) for _ in range(repeat + 2)]  # the first two record
    timed = reports[2:]
    stages = {name: round(median([r.timings_ms[name] for r in timed]), 3) for name in timed[0].timings_ms}
    decoder = engine._decoder
    return {
        "device": where,
        "model": reports[0].model["name"],
        "vision": engine.device,
        "decoder": engine.isa,
        "draft": draft,
        "weights": getattr(decoder, "weight_dtype", None) if engine.manifest.precision == "fp32" else None,
        "way": getattr(decoder, "way", None),
        "load_ms": round(load_ms, 1),
        "tokens": len(reports[0].token_ids),
        "stages_ms": stages,
        "after_pixels_ms": round(sum(stages[name] for name in AFTER_PIXELS), 3),
    }


def _full_size() -> str:
    from ..reference import reference_bundle

    return str(reference_bundle("none", lambda line: None, gpu=True))
