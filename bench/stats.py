# SPDX-License-Identifier: Apache-2.0
"""Percentiles of a few runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile (0..100) with linear interpolation between neighbours, as ``numpy.percentile``."""
    ordered = sorted(values)
    place = percent / 100.0 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def rounded(value: float) -> float:
    """`value` to seven significant digits."""
    return float(f"{value:.7g}")


def summary(values: Sequence[float]) -> dict[str, float]:
    """``{"p50": ..., "p95": ..., "p99": ...}`` in the unit of `values`."""
    return {f"p{p}": rounded(percentile(values, p)) for p in PERCENTILES}


def stage_summary(runs: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Percentiles of each stage over runs that have the same stages in the same order."""
    listed = list(runs)
    return {stage: summary([run[stage] for run in listed]) for stage in listed[0]}
