# SPDX-License-Identifier: Apache-2.0
"""A machine without enough memory for a model: that is said, and not that the bundle is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from handmade import make_bundle, seal
from onnx import numpy_helper

pytest.importorskip("onnxruntime")
pytest.importorskip("resource")

PROGRAM = """
import resource, sys
from pathlib import Path
import numpy, onnxruntime
import edge
from edge.vision import VisionSession
bundle = edge.Bundle.open(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
most = used + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    VisionSession(bundle, device="cpu", threads=1)
except edge.EdgeError as error:
    print(f"{error.kind}: {error}")
"""


def heavy_bundle(folder: Path, megabytes: int = 200) -> Path:
    """A bundle whose graph holds so much that nobody uses."""
    make_bundle(folder)
    path = folder / "vision.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(megabytes << 18, np.float32), "ballast"))
    onnx.save(model, path)
    seal(folder, json.loads((folder / "manifest.json").read_text()))
    return folder


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heavy_bundle(tmp_path_factory.mktemp("heavy") / "bundle")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set beside what /proc says is used")
@pytest.mark.parametrize("room", [100, 300])
def test_memory_runs_out(room: int, heavy: Path) -> None:
    call = [sys.executable, "-P", "-c", PROGRAM, heavy, str(room << 20)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.stdout == "processing: not enough memory to load vision.onnx\n", done.stderr[-2000:]
