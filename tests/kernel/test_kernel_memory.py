# SPDX-License-Identifier: Apache-2.0
"""Large buffers: huge pages asked for, memory taken only as rows arrive."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from small import spec_of, weights_of

from edge.decoder import Decoder, GenerationOptions
from edge.weights import map_safetensors, settle

pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="this system has no huge pages to ask for"
)
ROWS = 1 << 17


def advised() -> list[tuple[str, int]]:
    """Name and resident KB of every mapping for which huge pages were asked."""
    found, name, resident = [], "", 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if begin := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)", line):
            name = begin[1]
        elif line.startswith("Rss:"):
            resident = int(line.split()[1])
        elif line.startswith("VmFlags:") and "hg" in line.split():
            found.append((name, resident))
    return found


def test_cache_takes_memory_as_rows_arrive() -> None:
    spec = spec_of(max_positions=ROWS)
    weights = weights_of(spec)  # NumPy asks for huge pages, too
    before = len(advised()), sum(kb for _, kb in advised())
    decoder = Decoder(spec, weights, kv_dtype="fp32", threads=2)
    whole = 2 * spec["layers"] * spec["kv_heads"] * spec["head_dim"] * ROWS * 4
    assert whole > 64 << 20
    shape = (spec["layers"], spec["kv_heads"], 40, spec["head_dim"])
    decoder.set_prefix(np.ones(shape, np.float32), np.ones(shape, np.float32))
    decoder.generate(np.zeros(spec["vocab"], np.float32), GenerationOptions(max_new_tokens=4, bias_rows="none"))
    after = advised()
    assert len(after) > before[0], "no huge pages were asked for"
    taken = sum(kb for _, kb in after) - before[1]
    assert 0 < taken <= 3 * 2048, "one huge page of keys and one of values are enough"


def test_mapped_weights(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    arrays = {"a": np.arange(3 << 20, dtype=np.float32).reshape(3, -1)}
    save_file(arrays, path)
    settle(path)
    mapped = map_safetensors(path)
    np.testing.assert_array_equal(mapped["a"], arrays["a"])
    assert any(name.endswith(path.name) for name, _ in advised())
