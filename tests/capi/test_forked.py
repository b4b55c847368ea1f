# SPDX-License-Identifier: Apache-2.0
"""A child process: the parent's engine is refused there, one of its own works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from capi import Library
from capi_build import ROOT

PROGRAM = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from capi import CapiError, Library
from handmade import chest_picture
library = Library(Path(sys.argv[3]))
film = library.film_of_array(chest_picture())
def opened():
    return library.engine(sys.argv[4], runtime=sys.argv[5], runtime_library=sys.argv[6], threads=2)
parents = opened()
expected = parents.report(film)["token_ids"]
child = os.fork()
if child == 0:
    code = 1
    try:
        assert parents.info["software"]
        try:
            parents.report(film)
        except CapiError as error:
            assert error.status == 80 and "fork" in str(error), error
            own = opened()
            assert own.report(film)["token_ids"] == expected
            own.close()
            code = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    os._exit(code)
assert os.waitpid(child, 0)[1] == 0
assert parents.report(film)["token_ids"] == expected
parents.close()
print("fine")
"""


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_a_child_process(runtime: str, library: Library, pristine: Path, onnxruntime_file: Path) -> None:
    file = onnxruntime_file
    if runtime == "openvino":
        openvino = pytest.importorskip("openvino")
        file = next((Path(openvino.__file__).parent / "libs").glob("libopenvino_c.so*"))
    folders = [Path(__file__).parent, ROOT / "tests" / "runtime"]
    call = [sys.executable, "-c", PROGRAM, *folders, library.path, pristine, runtime, file]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr[-2000:]
