# SPDX-License-Identifier: Apache-2.0
"""After a film the memory that a large graph took goes back to the system, by either runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from capi import Library
from capi_build import run
from test_memory_runs_out import heavy_bundle

COUNTER = """
#include <stddef.h>
static int count = 0;
int malloc_trim(size_t pad) { (void)pad; ++count; return 0; }
int heap_trims(void) { return count; }
"""
PROGRAM = """
import ctypes, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from capi import Library
from handmade import chest_picture
library, trims, told = Library(Path(sys.argv[3])), ctypes.CDLL(None).heap_trims, []
film = library.film_of_array(chest_picture())
for bundle in sys.argv[6:]:
    before = trims()
    engine = library.engine(bundle, runtime=sys.argv[4], runtime_library=sys.argv[5])
    told.append(trims() - before)
    for _ in range(2):
        before = trims()
        engine.report(film)
        told.append(trims() - before)
    engine.close()
print(*told)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")
@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_a_large_graph_gives_its_memory_back(
    runtime: str, library: Library, pristine: Path, onnxruntime_file: Path, tmp_path: Path
) -> None:
    file = onnxruntime_file
    if runtime == "openvino":
        openvino = pytest.importorskip("openvino")
        file = next((Path(openvino.__file__).parent / "libs").glob("libopenvino_c.so*"))
    (tmp_path / "counter.c").write_text(COUNTER)
    run("cc", "-shared", "-fPIC", "-o", tmp_path / "counter.so", tmp_path / "counter.c")
    heavy = heavy_bundle(tmp_path / "heavy", 70)
    folders = [Path(__file__).parent, Path(__file__).parents[1] / "runtime"]
    call = [sys.executable, "-c", PROGRAM, *folders, library.path, runtime, file, pristine, heavy]
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "counter.so"), "EDGE_VISION_CACHE": "off"}
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    opened, first, second, heavy_opened, heavy_first, heavy_second = map(int, done.stdout.split())
    assert (heavy_first, heavy_second) == (first + 1, second + 1)
    assert (first, second) == (0, 0)
    assert opened == heavy_opened == (1 if runtime == "openvino" else 0)  # compiling leaves much behind
