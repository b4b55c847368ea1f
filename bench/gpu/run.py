# SPDX-License-Identifier: Apache-2.0
"""``edge-bench --device cuda``: the decoder by its ways, whole reports by stage, peers, a projection."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError, ProcessingError

from .. import machine, reference
from ..oracle import oracle_script
from ..stats import median
from ..traffic import traffic
from .projection import project, render
from .reports import FULL_SIZE

if TYPE_CHECKING:
    from edge.cuda import CudaDecoder, CudaDevice

FORMAT = "edge-bench gpu 1"
WAYS = ("steps", "persistent")
KINDS = (("fp16", "none", "fp16"), ("int8", "int8", "fp16"), ("int8", "int8", "int8"), ("int4", "int4", "int8"))
"""Weights on the device, weights in the file, cache."""
PASS_ROWS = (1, 2, 4, 5, 8, 16)
GOALS = {
    "us_per_token fp16": 130.0, "us_per_token int8": 100.0, "report_ms": 15.0,
    "times PyTorch eager": 30.0, "times the best peer": 3.0,
}  # fmt: skip
"""Of an H100, at full size: at most the first three, at least the others, which are of the fp16 decoder."""
CHILD_SECONDS = 240
COPIED = 256 << 20
Say = Callable[[str], None]


def run(
    *,
    tokens: int,
    repeat: int,
    peers: bool = True,
    bundle: str | None = None,
    full_size: bool = False,
    seconds: float | None = None,
    say: Say,
) -> dict[str, Any]:
    """Measure everything that there is a device for.

    Parameters
    ----------
    tokens, repeat : int
    peers : bool
    bundle : str, optional
        Of the whole reports; default: the demo model.
    full_size : bool
        Reports of the reference shape with random weights, too.
    seconds : float, optional
        What has not begun after so many is left out, and said to be.

    Raises
    ------
    EdgeError
        There is no CUDA library, driver or device, or no way of decoding works.
    """
    from datetime import UTC, datetime

    import edge._kernel as kernel
    from edge.cuda import cuda_device, library_path

    begin = perf_counter()

    def left() -> float:
        return seconds - (perf_counter() - begin) if seconds is not None else float("inf")

    device = cuda_device()
    notes: list[str] = []
    copy_gbps = kernel.device_copy_bandwidth(str(library_path()), COPIED)
    decoders = []
    for kept, stored, kv in KINDS:
        for way in WAYS:
            name = f"decoder, {kept} weights, {kv} cache, {way}"
            if left() < 0:
                notes.append(f"{name}: no time was left")
                continue
            say(name)
            try:
                decoders.append(_decoder(kept, stored, kv, way, tokens, repeat, copy_gbps))
            except EdgeError as error:
                notes.append(f"{name}: {error.kind}: {error}"[:300])
    if not decoders:
        raise ProcessingError(notes[0])
    found: dict[str, Any] = {"peers": [], "missing": {"all": "left out"}}
    if peers:
        say("peers")
        found = _child(
            "peers", {"prefix": reference.PREFIX, "tokens": tokens, "repeat": repeat, "device": "cuda"}, left()
        )
        if "failed" in found:
            found = {"peers": [], "missing": {"all": found["failed"]}}
    reports = []
    models = [(bundle, None), *([(FULL_SIZE, "fp16")] if full_size else [])]
    for where in ("cuda", "tensorrt"):
        for model, weights in reversed(models):  # the one that the goals are about first
            say(f"whole reports, vision on {where}" + (f", {model}" if model else ""))
            report = {"where": where, "bundle": model, "tokens": tokens, "repeat": repeat, "weights": weights}
            reports.append({"device": where, "model": model or "demo", **_child("reports", report, left())})
    best = min(decoders, key=lambda d: d["us_per_token"])
    share = max(d["share_of_copy"] for d in decoders)
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {
            "tokens": tokens, "repeat": repeat, "prefix": reference.PREFIX, "bundle": bundle is not None,
            "full_size": full_size,
        },
        "gpu": describe(device, copy_gbps),
        "decoder": decoders,
        "fastest_way": best["way"],
        "peers": found["peers"],
        "peers_missing": found["missing"],
        "reports": reports,
        "goals": GOALS,
        "reached": reached(decoders, found["peers"], reports),
        "projection": project(best["bytes_per_token"], reference.SPEC["layers"], way=best["way"], share=share),
        "notes": notes,
        "machine": machine.describe("cuda"),
    }  # fmt: skip


def reached(
    decoders: Sequence[Mapping[str, Any]], peers: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What stands beside each of the goals; None where it was not measured."""

    def fastest(kept: str) -> float | None:
        return min((d["us_per_token"] for d in decoders if d["weights"] == kept), default=None)

    fp16 = fastest("fp16")
    eager = [peer["us_per_token"] for peer in peers if "eager" in peer["name"]]
    whole = [r["after_pixels_ms"] for r in reports if "after_pixels_ms" in r and r["model"].startswith("reference")]
    return {
        "us_per_token fp16": fp16,
        "us_per_token int8": fastest("int8"),
        "report_ms": min(whole, default=None),
        "times PyTorch eager": round(eager[0] / fp16, 1) if eager and fp16 else None,
        "times the best peer": round(min(p["us_per_token"] for p in peers) / fp16, 1) if peers and fp16 else None,
    }


def describe(device: CudaDevice, copy_gbps: float) -> dict[str, Any]:
    """The card and its driver."""
    driver = None
    try:
        call = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=20)
        driver = done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
    except (OSError, subprocess.TimeoutExpired):
        pass
    return {
        "name": device.name,
        "capability": ".".join(map(str, device.capability)),
        "processors": device.processors,
        "memory_bytes": device.total_bytes,
        "driver": driver,
        "copy_gbps": round(copy_gbps, 1),
    }


def _decoder(kept: str, stored: str, kv: str, way: str, tokens: int, repeat: int, copy_gbps: float) -> dict[str, Any]:
    import numpy as np

    from edge.cuda import CudaDecoder
    from edge.decoder import GenerationOptions

    spec, prefix = reference.SPEC, reference.PREFIX
    weights = reference.decoder_weights(stored, lambda line: None)
    layers = spec["layers"]
    decoder = CudaDecoder(
        spec,
        weights,
        kv_dtype=kv,  # type: ignore[arg-type]
        weight_dtype="fp16",
        evidence_layers=range(layers // 2, layers),
        way=way,  # type: ignore[arg-type]
    )
    rng = np.random.default_rng(0)
    shape = (layers, spec["heads"], prefix, spec["head_dim"])
    keys, values = (rng.standard_normal(shape, np.float32) for _ in range(2))
    decoder.set_prefix(keys, values, rng.random((layers, prefix), np.float32))
    first = rng.standard_normal(spec["vocab"], np.float32)
    plain = GenerationOptions(max_new_tokens=tokens, repetition_penalty=1.2, draft=False)
    text = decoder.generate(first, plain)
    runs = [decoder.generate(first, plain).decode_seconds * 1e6 / (tokens - 1) for _ in range(repeat)]
    script = oracle_script(text.token_ids, spec["vocab"])
    drafted = [decoder.generate(first, plain, draft_script=script) for _ in range(repeat)]
    us = median(runs)
    # Float matrices are read as they are kept; biases and norms, which stay float32, are too few to count.
    read = traffic(weights, spec, kv_dtype=kv, prefix=prefix, prompt=0, tokens=tokens, screened=False)
    total = read.total if stored != "none" else read.weights // 2 + read.cache
    return {
        "weights": kept,
        "kv_dtype": kv,
        "way": way,
        "us_per_token": round(us, 2),
        "us_per_token_min": round(min(runs), 2),
        "runs": [round(value, 2) for value in runs],
        "bytes_per_token": total,
        "share_of_copy": round(total / us / 1e3 / copy_gbps, 4),
        "drafted": {
            "us_per_token": round(median([d.decode_seconds for d in drafted]) * 1e6 / (tokens - 1), 2),
            "tokens_per_pass": round(drafted[0].tokens_per_pass, 3),
            "drafts": "of the known text, right as often as the demo model's",
        },
        "pass_us": _passes(decoder, first, text.token_ids),
    }


def _passes(decoder: CudaDecoder, first: Any, text: list[int]) -> dict[str, float]:
    """Microseconds of a pass by its number of rows: texts whose drafts are all right."""
    from edge.decoder import GenerationOptions

    costs = {}
    for rows in PASS_ROWS:
        options = GenerationOptions(max_new_tokens=len(text), repetition_penalty=1.2)
        script = [text[at : at + rows - 1] for at in range(len(text))]
        runs = [decoder.generate(first, options, draft_script=script) for _ in range(3)]
        costs[str(rows)] = round(median([run.decode_seconds / run.passes for run in runs]) * 1e6, 2)
    return costs


def _child(module: str, options: Mapping[str, Any], left: float) -> dict[str, Any]:
    """What a module of this package prints for these options, run by itself; ``failed``: why there is nothing."""
    limit = min(CHILD_SECONDS, left)
    if limit < 5:
        return {"failed": "no time was left"}
    call = [sys.executable, "-P", "-m", f"{__package__}.{module}", json.dumps(options)]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {limit:.0f} s"}
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"failed": f"exit code {done.returncode}: {(lines or ['no message'])[-1]}"[:300]}
    return dict(json.loads(lines[-1]))


def table(result: Mapping[str, Any]) -> str:
    """For people."""
    gpu = result["gpu"]
    lines = [
        f"{gpu['name']} (compute capability {gpu['capability']}, {gpu['processors']} multiprocessors, driver "
        f"{gpu['driver'] or 'unknown'}); device memory copied at {gpu['copy_gbps']:.0f} GB/s",
        f"decoder, {result['call']['prefix']} cached + {result['call']['tokens']} tokens, batch 1:",
    ]
    lines += [
        f"  {d['weights']:<5} cache {d['kv_dtype']:<5} {d['way']:<11} {d['us_per_token']:8.1f} us/token "
        f"{d['share_of_copy']:5.0%} of the copy bandwidth; drafted {d['drafted']['us_per_token']:.1f}"
        for d in result["decoder"]
    ]
    lines += [f"  {peer['name']:<36} {peer['us_per_token']:8.1f} us/token" for peer in result["peers"]]
    lines += [f"  {name}: {why}" for name, why in result["peers_missing"].items()]
    for name, goal in result["goals"].items():
        found = result["reached"][name]
        bound = "at least" if name.startswith("times") else "at most"
        lines.append(
            f"  {name:<22} {'not measured' if found is None else f'{found:.1f}':>12}  (goal: {bound} {goal:g})"
        )
    for report in result["reports"]:
        if "failed" in report:
            lines.append(f"report, vision on {report['device']} ({report['model']}): {report['failed']}")
            continue
        stages = ", ".join(f"{name} {ms:.2f}" for name, ms in report["stages_ms"].items())
        lines.append(
            f"report, vision on {report['device']} ({report['model']}, {report['tokens']} tokens), ms: {stages}"
        )
    lines += [f"note: {note}" for note in result["notes"]]
    lines.append("projections, not measured:")
    return "\n".join([*lines, *render(result["projection"])]) + "\n"
