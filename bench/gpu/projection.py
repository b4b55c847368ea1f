# SPDX-License-Identifier: Apache-2.0
"""What other cards may reach, by arithmetic: bytes over bandwidth, and barriers. Nothing here is measured on them.

A token takes ``bytes / bandwidth + waits * wait``. Formats that read different numbers of bytes are measured in the
same way of decoding, so both unknowns, the bandwidth that is reached and what a wait costs, can be fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Card:
    """A card's name and its published memory bandwidth in GB/s."""

    name: str
    gbps: float


CARDS = (
    Card("NVIDIA L4", 300.0),
    Card("NVIDIA RTX A2000", 288.0),
    Card("NVIDIA Jetson AGX Orin", 204.8),
)
MEASURED = (Card("H100 80GB HBM3", 3350.0), Card("H200", 4800.0))
"""Cards to measure on, by what their names hold; of others the bandwidth of a copy stands for what is published."""
SHARE = 0.75
"""Of the published bandwidth that decoding is taken to reach, where no run has told."""
WAIT_US = 1.2
"""What a barrier of the grid, or the gap between two kernels of a replayed graph, is taken to cost where none has."""


@dataclass(frozen=True)
class Fit:
    """What decoding reached on a measured card.

    Attributes
    ----------
    gbps : float
        Read while nobody waits.
    wait_us : float
        Of a barrier, or a gap between kernels.
    kinds : int
        Formats it is fitted to.
    """

    gbps: float
    wait_us: float
    kinds: int


def waits(layers: int, *, way: str, evidence_layers: int) -> int:
    """Per token: grid barriers of the persistent kernel, kernels of a recorded step otherwise."""
    return 5 * layers + 1 if way == "persistent" else 5 * layers + evidence_layers + 3


def fit(measured: Sequence[tuple[float, float]], count: int) -> Fit | None:
    """The least squares of ``us = bytes / gbps / 1000 + count * wait``.

    Parameters
    ----------
    measured : sequence of (bytes, us)
        Per token, of one way of decoding.
    count : int
        Waits per token.

    Returns
    -------
    Fit or None
        None: fewer than two numbers of bytes, or a bandwidth or wait below zero, so that the times are no such sum.
    """
    n = len(measured)
    if n < 2:
        return None
    mean_bytes, mean_us = (sum(values) / n for values in zip(*measured, strict=True))
    spread = sum((read - mean_bytes) ** 2 for read, _ in measured)
    if spread <= 0:
        return None
    slope = sum((read - mean_bytes) * (us - mean_us) for read, us in measured) / spread
    wait = (mean_us - slope * mean_bytes) / count
    return Fit(1e-3 / slope, wait, n) if slope > 0 and wait >= 0 else None


def project(
    decoders: Sequence[Mapping[str, Any]], layers: int, *, evidence_layers: int, gpu: str = "", copy_gbps: float = 0.0
) -> list[dict[str, Any]]:
    """Microseconds per token on cards that are not here, of the fastest format in its way of decoding.

    Parameters
    ----------
    decoders : sequence of mapping
        Measured here: ``way``, ``bytes_per_token`` and ``us_per_token`` of each.
    layers, evidence_layers : int
    gpu : str
        Name of the card they were measured on.
    copy_gbps : float
        What a copy reached on it.
    """
    if not decoders:
        return []
    best = min(decoders, key=lambda d: d["us_per_token"])
    way, count = best["way"], waits(layers, way=best["way"], evidence_layers=evidence_layers)
    found = fit([(d["bytes_per_token"], d["us_per_token"]) for d in decoders if d["way"] == way], count)
    published = next((card.gbps for card in MEASURED if card.name in gpu), None)
    bandwidth = published or copy_gbps
    fitted = found is not None and bandwidth > 0
    share = found.gbps / bandwidth if found is not None and fitted else SHARE
    wait = found.wait_us if found is not None and fitted else WAIT_US
    return [
        {
            "card": card.name,
            "projected": True,
            "published_gbps": card.gbps,
            "way": way,
            "share_of_bandwidth": round(min(share, 1.0), 3),
            "share_of": "published" if published or not fitted else "copied",
            "fitted": fitted,
            "fitted_kinds": found.kinds if found is not None and fitted else 0,
            "waits": count,
            "wait_us": round(wait, 3),
            "us_per_token": round(
                best["bytes_per_token"] / card.gbps / min(share, 1.0) / 1e3 + count * wait, 1
            ),
        }
        for card in CARDS
    ]  # fmt: skip


def render(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of text, each of which says that it is a projection, and from what."""
    lines = []
    for row in rows:
        share = f"{row['share_of_bandwidth']:.0%} of it"
        if row["fitted"]:
            basis = (
                f"{share} and {row['waits']} waits of {row['wait_us']} us, both fitted to {row['fitted_kinds']} formats"
            )
            basis += " measured here" + (", the share of a copy's bandwidth" if row["share_of"] == "copied" else "")
        else:
            basis = (
                f"{share} and {row['waits']} waits of {row['wait_us']} us, both ASSUMED: nothing here could be fitted"
            )
        lines.append(
            f"  {row['card']:<24} {row['us_per_token']:8.0f} us/token, {row['way']} "
            f"(projected: {row['published_gbps']:.0f} GB/s published, {basis})"
        )
    return lines
