# SPDX-License-Identifier: Apache-2.0
"""What other cards may reach, by arithmetic: bytes over bandwidth, and barriers. Nothing here is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
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
SHARE = 0.75
"""Of the published bandwidth that decoding is taken to reach, where no run has told."""
BARRIER_US = 1.2
"""What a barrier of the grid, or the gap between two kernels of a replayed graph, is taken to cost."""


def barriers(layers: int, *, way: str) -> int:
    """Grid barriers of a token by the persistent kernel, kernels of a recorded step otherwise."""
    return 5 * layers + (1 if way == "persistent" else 3)


def project(
    total_bytes: int, layers: int, *, way: str, share: float | None = None, barrier_us: float = BARRIER_US
) -> list[dict[str, Any]]:
    """Microseconds per token on cards that are not here.

    Parameters
    ----------
    total_bytes : int
        Read per token.
    layers : int
    way : str
        ``steps`` or ``persistent``.
    share : float, optional
        Of the bandwidth that a measured card reached; default: :data:`SHARE`.
    """
    used = SHARE if not share else min(share, 1.0)
    waits = barriers(layers, way=way)
    return [
        {
            "card": card.name,
            "projected": True,
            "published_gbps": card.gbps,
            "share_of_bandwidth": round(used, 3),
            "share_is_measured": bool(share),
            "barriers": waits,
            "barrier_us": barrier_us,
            "us_per_token": round(total_bytes / card.gbps / used / 1e3 + waits * barrier_us, 1),
        }
        for card in CARDS
    ]


def render(rows: list[Mapping[str, Any]]) -> list[str]:
    """Lines of text, each of which says that it is a projection."""
    return [
        f"  {row['card']:<24} {row['us_per_token']:8.0f} us/token  "
        f"(projected: {row['published_gbps']:.0f} GB/s published, "
        f"{row['share_of_bandwidth']:.0%} of it {'as measured here' if row['share_is_measured'] else 'assumed'}, "
        f"{row['barriers']} barriers of {row['barrier_us']} us assumed)"
        for row in rows
    ]
