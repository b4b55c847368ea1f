# SPDX-License-Identifier: Apache-2.0
"""What can be configured, and the defaults; :mod:`edge.node.configfile` reads it from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

OBJECTS = ("sr", "sr-tid1500", "capture", "seg")
"""Objects that go to a DICOM or DICOMweb receiver."""
FILES = (*OBJECTS, "fhir", "json", "text")
"""Objects that go to a folder."""
CLASSES = ("CR", "DX", "DX-FOR-PROCESSING", "SC", "RF")


@dataclass(frozen=True)
class Tls:
    """Certificates. For the node itself: `ca` set means that peers must show a certificate signed by it."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True)
class Listen:
    """``[node]``: the application entity."""

    ae_title: str = "EDGE"
    host: str = "0.0.0.0"
    port: int = 11112
    spool: Path = Path("/var/lib/edge-node")
    modalities: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    accept: tuple[str, ...] = ("CR", "DX", "SC")
    max_associations: int = 16
    max_pdu: int = 131072
    max_dataset_mb: int = 256
    association_s: float = 15.0
    idle_s: float = 60.0
    stop_s: float = 20.0
    tls: Tls | None = None


@dataclass(frozen=True)
class Queue:
    """``[queue]``: how much may wait before senders are told to come again later."""

    max_films: int = 500
    max_undelivered: int = 10_000
    min_free_mb: int = 1024
    remember_days: float = 90.0


@dataclass(frozen=True)
class Reporting:
    """``[report]``: the model."""

    bundle: Path | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int = 2
    tries: int = 3
    max_crashes: int = 10


@dataclass(frozen=True)
class Retry:
    """``[retry]``: when a receiver is away or refuses."""

    first_s: float = 2.0
    longest_s: float = 300.0
    refusals: int = 5
    give_up_hours: float = 168.0


@dataclass(frozen=True)
class Deliver:
    """``[[deliver]]``: one receiver of results.

    Attributes
    ----------
    kind : {"dicom", "stow", "folder"}
    objects : tuple of str
        What it gets.
    """

    name: str
    kind: str
    objects: tuple[str, ...] = ("sr",)
    host: str = ""
    port: int = 104
    ae_title: str = ""
    url: str = ""
    token_file: Path | None = None
    path: Path | None = None
    timeout_s: float = 30.0
    tls: Tls | None = None


@dataclass(frozen=True)
class Health:
    """``[health]``: the HTTP endpoint; port 0 turns it off."""

    host: str = "127.0.0.1"
    port: int = 8042


@dataclass(frozen=True)
class Trace:
    """``[trace]``: one JSON line per film, without patient data."""

    path: Path | None = None
    max_mb: int = 64
    keep: int = 5


@dataclass(frozen=True)
class Config:
    node: Listen = field(default_factory=Listen)
    queue: Queue = field(default_factory=Queue)
    report: Reporting = field(default_factory=Reporting)
    retry: Retry = field(default_factory=Retry)
    deliver: tuple[Deliver, ...] = ()
    health: Health = field(default_factory=Health)
    trace: Trace = field(default_factory=Trace)

    @property
    def objects(self) -> tuple[str, ...]:
        """Every kind of object that some receiver wants."""
        return tuple(kind for kind in FILES if any(kind in peer.objects for peer in self.deliver))
