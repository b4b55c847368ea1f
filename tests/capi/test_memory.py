# SPDX-License-Identifier: Apache-2.0
"""The C library where memory runs out in ONNX Runtime: a failure of its own, not a damaged bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from capi import Library
from test_memory_runs_out import heavy_bundle

PROGRAM = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from capi import CapiError, Library
library, runtime = Library(Path(sys.argv[2])), sys.argv[3].encode()
library.engine(sys.argv[5], runtime=b"ort", runtime_library=runtime)  # loads the runtime itself
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
most = used + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    library.engine(sys.argv[4], runtime=b"ort", runtime_library=runtime)
except CapiError as error:
    print(error.status, error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set beside what /proc says is used")
def test_memory_runs_out(library: Library, demo: Path, onnxruntime_file: Path, tmp_path: Path) -> None:
    folder = heavy_bundle(tmp_path / "bundle")
    call = [sys.executable, "-c", PROGRAM, Path(__file__).parent, library.path, onnxruntime_file, folder, demo]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.stdout == "80 there is not enough memory\n", done.stdout + done.stderr[-2000:]
