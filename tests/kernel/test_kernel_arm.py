# SPDX-License-Identifier: Apache-2.0
"""The kernels of 64-bit Arm compile elsewhere, too; `tests/helpers/emulate_arm.py` runs them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "csrc"
COMPILER = "aarch64-linux-gnu-g++"


@pytest.mark.parametrize(("level", "flags"), [("neon", []), ("neondot", ["-march=armv8.2-a+dotprod"])])
def test_compiles(level: str, flags: list[str]) -> None:
    if not shutil.which(COMPILER):
        pytest.skip(f"{COMPILER} is not installed (Debian: g++-aarch64-linux-gnu)")
    command = [COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{SOURCE}", *flags]
    done = subprocess.run(
        [*command, SOURCE / f"cpu/kernels_{level}.cpp"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
