# SPDX-License-Identifier: Apache-2.0
"""The load test: a node as a process of its own, modalities in threads, DCMTK's storescp or a folder as the archive."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from ..exits import exit_code
from .modality import Modality

PROG = "edge-bench node"
FORMAT = "edge-bench node 1"
SAMPLE = 5.0
"""Seconds between looks at the node's metrics."""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    parser = Parser(
        prog=PROG,
        description="Let modalities send films to a node at once; nothing may be lost, and memory stay flat.",
        epilog="Exit code 80 where a film was lost, given up, or reported twice. Latencies: p50 / p95 / p99 / max.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--minutes", metavar="N", type=float, default=10.0, help="default: 10")
    add("--modalities", metavar="N", type=whole(1, 16), default=4, help="that send at once (default: 4)")
    add("--every", metavar="S", type=float, default=2.0, help="seconds between a modality's films (default: 2)")
    add("--bundle", metavar="DIR", help="the model (default: $EDGE_REPORT_BUNDLE, else the demo model)")
    add("--threads", metavar="N", type=whole(1, 512), help="of the node's model")
    add("--film", metavar="PATH", help="film to send (default: examples/*.dcm)")
    add("--json", metavar="PATH", help="write the figures there, whole or not at all")
    return parser


def main(argv: list[str]) -> int:
    """Run; exit codes as ``edge-bench`` has them."""
    options = make_parser().parse_args(argv)
    return exit_code(PROG, lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    from edge.cli.output import check_target, write_stdout, write_whole

    if options.json is not None:
        check_target(options.json, [])
    with tempfile.TemporaryDirectory(prefix="edge-node-") as folder:
        result = run(options, Path(folder))
    if options.json is not None:
        write_whole(options.json, json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    write_stdout(render(result))
    return 0 if result["lost"] == result["twice"] == 0 and not result["given_up"] else 80


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure.

    Raises
    ------
    EdgeError
    """
    from datetime import UTC, datetime

    import pydicom

    from edge.errors import MissingRuntime, ProcessingError
    from edge.film.quiet import quiet

    from .. import machine
    from ..films import choose_film, describe_film

    try:
        from edge.node.log import silence

        silence()
    except ImportError:
        raise MissingRuntime("pynetdicom is not installed; pip install it") from None
    path = choose_film(options.film, folder)
    with quiet():
        film = pydicom.dcmread(path)
        film.decode()
    port, health, archive_port = (_free_port() for _ in range(3))
    titles = [f"MODALITY{number}" for number in range(1, options.modalities + 1)]
    busy = machine.busy_processors()
    archive = _Archive(folder / "archive", archive_port)
    config = folder / "node.toml"
    config.write_text(_config(options, folder, titles, port, health, archive))
    with open(folder / "node.log", "wb") as log:
        node = subprocess.Popen([sys.executable, "-P", "-m", "edge.node.cli", str(config)], stdout=log, stderr=log)
    try:
        _wait_ready(node, health, folder)
        began = time.time()
        modalities = [Modality(t, film, port, options.every, began + 60 * options.minutes) for t in titles]
        for modality in modalities:
            modality.start()
        samples = []
        while any(modality.is_alive() for modality in modalities):
            time.sleep(SAMPLE)
            samples.append({"s": round(time.time() - began, 1), **_gauges(health)})
        sending = time.time() - began
        while (now := _gauges(health))["queue_films"] or now["undelivered_results"]:
            time.sleep(0.2)
        drained = time.time() - began
        metrics = _metrics(health)
        node.terminate()
        code = node.wait(60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProcessingError(f"the node did not answer ({type(error).__name__}); see its log") from None
    finally:
        node.kill()
        archive.close()
    acknowledged = {uid: moment for modality in modalities for uid, moment in modality.acknowledged.items()}
    arrived = archive.arrivals()
    given_up = _given_up(folder / "spool" / "dead")
    latencies = [moment - acknowledged[uid] for uid, moments in arrived.items() for moment in moments]
    memory = [sample["memory_bytes"] / 1e6 for sample in samples]
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "call": {
            "minutes": options.minutes,
            "modalities": options.modalities,
            "every": options.every,
            "threads": options.threads,
            "bundle": options.bundle is not None,
        },
        "film": describe_film(path),
        "archive": archive.kind,
        "seconds_sending": round(sending, 1),
        "seconds_until_drained": round(drained, 1),
        "acknowledged": len(acknowledged),
        "answered_out_of_resources": sum(modality.busy for modality in modalities),
        "broken_associations": sum(modality.broken for modality in modalities),
        "lost": len(acknowledged.keys() - arrived.keys() - given_up.keys()),
        "given_up": sorted(given_up.values()),
        "twice": sum(len(moments) - 1 for moments in arrived.values()),
        "films_per_s": round(len(acknowledged) / sending, 2),
        "send_s": _quantiles([s for modality in modalities for s in modality.seconds]),
        "acknowledged_to_archive_s": _quantiles(latencies),
        "memory_mb": {
            "after_1_minute": _near(samples, memory, 60.0),
            "end": round(memory[-1], 1) if memory else None,
            "peak": round(max(memory), 1) if memory else None,
            "growth_mb_per_hour_second_half": _slope(samples, memory),
        },
        "queue_peak": max((sample["queue_films"] for sample in samples), default=0),
        "node_stages_s": _stages(metrics),
        "node_failures": {name: n for name, n in metrics.items() if name.startswith("edge_node_failures_total")},
        "node_exit_code": code,
        "samples": samples,
        "machine": {**machine.describe(), "busy_processors": busy},
    }


class _Archive:
    """Where reports go: DCMTK's storescp where it is installed, else a folder."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.folder, self.port = folder, port
        self.kind = "storescp (DCMTK)" if shutil.which("storescp") else "folder"
        self._process: subprocess.Popen[bytes] | None = None
        if self.kind != "folder":
            command = ["storescp", "-aet", "ARCHIVE", "-od", str(folder), str(port)]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def arrivals(self) -> dict[str, list[float]]:
        """SOP Instance UID of each film to the moments at which reports on it came."""
        import pydicom

        found: dict[str, list[float]] = {}
        for path in self.folder.iterdir():
            evidence = pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence[0]
            film = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            found.setdefault(str(film), []).append(path.stat().st_mtime)
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _given_up(dead: Path) -> dict[str, str]:
    """SOP Instance UID to reason of everything that lies in ``dead/``."""
    found = {}
    for path in dead.iterdir():
        reason = json.loads((path / "reason.json").read_bytes())
        instance = json.loads((path / "job.json").read_bytes())["instance"]
        found[instance] = f"{reason.get('reason', reason.get('receiver'))}: {reason['words']}"
    return found


def _config(
    options: argparse.Namespace, folder: Path, titles: list[str], port: int, health: int, archive: _Archive
) -> str:
    report = "".join(
        f"{key} = {json.dumps(value)}\n"
        for key, value in (
            ("bundle", str(Path(options.bundle).resolve()) if options.bundle else None),
            ("threads", options.threads),
            ("device", "cpu"),
        )
        if value is not None
    )
    receiver = (
        f'kind = "folder"\npath = {json.dumps(str(archive.folder))}\n'
        if archive.kind == "folder"
        else f'kind = "dicom"\nhost = "127.0.0.1"\nport = {archive.port}\nae_title = "ARCHIVE"\n'
    )
    return (
        f'[node]\nhost = "127.0.0.1"\nport = {port}\nspool = {json.dumps(str(folder / "spool"))}\n'
        f"modalities = {json.dumps(titles)}\n[report]\n{report}[health]\nport = {health}\n"
        f'[[deliver]]\nname = "archive"\n{receiver}'
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(node: subprocess.Popen[bytes], health: int, folder: Path) -> None:
    from edge.errors import ProcessingError

    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health}/ready", timeout=5):
                return
        except OSError:
            if node.poll() is not None:
                lines = (folder / "node.log").read_text(errors="replace").splitlines()
                raise ProcessingError(f"the node ended: {lines[-1] if lines else ''}") from None
            time.sleep(0.1)
    raise ProcessingError("the node is not ready after two minutes")


def _metrics(health: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{health}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def _gauges(health: int) -> dict[str, float]:
    metrics = _metrics(health)
    names = ("queue_films", "undelivered_results", "associations", "memory_bytes")
    return {name: metrics[f"edge_node_{name}"] for name in names}


def _stages(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    stages: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.startswith("edge_node_stage_seconds{"):
            stage, quantile = name.split('"')[1::2]
            stages.setdefault(stage, {})[f"p{round(float(quantile) * 100)}"] = value
    return stages


def _quantiles(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    if not values:
        return {}
    marks = {f"p{q}": round(values[min(len(values) - 1, q * len(values) // 100)], 4) for q in (50, 95, 99)}
    return {**marks, "max": round(values[-1], 4)}


def _near(samples: list[dict[str, float]], values: list[float], second: float) -> float | None:
    pairs = [(abs(sample["s"] - second), value) for sample, value in zip(samples, values, strict=True)]
    return round(min(pairs)[1], 1) if pairs else None


def _slope(samples: list[dict[str, float]], values: list[float]) -> float | None:
    """Least squares over the second half: MB per hour."""
    half = len(samples) // 2
    x, y = [sample["s"] / 3600 for sample in samples[half:]], values[half:]
    if len(x) < 2:
        return None
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return round(sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread, 1)


def render(result: dict[str, Any]) -> str:
    """The figures as a person reads them."""

    def row(values: dict[str, float]) -> str:
        return " / ".join(f"{value:.3f}" for value in values.values())

    call, memory = result["call"], result["memory_mb"]
    lines = [
        f"{call['modalities']} modalities, a film each {call['every']:g} s, for {result['seconds_sending']:.0f} s; "
        f"archive: {result['archive']}",
        f"{result['acknowledged']} films acknowledged ({result['films_per_s']:.2f}/s), {result['lost']} lost, "
        f"{result['twice']} reported twice, {len(result['given_up'])} given up {' / '.join(result['given_up'][:3])}",
        f"{result['answered_out_of_resources']} answers 'out of resources', "
        f"{result['broken_associations']} broken associations, at most {result['queue_peak']:.0f} films waiting",
        f"sending a film, s:                 {row(result['send_s'])}",
        f"acknowledged to report in archive: {row(result['acknowledged_to_archive_s'])}",
        f"memory, MB: {memory['after_1_minute']} after a minute, {memory['end']} at the end, peak {memory['peak']}; "
        f"second half {memory['growth_mb_per_hour_second_half']:+} MB per hour",
    ]
    return "\n".join(lines) + "\n"
