# SPDX-License-Identifier: Apache-2.0
"""``--help`` and ``--version`` of every command: the answer arrives, or the exit code says that it did not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.version import __version__

MODULES = {
    "edge-report": "edge.cli.report",
    "edge-node": "edge.node.cli",
    "edge-review": "edge.review.cli",
    "edge-export": "edge_export.cli",
    "edge-phantom": "edge_export.phantom.cli",
    "edge-bench": "edge_bench.cli",
}


def ask(name: str, *words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    pytest.importorskip(MODULES[name])
    code = f"import sys, {MODULES[name]} as command; sys.exit(command.main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
    )


@pytest.mark.parametrize("name", MODULES)
def test_answers(name: str) -> None:
    done = ask(name, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {__version__}\n", "")
    done = ask(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name} ")
    assert "--version " in done.stdout
    assert "show program's version number and exit" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("word", ["--help", "--version"])
@pytest.mark.parametrize("name", MODULES)
def test_answers_that_cannot_be_written(name: str, word: str) -> None:
    with open("/dev/full", "w") as full:
        done = ask(name, word, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (40, f"{name}: cannot write: stdout: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = ask(name, word, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_answers_of_a_part() -> None:
    with open("/dev/full", "w") as full:
        for name, part in (("edge-bench", "several"), ("edge-phantom", "draw")):
            done = ask(name, part, "--help", stdout=full.fileno())
            assert (done.returncode, done.stderr.split(":")[0]) == (40, f"{name} {part}")
