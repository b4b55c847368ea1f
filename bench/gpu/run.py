# SPDX-License-Identifier: Apache-2.0
"""``edge-bench --device cuda``: the decoder by its ways, whole reports by stage, peers, a projection."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError, ProcessingError

from .. import machine, reference
from ..oracle import oracle_script
from ..stats import median
from ..traffic import traffic
from .projection import project, render

if TYPE_CHECKING:
    from edge.cuda import CudaDecoder, CudaDevice

FORMAT = "edge-bench gpu 1"
WAYS = ("steps", "persistent")
KINDS = (("fp16", "none", "fp16"), ("int8", "int8", "fp16"), ("int8", "int8", "int8"), ("int4", "int4", "int8"))
"""Weights on the device, weights in the file, cache."""
PASS_ROWS = (1, 2, 4, 5, 8, 16)
GOALS = {"us_per_token fp16": 130.0, "us_per_token int8": 100.0, "report_ms": 15.0}
"""Of an H100."""
PEER_SECONDS = 240
COPIED = 256 << 20
Say = Callable[[str], None]


def run(*, tokens: int, repeat: int, peers: bool = True, bundle: str | None = None, say: Say) -> dict[str, Any]:
    """Measure everything that there is a device for.

    Raises
    ------
    EdgeError
        There is no CUDA library, driver or device.
    """
    from datetime import UTC, datetime

    import edge._kernel as kernel
    from edge.cuda import cuda_device, library_path

    device = cuda_device()
    notes: list[str] = []
    copy_gbps = kernel.device_copy_bandwidth(str(library_path()), COPIED)
    decoders = []
    for kept, stored, kv in KINDS:
        for way in WAYS:
            say(f"decoder, {kept} weights, {kv} cache, {way}")
            decoders.append(_decoder(kept, stored, kv, way, tokens, repeat, copy_gbps))
    found = {"peers": [], "missing": {"all": "left out"}}
    if peers:
        say("peers")
        found = _peers(tokens, repeat, notes)
    reports = []
    for where in ("cuda", "tensorrt"):
        say(f"whole reports, vision on {where}")
        reports.append(_reports(where, bundle, tokens, repeat))
    best = min(decoders, key=lambda d: d["us_per_token"])
    share = max(d["share_of_copy"] for d in decoders)
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {"tokens": tokens, "repeat": repeat, "prefix": reference.PREFIX, "bundle": bundle is not None},
        "gpu": describe(device, copy_gbps),
        "decoder": decoders,
        "fastest_way": best["way"],
        "peers": found["peers"],
        "peers_missing": found["missing"],
        "reports": reports,
        "goals": GOALS,
        "projection": project(best["bytes_per_token"], reference.SPEC["layers"], way=best["way"], share=share),
        "notes": notes,
        "machine": machine.describe("cuda"),
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
    read = traffic(weights, spec, kv_dtype=kv, prefix=prefix, prompt=0, tokens=tokens)
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


def _peers(tokens: int, repeat: int, notes: list[str]) -> dict[str, Any]:
    options = {"prefix": reference.PREFIX, "tokens": tokens, "repeat": repeat, "device": "cuda"}
    call = [sys.executable, "-m", f"{__package__}.peers", json.dumps(options)]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=PEER_SECONDS)
    except subprocess.TimeoutExpired:
        return {"peers": [], "missing": {"all": f"no result within {PEER_SECONDS} s"}}
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"peers": [], "missing": {"all": reason[:200]}}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _reports(where: str, bundle: str | None, tokens: int, repeat: int) -> dict[str, Any]:
    """Whole reports of one film: milliseconds by stage, or why there are none."""
    import tempfile
    from pathlib import Path

    import edge

    from ..films import choose_film

    try:
        begin = perf_counter()
        engine = edge.load(bundle, device=where)
        load_ms = (perf_counter() - begin) * 1e3
        with tempfile.TemporaryDirectory(prefix="edge-bench-") as work:
            film = choose_film(None, Path(work))
            reports = [
                engine.report(film, max_new_tokens=None if bundle is None else tokens) for _ in range(repeat + 1)
            ]
    except (EdgeError, ProcessingError) as error:
        return {"device": where, "failed": f"{error.kind}: {error}"[:300]}
    stages = {name: round(median([r.timings_ms[name] for r in reports[1:]]), 3) for name in reports[1].timings_ms}
    return {
        "device": where,
        "model": reports[0].model["name"],
        "decoder": engine.isa,
        "load_ms": round(load_ms, 1),
        "tokens": len(reports[0].token_ids),
        "stages_ms": stages,
        "after_pixels_ms": round(stages.get("vision", 0.0) + stages.get("decode", 0.0), 3),
    }


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
    for report in result["reports"]:
        if "failed" in report:
            lines.append(f"report, vision on {report['device']}: {report['failed']}")
            continue
        stages = ", ".join(f"{name} {ms:.2f}" for name, ms in report["stages_ms"].items())
        lines.append(
            f"report, vision on {report['device']} ({report['model']}, {report['tokens']} tokens), ms: {stages}"
        )
    lines.append("projections, not measured:")
    return "\n".join([*lines, *render(result["projection"])]) + "\n"
