# SPDX-License-Identifier: Apache-2.0
"""Importing the package and asking for help cost next to nothing, and need no inference runtime."""

from __future__ import annotations

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
    """Under 150 ms of imports, as ``python -X importtime`` counts them; the best of three."""

    def cost() -> float:
        done = subprocess.run(
            [sys.executable, "-P", "-X", "importtime", "-m", "edge.cli.report", "--help"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        selves = [
            line.split("|")[0].split(":")[1] for line in done.stderr.splitlines() if line.startswith("import time:")
        ]
        return sum(int(value) for value in selves if value.strip().isdigit()) / 1e3

    assert min(cost() for _ in range(3)) < 150


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
