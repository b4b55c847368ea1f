# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the command-line tests: a hand-made bundle, films, and a way to run the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]

from cli_films import Run, make_dicom  # noqa: E402
from handmade import make_bundle  # noqa: E402


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("cli") / "bundle")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [make_dicom(folder / f"film{i}.dcm", i) for i in (1, 2, 3)]


@pytest.fixture(scope="session")
def environment(bundle: Path) -> dict[str, str]:
    return {**os.environ, "EDGE_REPORT_BUNDLE": str(bundle), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def command() -> list[str]:
    return [sys.executable, "-P", "-m", "edge.cli.report"]  # -P: the installed package, not ./edge


@pytest.fixture(scope="session")
def run(environment: dict[str, str], command: list[str]) -> Run:
    """``run("--format", "json", film, env={...})``: the finished process."""

    def call(*words: object, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [*command, "--threads", "1", *map(str, words)],
            env=environment | (env or {}),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            **options,
        )
        assert "Traceback" not in result.stderr
        assert "SECRET" not in result.stdout + result.stderr
        return result

    return call
