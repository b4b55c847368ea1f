# SPDX-License-Identifier: Apache-2.0
"""The HTTP endpoint for whoever watches the node: ``/live``, ``/ready``, ``/metrics``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge.errors import NetworkError

MAX_CONNECTIONS = 16


class Health:
    """Answers GET and HEAD and nothing else.

    Parameters
    ----------
    live, ready : callable
        Give what is wrong, in words; empty where all is well.
    metrics : callable
        Gives the metrics' text.

    Raises
    ------
    NetworkError
        The address cannot be used.
    """

    def __init__(
        self, host: str, port: int, live: Callable[[], str], ready: Callable[[], str], metrics: Callable[[], str]
    ) -> None:
        pages: dict[str, Callable[[], tuple[int, str]]] = {
            "/live": lambda: _state(live()),
            "/ready": lambda: _state(ready()),
            "/metrics": lambda: (200, metrics()),
        }
        handler = type("Handler", (_Handler,), {"pages": pages})
        try:
            self._server = _Server((host, port), handler)
        except (OSError, UnicodeError) as error:
            words = getattr(error, "strerror", None) or "cannot be used"
            raise NetworkError(f"[health] {host} port {port}: {words}") from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="edge-health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, *args: Any) -> None:
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client went away


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Callable[[], tuple[int, str]]]
    server_version, sys_version = "edge-node", ""
    timeout = 5.0

    def do_GET(self) -> None:
        page = self.pages.get(self.path.split("?")[0])
        status, text = page() if page else (404, "/live, /ready, /metrics\n")
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _state(problem: str) -> tuple[int, str]:
    return (503, problem + "\n") if problem else (200, "ok\n")
