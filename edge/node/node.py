# SPDX-License-Identifier: Apache-2.0
"""The node: its parts put together, started, watched and stopped."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from edge.bundle import Bundle
from edge.errors import EdgeError, NetworkError, OutputError
from edge.node.accept import contexts
from edge.node.config import Config
from edge.node.delivery import Delivery, make_receiver
from edge.node.health import Health
from edge.node.log import log
from edge.node.metrics import Metrics
from edge.node.receive import Receiver
from edge.node.spool import Result, Spool
from edge.node.trace import Trace, read_key
from edge.node.worker import Worker, engine_of

if TYPE_CHECKING:
    from edge.manifest import Manifest
    from edge.node.server import Server

POLL = 0.1
"""Seconds until the listening thread notices that it should stop."""
HOUSEKEEPING = 30.0
"""Seconds between looks at the folders for what a person has put back, and at old marks."""


class Node:
    """An application entity that is being served.

    Raises
    ------
    EdgeError
        Something of the configuration cannot be used: the bundle, the spool, an address.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        bundle = Bundle.open(config.report.bundle)
        queue = config.queue
        self.spool = Spool(
            config.node.spool,
            bundle.sha256,
            max_films=queue.max_films,
            max_undelivered=queue.max_undelivered,
            min_free=queue.min_free_mb << 20,
        )
        self.trace = Trace(
            config.trace.path or config.node.spool / "trace.jsonl",
            config.node.spool / "trace.key",
            max_bytes=config.trace.max_mb << 20,
            keep=config.trace.keep,
            bundle=bundle.sha256,
        )
        ours = config.node.ae_title
        self.deliveries = [
            Delivery(peer, make_receiver(peer, ours), config.retry, self.spool, self.metrics) for peer in config.deliver
        ]
        self.worker = Worker(config, self.spool, self.metrics, self.trace, self.deliver)
        self._bundle = bundle
        for line in never_made(config, bundle.manifest):
            log.warning("%s", line)
        self._began = time.monotonic()
        self._stopping = threading.Event()
        self._ready = False
        self._server = self._listen()
        self._health = self._watch() if config.health.port else None

    @property
    def notice(self) -> str | None:
        """What must be told about the model."""
        return self._bundle.notice

    def _listen(self) -> Server:
        from pynetdicom import AE

        from edge.node.server import Server
        from edge.standard.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

        settings = self.config.node
        ae = AE(settings.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION
        ae.require_called_aet = True
        ae.require_calling_aet = list(settings.modalities)
        ae.maximum_associations = settings.max_associations
        ae.maximum_pdu_size = settings.max_pdu
        ae.acse_timeout = settings.association_s
        ae.dimse_timeout = ae.network_timeout = settings.idle_s
        receiver = Receiver(self.spool, self.metrics, self.worker.put)
        ae.supported_contexts = offered = contexts(settings.accept)
        try:
            return Server(ae, offered, settings, self.spool, self.metrics, receiver.handlers())
        except (OSError, UnicodeError) as error:
            words = getattr(error, "strerror", None) or type(error).__name__
            raise NetworkError(f"[node] {settings.host} port {settings.port}: {words}") from None

    def _watch(self) -> Health:
        gauges = self.metrics.gauges
        counts = self.spool.counts
        gauges["edge_node_queue_films"] = lambda: counts()["films"]
        gauges["edge_node_undelivered_results"] = lambda: counts()["undelivered"]
        gauges["edge_node_dead_letters"] = lambda: counts()["dead"]
        gauges["edge_node_associations"] = lambda: len(self._server.active_associations)
        gauges["edge_node_free_bytes"] = lambda: shutil.disk_usage(self.spool.root).free
        gauges["edge_node_memory_bytes"] = _resident
        gauges["edge_node_up_seconds"] = lambda: time.monotonic() - self._began
        gauges["edge_node_ready"] = lambda: float(not self.not_ready())
        settings = self.config.health
        return Health(settings.host, settings.port, self.not_live, self.not_ready, self.metrics.text)

    def not_live(self) -> str:
        """Why the process should be started anew; empty where it need not."""
        dead = [delivery.peer.name for delivery in self.deliveries if self._ready and not delivery.alive()]
        if self._ready and not self.worker.alive() and not self._stopping.is_set():
            return "a worker has ended"
        return f"delivery to {dead[0]} has ended" if dead and not self._stopping.is_set() else ""

    def not_ready(self) -> str:
        """Why no film is taken or reported just now."""
        if self._stopping.is_set():
            return "stopping"
        if not self._ready:
            return "the model is being loaded"
        full = self.spool.full()
        return self.not_live() or (f"no room: {full}" if full else "")

    def deliver(self, result: Result) -> None:
        """Hand a result to every delivery."""
        for delivery in self.deliveries:
            delivery.put(result)

    def start(self) -> None:
        """Take films, load the model, report.

        Raises
        ------
        EdgeError
            The model cannot be loaded.
        """
        for film in self.spool.films():
            self.worker.put(film)
        self._requeue_results()
        threading.Thread(target=self._server.serve_forever, args=(POLL,), name="edge-listen", daemon=True).start()
        if self._health:
            self._health.start()
        for delivery in self.deliveries:
            delivery.start()
        settings = self.config.node
        counts = self.spool.counts()
        log.info(
            "%s listens on %s port %d; %d films and %d results wait",
            settings.ae_title,
            settings.host,
            settings.port,
            counts["films"],
            counts["undelivered"],
        )
        import numpy  # noqa: F401  # here, and not first in two threads at once

        self.worker.start(engine_of(self.config, self._bundle))
        self._ready = True
        log.info("ready: model %s, bundle %s", self._bundle.manifest.name, self._bundle.sha256[:16])

    def serve(self) -> None:
        """Keep house until :meth:`stop` is called."""
        while not self._stopping.wait(HOUSEKEEPING):
            try:
                self.spool.forget(time.time() - self.config.queue.remember_days * 86400)
                self.spool.adopt()
                for film in self.spool.films():
                    self.worker.put(film)
                self._requeue_results()
            except Exception as error:  # whatever a person may have put there
                log.error("the spool cannot be looked through: %s", type(error).__name__)

    def _requeue_results(self) -> None:
        """Give every waiting result to its receivers; receivers that are no longer configured are left out."""
        for result in self.spool.results():
            if not (isinstance(result.job.get("files"), dict) and isinstance(result.job.get("receivers"), list)):
                log.error("out/%s has no usable job.json", result.ident)
                continue
            names = {delivery.peer.name for delivery in self.deliveries}
            result.job["receivers"] = [name for name in result.job["receivers"] if name in names]
            if result.waiting():
                self.deliver(result)
            else:
                self.spool.end_if_complete(result)

    def stop(self) -> None:
        """Ask :meth:`serve` to return; safe in a signal handler."""
        self._stopping.set()

    def _let_associations_end(self, end: float) -> bool:
        """Wait for requests that are arriving or being answered; whether some were cut off in the end."""
        quiet: Counter[Any] = Counter()
        while associations := self._server.active_associations:
            late = time.monotonic() >= end
            for association in associations:
                quiet[association] = 0 if association.dimse.busy() else quiet[association] + 1
                if late or quiet[association] > 3:  # an answer may still be on its way out
                    association.abort(block=False)
            if late:  # what was arriving was not acknowledged, so its sender keeps it
                return True
            time.sleep(0.02)
        return False

    def close(self) -> bool:
        """Take no more connections, let what is open finish for a while, and leave the rest on disk.

        Returns
        -------
        bool
            Whether everything finished in time.
        """
        self._stopping.set()
        end = time.monotonic() + self.config.node.stop_s
        self._server.shutdown()
        self.worker.stop()
        left = self._let_associations_end(end)
        for delivery in self.deliveries:
            delivery.stop()
        finished = self.worker.join(max(0.1, end - time.monotonic()))
        for delivery in self.deliveries:
            finished &= delivery.join(max(0.1, end - time.monotonic()))
        if self._health:
            self._health.close()
        self.spool.close()
        return finished and not left


def _resident() -> float:
    try:
        with open("/proc/self/statm", "rb") as handle:
            return float(int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        return 0.0


def never_made(config: Config, manifest: Manifest) -> list[str]:
    """Objects that a receiver is to get and that this model cannot make, one line each."""
    lacking = {
        "seg": (manifest.has_mask, "this model has no segmenter"),
        "sr-tid1500": (manifest.coding_file is not None, "this bundle does not say how its findings are coded"),
    }
    return [
        f"[[deliver]] {peer.name}: objects: there will be no {kind}: {why}"
        for peer in config.deliver
        for kind, (fine, why) in lacking.items()
        if kind in peer.objects and not fine
    ]


def check(config: Config) -> list[str]:
    """What is wrong with a configuration beyond its form, without starting anything; empty where nothing is."""
    from edge.engine import load

    problems = []
    try:
        bundle = Bundle.open(config.report.bundle)
        problems += never_made(config, bundle.manifest)
        load(bundle, config.report.device, config.report.threads)
    except EdgeError as error:
        problems.append(f"[report] {error.kind}: {error}")
    from edge.node.server import server_context

    try:
        server_context(config.node)
    except (OSError, ValueError) as error:
        problems.append(f"[node] tls: {type(error).__name__}: the certificate or its key cannot be used")
    for peer in config.deliver:
        try:
            make_receiver(peer, config.node.ae_title).close()
        except (OSError, ValueError) as error:
            problems.append(f"[[deliver]] {peer.name}: {type(error).__name__}: its certificates cannot be used")
    found = [_host_problem("[node]", config.node.host), _spool_problem(config), _trace_problem(config)]
    if config.health.port:
        found.append(_host_problem("[health]", config.health.host))
    return problems + [problem for problem in found if problem is not None]


def _host_problem(place: str, host: str) -> str | None:
    """Whether connections to a host can be listened for; at any port, as a node may be using its own."""
    try:
        families = {entry[0] for entry in socket.getaddrinfo(host, None)}
        old = socket.AF_INET in families or place == "[health]"
        with socket.socket(socket.AF_INET if old else socket.AF_INET6) as probe:
            probe.bind((host, 0))
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or "cannot be used"
        return f"{place} host: {host}: {words}; it must be an address or a name of this machine"
    return None


def _trace_problem(config: Config) -> str | None:
    path = config.trace.path
    try:
        if path is None or path.parent == config.node.spool:
            return None
        if path.is_dir():
            return f"[trace] path: {path} is a folder"
        if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            return f"[trace] path: {path} cannot be written"
    except OSError as error:
        return f"[trace] path: {path}: {error.strerror}"
    return None


def _spool_problem(config: Config) -> str | None:
    path = config.node.spool
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
        if not path.is_dir():
            return f"[node] spool: {path} is not a folder"
        if (path / "trace.key").exists():
            read_key(path / "trace.key")
        os.rmdir(tempfile.mkdtemp(prefix=".edge-node-check-", dir=path))  # as the spool, or a folder on the way to it
    except OutputError as error:
        return f"[node] spool: {error}"
    except OSError as error:
        return f"[node] spool: {path} cannot be written to: {error.strerror}"
    free = shutil.disk_usage(path).free >> 20
    if free < config.queue.min_free_mb:
        return f"[queue] min_free_mb: only {free} MB are free on the disk of the spool"
    return None
