# SPDX-License-Identifier: Apache-2.0
"""A vision runtime that is missing, incomplete, for another processor or somebody else's: one line that says which."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from capi import CapiError, Library
from capi_build import ROOT, run

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from capi import CapiError, Library
try:
    Library(Path(sys.argv[2])).engine(sys.argv[3], runtime=sys.argv[4], runtime_library=sys.argv[5] or None)
except CapiError as error:
    print(error.status, error)
"""


def said(library: Library, bundle: Path, runtime: str, file: Path | str, **environment: str) -> str:
    """What opening an engine says, in a process that has loaded no runtime before."""
    call = [sys.executable, "-c", PROGRAM, Path(__file__).parent, library.path, bundle, runtime, file]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("libopenvino_intel_cpu_plugin.so", "81 OpenVINO lacks its plugin for the CPU"),
        ("libopenvino_onnx_frontend.so", "81 OpenVINO lacks its reader of ONNX graphs"),
    ],
)
def test_openvino_is_incomplete(part: str, words: str, library: Library, pristine: Path, tmp_path: Path) -> None:
    """Its parts are files of their own; that one is missing is not the bundle's fault."""
    openvino = pytest.importorskip("openvino")
    for file in (Path(openvino.__file__).parent / "libs").glob("lib*.so*"):
        if not file.name.startswith(part):
            try:
                os.link(file, tmp_path / file.name)
            except OSError:
                shutil.copy(file, tmp_path / file.name)
    file = next(tmp_path.glob("libopenvino_c.so*"))
    assert said(library, pristine, "openvino", file).startswith(words)


def test_neither_is_there(library: Library, pristine: Path) -> None:
    """What is wrong with each of them is told, the one that was named among them."""
    nowhere = {"EDGE_ONNXRUNTIME_LIBRARY": "/nowhere/a.so", "EDGE_OPENVINO_LIBRARY": "/nowhere/b.so"}
    words = said(library, pristine, "auto", "", **nowhere)
    assert words.startswith("81 ")
    assert "ONNX Runtime cannot be opened: /nowhere/a.so" in words
    assert "; OpenVINO cannot be opened: /nowhere/b.so" in words
    assert words.count("\n") == 1


def test_for_another_processor(library: Library, pristine: Path, tmp_path: Path) -> None:
    """Of which the loader says that it does not exist."""
    data = bytearray(library.path.read_bytes())
    data[18] ^= 0xFF
    other = tmp_path / "libonnxruntime.so"
    other.write_bytes(data)
    for runtime in ("ort", "openvino"):
        with pytest.raises(CapiError, match=r"libonnxruntime\.so: built for another kind of processor") as caught:
            library.engine(pristine, runtime=runtime, runtime_library=str(other))
        assert caught.value.status == 81


WITH_RIGHTS = """
#include <edge_report.h>
#include <stdio.h>
int main(int count, char** arguments) {
  edge_error error;
  edge_engine* engine = NULL;
  edge_engine_open(arguments[count - 1], NULL, &engine, &error);
  puts(error.message);
  edge_engine_close(engine);
  return 0;
}
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where another user can look into."""
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes programs with another user's rights")
def test_a_program_with_more_rights_than_its_caller(library: Library, pristine: Path, open_folder: Path) -> None:
    """The caller's environment must not say which code runs with them."""
    shutil.copy(library.path, open_folder / "libedge_report.so.1")
    for file in shutil.copytree(pristine, open_folder / "bundle").iterdir():
        file.chmod(0o644)
    program = open_folder / "program"
    (open_folder / "program.c").write_text(WITH_RIGHTS)
    headers = f"-I{ROOT / 'csrc' / 'capi' / 'include'}"
    run("cc", headers, open_folder / "program.c", "-o", program, open_folder / "libedge_report.so.1",
        f"-Wl,-rpath,{open_folder}")  # fmt: skip
    environment = {**os.environ, "EDGE_ONNXRUNTIME_LIBRARY": "/nowhere.so", "EDGE_OPENVINO_LIBRARY": "/nowhere.so"}
    assert "/nowhere.so" in run(program, open_folder / "bundle", env=environment)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    words = run(program, open_folder / "bundle", env=environment)
    assert words.startswith("ONNX Runtime ")  # and not that the bundle cannot be read
    assert "/nowhere.so" not in words
