# SPDX-License-Identifier: Apache-2.0
"""Commands whose standard streams were closed by whoever started them, or who are to ignore Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom.dcm"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors and signals of POSIX systems")


def closing(
    redirections: str, command: list[str], *words: str, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    line = ["sh", "-c", f'exec "$@" {redirections}', "sh", *command, *words]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_compressed_film(closed: str, command: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """The pipes to the decoding worker must not become anybody's standard streams."""
    target = tmp_path / "report.txt"
    result = closing(closed, command, "-q", "-o", str(target), str(PHANTOM), env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert target.read_text()


def test_stdout_by_its_name(films: list[Path], command: list[str], environment: dict[str, str]) -> None:
    result = closing("<&- >&-", command, "-o", "/dev/stdout", str(films[0]), env=environment)
    assert result.returncode == 40
    assert result.stderr.splitlines()[-1] == "edge-report: /dev/stdout: cannot write: no such descriptor is open"


@pytest.mark.parametrize(
    "module", ["edge_export.cli", "edge_export.phantom.cli", "edge_bench.cli", "edge.node.cli", "edge.review.cli"]
)
def test_lines_for_a_closed_stderr_do_not_go_to_stdout(module: str) -> None:
    pytest.importorskip(module)
    code = f"import sys, {module} as command; sys.exit(command.main())"
    result = closing("2>&-", [sys.executable, "-P", "-c", code], "--no-such-option", env=dict(os.environ))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


def test_a_background_job_is_not_interrupted(
    films: list[Path], command: list[str], environment: dict[str, str]
) -> None:
    """A shell without job control has its background jobs ignore Ctrl-C, as does nohup."""
    process = subprocess.Popen(
        [*command, str(films[0])],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    out, err = process.communicate()
    assert (process.returncode, bool(out)) == (0, True), err
