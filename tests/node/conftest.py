# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the node's tests: a hand-made bundle, films, configurations, and nodes that run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "runtime"), str(_HERE.parent / "cli")]

from cli_films import make_dicom  # noqa: E402
from handmade import make_bundle  # noqa: E402
from node_parts import Pacs, Running, Setup  # noqa: E402


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("node") / "bundle")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [make_dicom(folder / f"film{i}.dcm", i) for i in range(1, 13)]


@pytest.fixture
def setup(tmp_path: Path, bundle: Path) -> Setup:
    """Makes configurations; by default results go to a folder."""
    return Setup(tmp_path, bundle)


@pytest.fixture
def start(setup: Setup) -> Iterator[type[Running]]:
    """``start(**changes)``: a node in this process."""
    pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")
    running: list[Running] = []

    def begin(**changes: object) -> Running:
        running.append(Running(setup, changes))
        return running[-1]

    yield begin  # type: ignore[misc]
    for node in running:
        node.close()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[type[Pacs]]:
    """``pacs(*options)``: DCMTK's storescp as the receiver."""
    running: list[Pacs] = []

    def begin(*options: str, port: int | None = None) -> Pacs:
        running.append(Pacs(tmp_path / "pacs", options, port))
        return running[-1]

    yield begin  # type: ignore[misc]
    for process in running:
        process.close()
