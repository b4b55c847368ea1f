# SPDX-License-Identifier: Apache-2.0
"""Figures of the running node in Prometheus' text format.

Written here because the usual client library keeps no quantiles in Python, and the rest is a page of text.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable

WINDOW = 1024
"""Observations that quantiles are taken over."""
QUANTILES = (0.5, 0.95, 0.99)

_HELP = {
    "edge_node_events_total": ("counter", "What happened, by kind."),
    "edge_node_refused_total": ("counter", "Connections, associations and films that were refused, by reason."),
    "edge_node_failures_total": ("counter", "What went wrong with films and deliveries, by stage and kind."),
    "edge_node_stage_seconds": ("summary", f"Latency of the stages; quantiles over the last {WINDOW}."),
    "edge_node_up_seconds": ("gauge", "Since the process began to serve."),
    "edge_node_ready": ("gauge", "1 where films are taken and reported."),
    "edge_node_queue_films": ("gauge", "Films that wait to be reported."),
    "edge_node_undelivered_results": ("gauge", "Results that some receiver does not have yet."),
    "edge_node_dead_letters": ("gauge", "Films and results that were given up."),
    "edge_node_associations": ("gauge", "Associations that are open."),
    "edge_node_free_bytes": ("gauge", "Free on the disk of the spool."),
    "edge_node_memory_bytes": ("gauge", "Resident memory of the process."),
}


class Metrics:
    """Counters, summaries and gauges. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._recent: dict[str, deque[float]] = {}
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self.gauges: dict[str, Callable[[], float]] = {}

    def count(self, event: str) -> None:
        with self._lock:
            self._events[event] += 1

    def refused(self, reason: str) -> None:
        with self._lock:
            self._refused[reason] += 1

    def failed(self, stage: str, kind: str) -> None:
        with self._lock:
            self._failures[stage, kind] += 1

    def observe(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._recent.setdefault(stage, deque(maxlen=WINDOW)).append(seconds)
            self._sums[stage] += seconds  # type: ignore[assignment]
            self._counts[stage] += 1

    def text(self) -> str:
        """Everything, in the text exposition format 0.0.4."""
        with self._lock:
            events, refused, failures = dict(self._events), dict(self._refused), dict(self._failures)
            recent = {stage: sorted(values) for stage, values in self._recent.items()}
            sums, counts = dict(self._sums), dict(self._counts)
        lines: list[str] = []

        def family(name: str) -> None:
            kind, words = _HELP[name]
            lines.extend((f"# HELP {name} {words}", f"# TYPE {name} {kind}"))

        family("edge_node_events_total")
        lines += [f"edge_node_events_total{_labels(kind=kind)} {n}" for kind, n in sorted(events.items())]
        family("edge_node_refused_total")
        lines += [f"edge_node_refused_total{_labels(reason=why)} {n}" for why, n in sorted(refused.items())]
        family("edge_node_failures_total")
        for (stage, kind), n in sorted(failures.items()):
            lines.append(f"edge_node_failures_total{_labels(stage=stage, kind=kind)} {n}")
        family("edge_node_stage_seconds")
        for stage, values in sorted(recent.items()):
            for q in QUANTILES:
                at = min(len(values) - 1, int(q * len(values)))
                lines.append(f"edge_node_stage_seconds{_labels(stage=stage, quantile=str(q))} {values[at]:.6g}")
            lines.append(f"edge_node_stage_seconds_sum{_labels(stage=stage)} {sums[stage]:.6g}")
            lines.append(f"edge_node_stage_seconds_count{_labels(stage=stage)} {counts[stage]}")
        for name, gauge in sorted(self.gauges.items()):
            family(name)
            lines.append(f"{name} {gauge():.10g}")
        return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in labels.items()) + "}"
