# SPDX-License-Identifier: Apache-2.0
"""No further thread can be started, as under a container's limit of processes: a typed error, nothing on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PHANTOM = Path(__file__).parents[2] / "examples" / "phantom.dcm"

CHILD = """
import os, resource, sys
import edge, edge.decoder, edge.prepare, edge.vision.ort
from edge.bundle import DEMO

data = open(sys.argv[1], "rb").read()
engine = edge.load(DEMO)
weights = engine.bundle.weights()
engine.report(data)  # all modules are there, and the decoding worker
if os.getuid() == 0:  # whom no limit holds
    os.setgid(65534)
    os.setuid(65534)
if not os.access(DEMO / "manifest.json", os.R_OK):
    sys.exit(77)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

def ahead():
    with edge.prepare.Ahead([sys.argv[1]], {}):
        pass

for work in (
    edge.load,
    lambda: engine.report(data),
    ahead,
    lambda: edge.vision.ort.OrtBackend(DEMO / "vision.onnx", device="cpu", threads=3),
    lambda: edge.decoder.Decoder(engine.manifest.decoder, weights, threads=3),
):
    try:
        work()
    except edge.ProcessingError as error:
        print(error)
    else:
        print("a thread was started")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of Linux")
def test_no_further_thread() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", CHILD, str(PHANTOM)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if result.returncode == 77:
        pytest.skip("another user may not read this installation")
    assert result.stderr == ""
    line = "no further thread can be started: the limit of processes is reached (ulimit -u, a container's pids)\n"
    assert result.stdout == 5 * line
