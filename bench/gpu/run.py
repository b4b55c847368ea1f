# SPDX-License-Identifier: Apache-2.0
"""``edge-bench --device cuda``: the decoder by its ways, whole reports by stage, peers, a projection.

Whatever touches the device is a child with a limit of its own, and what is known is handed over after each: a hang or
an error that sticks to the device costs one line.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from edge.errors import DeviceError, EdgeError, ProcessingError

from .. import machine, reference
from ..cli import GPU_PARTS as PARTS
from .child import Child, none_outlives_us
from .decoder import evidence_layers
from .reports import FULL_SIZE
from .summary import FORMAT, complete

WAYS = ("steps", "persistent")
KINDS = (("fp16", "none", "fp16"), ("int8", "int8", "fp16"), ("int8", "int8", "int8"), ("int4", "int4", "int8"))
"""Weights on the device, weights in the file, cache."""
LIMITS = {"device": 60.0, "decoder": 45.0, "peers": 120.0, "reports": 120.0}
"""Seconds of a child, at most."""
Say = Callable[[str], None]


def run(
    *,
    tokens: int,
    repeat: int,
    parts: Sequence[str] = PARTS,
    bundle: str | None = None,
    full_size: bool = False,
    seconds: float | None = None,
    say: Say,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure everything that there is a device for.

    Parameters
    ----------
    tokens, repeat : int
    parts : sequence of str
        Of :data:`edge_bench.cli.GPU_PARTS`.
    bundle : str, optional
        Of the whole reports; default: the demo model.
    full_size : bool
        Reports of the reference shape with random weights, too.
    seconds : float, optional
        What has not begun after so many is left out, and said to be; what has ends.
    save : callable
        Is given the result so far after every part of it.

    Raises
    ------
    EdgeError
        There is no CUDA library, driver or device, or no way of decoding works.
    """
    from datetime import UTC, datetime

    begin = perf_counter()

    def left() -> float:
        return seconds - (perf_counter() - begin) if seconds is not None else float("inf")

    layers = reference.SPEC["layers"]
    result: dict[str, Any] = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {
            "tokens": tokens, "repeat": repeat, "prefix": reference.PREFIX, "bundle": bundle is not None,
            "full_size": full_size, "parts": list(parts), "layers": layers,
            "evidence_layers": len(evidence_layers(layers)),
        },
        "gpu": None, "decoder": [], "peers": [], "peers_missing": {}, "reports": [], "notes": [],
        "machine": machine.describe("cuda"),
    }  # fmt: skip
    with none_outlives_us():
        gpu = ask("device", {}, min(LIMITS["device"], left()))
        if "failed" in gpu:
            kind, _, text = gpu["failed"].partition(": ")
            raise DeviceError(text) if kind == DeviceError.kind else ProcessingError(gpu["failed"])
        result["gpu"] = gpu
        save(complete(result))
        if "decoder" in parts:
            _decoders(result, tokens, repeat, left, say, save)
        if "reports" in parts:
            _reports(result, tokens, repeat, bundle, full_size, left, say, save)
        if "peers" in parts:
            _peers(result, tokens, repeat, left, say, save)
    return complete(result)


def _decoders(
    result: dict[str, Any], tokens: int, repeat: int, left: Callable[[], float], say: Say,
    save: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """Recorded steps of all formats before the persistent kernel of any: it alone can wait for itself for ever."""
    notes: list[str] = []
    for way in WAYS:
        for kept, stored, kv in KINDS:
            name = f"decoder, {kept} weights, {kv} cache, {way}"
            limit = min(LIMITS["decoder"], left())
            if limit < 1:
                notes.append(f"{name}: no time was left")
                continue
            say(name)
            try:
                reference.decoder_weights(stored, say)  # made and kept here, so that no child's time goes into it
            except EdgeError as error:
                notes.append(f"{name}: {error.kind}: {error}"[:300])
                continue
            options = {"kept": kept, "stored": stored, "kv": kv, "way": way, "tokens": tokens, "repeat": repeat}
            found = ask("decoder", options | {"copy_gbps": result["gpu"]["copy_gbps"]}, limit)
            if "failed" in found:
                notes.append(f"{name}: {found['failed']}"[:300])
            if "us_per_token" in found:
                result["decoder"].append(found)
            save(complete(result | {"notes": result["notes"] + notes}))
    result["notes"] += notes
    if not result["decoder"]:
        raise ProcessingError(notes[0])


def _reports(
    result: dict[str, Any], tokens: int, repeat: int, bundle: str | None, full_size: bool,
    left: Callable[[], float], say: Say, save: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """The full size first, which the goals are about; without drafts, as random text repeats itself and is easily
    guessed. Where no runtime has the GPU for the vision graph, the processor computes it and the device decodes."""
    models = [*([(FULL_SIZE, "fp16", False)] if full_size else []), (bundle, None, True)]
    for model, weights, draft in models:
        for where in ("cuda", "tensorrt", "auto"):
            found_before = [r for r in result["reports"] if r["asked"] == (model or "demo") and "stages_ms" in r]
            if where == "auto" and found_before:
                continue
            say(f"whole reports, vision on {where}" + (f", {model}" if model else ""))
            options = {"where": where, "bundle": model, "tokens": tokens, "repeat": repeat, "weights": weights}
            found = ask("reports", options | {"draft": draft}, min(LIMITS["reports"], left()))
            name = model or "demo"
            result["reports"].append({"device": where, "model": name, "asked": name, "draft": draft, **found})
            save(complete(result))


def _peers(
    result: dict[str, Any], tokens: int, repeat: int, left: Callable[[], float], say: Say,
    save: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    for name in ("pytorch", "onnxruntime"):
        say(f"peers: {name}")
        options = {"name": name, "prefix": reference.PREFIX, "tokens": tokens, "repeat": repeat, "device": "cuda"}
        try:
            reference.decoder_weights("none", say)
            found = ask("peers", options, min(LIMITS["peers"], left()))
        except EdgeError as error:
            found = {"failed": f"{error.kind}: {error}"[:300]}
        result["peers"] += found.get("peers", [])
        if "failed" in found:
            result["peers_missing"][name] = found["failed"]
        save(complete(result))


def ask(module: str, options: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """What a module of this package finds, measured by itself; ``failed``: why there is nothing, or no more."""
    if limit < 1:
        return {"failed": "no time was left"}
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        call = [sys.executable, "-P", "-m", f"{__package__}.worker", module, json.dumps(options)]
        child = Child(call, output, errors)
        in_time = child.wait(limit)
        found: dict[str, Any] = {}
        for line in child.text().splitlines():
            if line.startswith("{"):
                found |= json.loads(line)
        said = errors.read_text(errors="replace").strip().splitlines()
    if not in_time:
        places = [line.strip() for line in said if line.lstrip().startswith("File ")]
        found["failed"] = f"no more within {limit:.0f} s" + (f", in {places[0]}" if places else "")
        if child.code is None:
            found["failed"] += "; its process cannot be ended"
    elif child.code != 0:
        found.setdefault("failed", f"exit code {child.code}: {(said or ['no message'])[-1]}"[:300])
    elif not found:
        found["failed"] = "it found nothing"
    return found
