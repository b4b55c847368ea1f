# SPDX-License-Identifier: Apache-2.0
"""Importing the package and asking for help cost next to nothing, and need no inference runtime."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import edge

HEAVY = (
    "numpy",
    "cv2",
    "onnxruntime",
    "pydicom",
    "PIL",
    "tokenizers",
    "torch",
    "safetensors",
    "json",
    "logging",
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_edge_imports_nothing_heavy() -> None:
    out = run(f"import sys, edge; print([name for name in {HEAVY} if name in sys.modules])")
    assert out.strip() == "[]"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edge.cli.report import main; code = main(['--help']); "
        f"print('LOADED', code, [name for name in {HEAVY} if name in sys.modules])"
    )
    assert run(code).splitlines()[-1] == "LOADED 0 []"


def test_help_is_quick() -> None:
    """Under 150 ms of processor time with the interpreter's own start, the best of five."""

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-P", "-m", "edge.cli.report", "--help"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cost() for _ in range(5)) < 0.150


def test_every_public_name_resolves() -> None:
    for name in edge.__all__:
        assert getattr(edge, name) is not None
        assert name in dir(edge)
    with pytest.raises(AttributeError):
        edge.nothing  # noqa: B018


def test_every_error_is_an_edge_error() -> None:
    from edge import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) > 10
    for value in classes:
        assert issubclass(value, edge.EdgeError)
        assert getattr(edge, value.__name__) is value


@pytest.mark.parametrize(
    "stub",
    ["raise ImportError('none')", "pass"],  # not installed; a folder left by a half-removed onnxruntime-gpu
)
def test_without_onnxruntime(tmp_path: Path, pristine: Path, stub: str) -> None:
    (tmp_path / "onnxruntime.py").write_text(stub)
    out = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import edge\n"
        f"try: edge.load({str(pristine)!r})\n"
        "except edge.MissingRuntime as error: print(error.exit_code, error)"
    )
    assert out.startswith("81 ")
    assert 'pip install "edge-report[cpu]"' in out
    assert 'pip install "edge-report[gpu]"' in out
