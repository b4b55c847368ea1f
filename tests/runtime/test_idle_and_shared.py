# SPDX-License-Identifier: Apache-2.0
"""A warm engine costs nothing while it waits, and its weights are one copy for all processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge.bundle import DEMO

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
SAMPLE = Path(__file__).parents[2] / "examples" / "phantom.dcm"

WARM = f"""
import os, sys, time
import edge
engine = edge.load(threads=2)
engine.report({str(SAMPLE)!r})
"""


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WARM + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_warm_engine_holds_no_processor() -> None:
    """All threads of the process (kernel, ONNX Runtime, cv2) and the decoding worker, over one second."""
    code = """
from edge.film.sandbox import shared
def spent():
    ticks = open(f"/proc/{shared().pid}/stat").read().rpartition(")")[2].split()
    return time.process_time() + (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
time.sleep(0.2)
before = spent()
time.sleep(1.0)
print(spent() - before, len(os.listdir("/proc/self/task")))
"""
    out, _ = start(code).communicate(timeout=120)
    seconds, threads = out.split()
    assert int(threads) >= 2
    assert float(seconds) < 0.02


def mapping(pid: int) -> dict[str, int]:
    """Kilobytes of the weights file's mapping, as the system counts them."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    found: dict[str, int] = {}
    inside = False
    for line in text.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(DEMO.resolve() / "decoder.safetensors"))
            found["mappings"] = found.get("mappings", 0) + inside
        elif inside and (match := re.match(r"(\w+): +(\d+) kB", line)):
            found[match[1]] = found.get(match[1], 0) + int(match[2])
    return found


def test_processes_share_the_weights() -> None:
    """Two processes: both read the weights from one mapping of the file, and none has a page of its own."""
    both = [start("print('ready', flush=True); sys.stdin.read()") for _ in range(2)]
    try:
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in both:
            found = mapping(process.pid)
            assert found["mappings"] >= 1
            assert found["Private_Dirty"] == found["Anonymous"] == 0
            assert found["Rss"] > 0.5 * found["Size"]  # it is read from here, and not from a copy
            assert found["Private_Clean"] < 0.1 * found["Rss"]
            assert found["Shared_Clean"] > 0.9 * found["Rss"]
    finally:
        for process in both:
            process.communicate("", timeout=30)


def test_weights_are_views_of_the_file() -> None:
    from edge.bundle import Bundle

    arrays = Bundle.open(DEMO).weights()
    assert len(arrays) > 10
    for name, array in arrays.items():
        assert not array.flags.owndata, name
        assert not array.flags.writeable, name
