# SPDX-License-Identifier: Apache-2.0
"""The load test itself, short; ``edge-bench node`` without options is the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")


@pytest.mark.slow
def test_modalities_that_send_at_once(bundle: Path, tmp_path: Path, films: list[Path]) -> None:
    from edge_bench.cli import main

    path = tmp_path / "load.json"
    words = ["node", "--minutes", "0.5", "--every", "0.25", "--bundle", str(bundle), "--film", str(films[0])]
    assert main([*words, "--threads", "1", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert (result["lost"], result["twice"], result["given_up"], result["node_exit_code"]) == (0, 0, [], 0)
    assert result["acknowledged"] > 100
    assert result["memory_mb"]["end"] < 500
