# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out while a decoder works: a MemoryError, the process goes on, and so does the decoder later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small import need_digits

pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the limit is set beside what /proc says is used"
)

START = """
import contextlib, os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import small
import edge._kernel as kernel

@contextlib.contextmanager
def no_more_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def prefix(spec, rows):
    return np.ones((spec["layers"], spec["heads"], rows, spec["head_dim"]), np.float32)
"""

# What every thread needs for products of bytes, 2 MB and more: wide rows. A team with more members than processors
# leaves none out, however busy the machine is.
THREADS = """
spec = small.spec_of(layers=1, mlp=40000)
decoder = kernel.Decoder(spec, small.weights_of(spec, "int8"), threads=os.cpu_count() + 1, isa=sys.argv[2])
decoder.set_prefix(prefix(spec, 8), prefix(spec, 8))
ids = np.ones(2, np.int32)
with no_more_memory():
    try:
        decoder.forward(ids, bias=False)
    except MemoryError:
        print("no memory")
print(np.isfinite(decoder.forward(ids, bias=False)).all())
"""

# Of a film's bias, 8 MB: the film before it is gone then, and half of each is no film.
FILM = """
spec = small.spec_of(layers=2, max_positions=1 << 20, heads=1, kv_heads=1, head_dim=4, hidden=4, mlp=32)
decoder = kernel.Decoder(spec, small.weights_of(spec), threads=1, isa=sys.argv[2])
decoder.set_prefix(prefix(spec, 8), prefix(spec, 8))
keys, bias = prefix(spec, 100), np.zeros((2, 100), np.float32)
with no_more_memory():
    try:
        decoder.set_prefix(keys, keys, bias)
    except MemoryError:
        print("no memory")
try:
    decoder.forward(np.ones(2, np.int32), bias=False)
except ValueError as error:
    print(error)
decoder.set_prefix(keys, keys, bias)
print(np.isfinite(decoder.forward(np.ones(2, np.int32), bias=False)).all())
"""

# Of a sketch, 3 MB: its text needs none.
SKETCH = """
spec = small.spec_of(layers=1, hidden=512, heads=8, kv_heads=8, head_dim=64, mlp=2048)
decoder = kernel.Decoder(spec, small.weights_of(spec), threads=1, isa=sys.argv[2], sketch=True)
decoder.set_prefix(prefix(spec, 8), prefix(spec, 8))
def write(sketch):
    return decoder.generate(begin_ids=[1], bias_rows="none", max_new_tokens=30, draft=True, sketch=sketch)
alone = write(False)
with no_more_memory():
    short = write(True)
print(short.token_ids == alone.token_ids, short.sketch_passes)
later = write(True)
print(later.token_ids == alone.token_ids, later.sketch_passes > 0)
"""


def said(program: str, isa: str) -> list[str]:
    call = [sys.executable, "-P", "-c", START + program, str(Path(__file__).parent), isa]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_of_the_threads() -> None:
    assert said(THREADS, need_digits()) == ["no memory", "True"]


def test_of_a_film() -> None:
    assert said(FILM, "generic") == ["no memory", "set_prefix must be called first", "True"]


def test_of_a_sketch() -> None:
    assert said(SKETCH, "generic") == ["True 0", "True True"]
