# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of the C library, with and without the processor's instructions for it, against Python's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_both_implementations(tmp_path: Path) -> None:
    """Every length up to 1000 bytes, so every way in which a last block can be full, at even and odd addresses."""
    if shutil.which("c++") is None:
        pytest.skip("c++ is missing")
    program = tmp_path / "check"
    folder = ROOT / "csrc" / "capi"
    sources = (Path(__file__).parent / "sha256_check.cpp", folder / "sha256.cpp", folder / "sha256_x86.cpp")
    flags = ("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}")
    subprocess.run(["c++", *flags, *sources, "-o", program], check=True)
    used, *lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    data = bytes((i * 37 + i // 256) % 256 for i in range(1000))
    assert len(lines) == 1000
    for line in lines:
        begin, length, plain, best = line.split()
        expected = hashlib.sha256(data[int(begin) :][: int(length)]).hexdigest()
        assert (plain, best) == (expected, expected), line
    features = Path("/proc/cpuinfo").read_text().split()
    assert (used == "x86") == ("sha_ni" in features and "sse4_1" in features)
