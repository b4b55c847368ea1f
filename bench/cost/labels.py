# SPDX-License-Identifier: Apache-2.0
"""Labels read back from the reports of unseen phantoms, in every format.

The vision part runs once per film, with the bundle's own graph: what differs is the decoder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge.errors import UsageError

from .formats import Format, convert, make_decoder, widen

LONG_SIDE = 1024
COMPARABLE = ("fp32", "int8")
"""Precisions of a bundle whose decoder the others can be made of."""
Say = Callable[[str], None]


def run_labels(
    formats: Sequence[Format], folder: Path, *, films: int, seed: int, threads: int, say: Say
) -> list[dict[str, Any]]:
    """Report `films` unseen phantoms in every format and compare the labels with the first format's and the truth.

    Parameters
    ----------
    folder
        A bundle whose weights are fp32 or int8, which are widened to fp32; the other formats are made of them.

    Returns
    -------
    list of dict
        ``labels_agree`` (share of single labels), ``macro_f1``, ``same_ids`` (share of reports with the very same
        token ids) and ``decoder_mb`` (1e6 bytes of the bundle's decoder).

    Raises
    ------
    UsageError
        The bundle's weights are int4.
    """
    import io
    import os

    import numpy as np
    import pydicom
    from edge_export.phantom.evaluate import _films, _scores
    from edge_export.phantom.labeller import label
    from edge_export.phantom.labels import LABELS

    import edge
    from edge.prepare import prepare
    from edge.prompt import Context, check_cap
    from edge.threads import decode_threads

    engine = edge.load(folder, device="cpu", threads=threads)
    manifest = engine.bundle.manifest
    if manifest.precision not in COMPARABLE:
        raise UsageError(f"{manifest.name} holds {manifest.precision} weights: give an fp32 or an int8 bundle")
    stored = widen(engine.bundle.weights())
    weights = {
        name: convert(stored, name, prefill=manifest.kernel_prefill)
        for name in dict.fromkeys(f.weights for f in formats)
    }
    sizes = {name: sum(array.nbytes for array in arrays.values()) for name, arrays in weights.items()}
    decoders = [
        make_decoder(manifest.decoder, weights[f.weights], f.cache, threads=decode_threads(threads, sizes[f.weights]))
        for f in formats
    ]
    options = engine._options([], Context(), max_new_tokens=check_cap(None, engine.manifest, Context())).but(
        repetition_penalty=manifest.generation.repetition_penalty
    )
    truth = np.zeros((films, len(LABELS)), bool)
    found = np.zeros((len(formats), films, len(LABELS)), bool)
    ids: list[list[tuple[int, ...]]] = [[] for _ in formats]
    side = int(manifest.image["height"]) // 8
    for row, film in enumerate(_films(films, seed, LONG_SIDE, side, max(1, (os.cpu_count() or 2) // 2))):
        if row % 50 == 0:
            say(f"phantoms: {row} of {films}")
        ready = prepare(pydicom.dcmread(io.BytesIO(film.dicom)), manifest.image)
        seen, rows, _ = engine._look(ready.pixels, manifest.bias.rows)
        truth[row] = [name in film.labels for name in LABELS]
        for index, decoder in enumerate(decoders):
            first_logits = seen.fill(decoder, key_bias=rows != "none")
            result = decoder.generate(first_logits, options.but(bias_rows=rows))
            text = engine._text.decode([int(i) for i in result.token_ids]).strip()
            read = label(text)
            found[index, row] = [name in read for name in LABELS]
            ids[index].append(tuple(result.token_ids))
    return [
        {
            "labels_agree": float((found[index] == found[0]).mean()),
            "macro_f1": _scores(truth, found[index])["macro_f1"],
            "same_ids": sum(a == b for a, b in zip(ids[index], ids[0], strict=True)) / films,
            "decoder_mb": round(sizes[form.weights] / 1e6, 2),
        }
        for index, form in enumerate(formats)
    ]
