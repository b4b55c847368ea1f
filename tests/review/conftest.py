# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the review page's tests: the demo model behind a real server on this machine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[1] / "cli"),
    str(Path(__file__).parents[1] / "runtime"),
]

from cli_films import make_dicom  # noqa: E402
from client import Client  # noqa: E402

import edge  # noqa: E402

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom.dcm"


@pytest.fixture(scope="session")
def engine() -> edge.Engine:
    return edge.load(threads=2)


@pytest.fixture(scope="session")
def serve(engine: edge.Engine) -> Iterator[Callable[..., Client]]:
    """``serve("--token", "...")``: a client of a server of its own with these options."""
    import uvicorn

    from edge.review.cli import application, configured, listen
    from edge.review.options import parse

    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(*words: str) -> Client:
        options = parse(["--port", "0", *words])
        listener = listen(options.host, options.port)
        server = uvicorn.Server(configured(application(engine, options), options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        return Client(listener.getsockname()[1])

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def client(serve: Callable[..., Client]) -> Client:
    return serve("--max-upload", "4")


@pytest.fixture(scope="session")
def phantom() -> Path:
    return PHANTOM


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Films of a patient whose name must never be seen, and a file that is none."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "letter.pdf").write_bytes(b"%PDF-1.7\n" + b"SECRETNAME " * 40)
    return {
        "frontal": make_dicom(folder / "SECRETNAME.dcm"),
        "lateral": make_dicom(folder / "lateral.dcm", 2, ViewPosition="LL"),
        "other": make_dicom(folder / "other.dcm", 3),
        "letter": folder / "letter.pdf",
    }
