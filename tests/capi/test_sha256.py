# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of the C library, with and without the processor's instructions for it, against Python's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from conftest import ROOT, run


def test_both_implementations(tmp_path: Path) -> None:
    """Every length up to 1000 bytes, so every way in which a last block can be full, at even and odd addresses."""
    program = tmp_path / "check"
    folder = ROOT / "csrc" / "capi"
    sources = (Path(__file__).parent / "sha256_check.cpp", folder / "sha256.cpp", folder / "sha256_x86.cpp")
    run("c++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", *sources, "-o", program)
    used, *lines = run(program).splitlines()
    data = bytes((i * 37 + i // 256) % 256 for i in range(1000))
    assert len(lines) == 1000
    for line in lines:
        begin, length, plain, best = line.split()
        expected = hashlib.sha256(data[int(begin) :][: int(length)]).hexdigest()
        assert (plain, best) == (expected, expected), line
    flags = Path("/proc/cpuinfo").read_text().split()
    assert (used == "x86") == ("sha_ni" in flags and "sse4_1" in flags)
