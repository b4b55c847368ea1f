# SPDX-License-Identifier: Apache-2.0
"""What one timed part has to say: stages, milliseconds and bytes per token, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .stats import median, rounded, stage_summary
from .traffic import Traffic


@dataclass
class Part:
    """The runs of one part: whole reports, or the decoder alone.

    Attributes
    ----------
    name : str
        ``reports`` or ``decoder``.
    tokens : int
        New tokens per run; the first one belongs to the stage ``first_token``, the others to ``decode``.
    runs : list of dict
        Milliseconds per stage, one dictionary per run, warm-up runs left out.
    traffic : Traffic
    load_ms : float
        From nothing to ready, in this process, imports included.
    rss_mb, rss_peak_mb : float or None
        Resident memory after the runs, and its peak from loading on; MB of 1e6 bytes.
    isa : str
    model : dict
        What was run.
    extra : dict
        Further figures of this part.
    tokens_per_pass : float
        Tokens per pass over the decoder; more than 1 where drafts were right.
    beside_gbps : list of float
        Read bandwidth beside each run: the mean of what was measured just before and just after it.
    """

    name: str
    tokens: int
    runs: Sequence[Mapping[str, float]]
    traffic: Traffic
    load_ms: float
    rss_mb: float | None
    rss_peak_mb: float | None
    isa: str
    model: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    tokens_per_pass: float = 1.0
    beside_gbps: Sequence[float] = ()

    @property
    def ms_per_token(self) -> float:
        """Median over runs of the decode stage's mean."""
        return median([run["decode"] for run in self.runs]) / (self.tokens - 1)

    @property
    def read_gbps(self) -> float:
        """GB/s (1e9 bytes) that the decode steps read; a pass that yields several tokens reads once."""
        return self.traffic.total / (self.ms_per_token * self.tokens_per_pass) / 1e6

    @property
    def shares(self) -> list[float]:
        """What each run's decode steps read per second, as a share of the bandwidth beside that run."""
        bytes_read = self.traffic.total * (self.tokens - 1) / self.tokens_per_pass
        return [bytes_read / run["decode"] / 1e6 / gbps for run, gbps in zip(self.runs, self.beside_gbps, strict=True)]

    def to_dict(self, bandwidth_gbps: float) -> dict[str, Any]:
        """For JSON; ratios are those of the unrounded figures.

        Parameters
        ----------
        bandwidth_gbps
            Bounds a part whose runs had none measured beside them.
        """
        shares = self.shares if self.beside_gbps else [self.read_gbps / bandwidth_gbps]
        return {
            "ms_per_token": rounded(self.ms_per_token),
            "tokens_per_s": rounded(1e3 / self.ms_per_token),
            "tokens_per_pass": rounded(self.tokens_per_pass),
            "bytes_per_token": self.traffic.total,
            "bytes": self.traffic.to_dict(),
            "read_gbps": rounded(self.read_gbps),
            "share_of_bandwidth": rounded(median(shares)),
            "share_of_bandwidth_runs": [rounded(share) for share in shares],
            "beside_gbps": [rounded(gbps) for gbps in self.beside_gbps],
            "rss_mb": self.rss_mb,
            "rss_peak_mb": self.rss_peak_mb,
            "load_ms": round(self.load_ms, 2),
            "stages": stage_summary(self.runs),
            "runs": [{stage: rounded(ms) for stage, ms in run.items()} for run in self.runs],
            "model": self.model,
            **self.extra,
        }
