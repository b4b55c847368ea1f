# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: films are refused with "out of resources", and what is there still gets delivered."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_films import make_dicom
from node_parts import Setup, free_port, wait_for
from test_delivery import Archive
from test_hostile import send

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")


@pytest.fixture
def small_disk(setup: Setup) -> Iterator[Path]:
    """The spool on a file system of 3 MB."""
    setup.spool.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(setup.spool)], capture_output=True)
    if mount.returncode:
        pytest.skip("no file system can be mounted here")
    yield setup.spool
    subprocess.run(["umount", "--lazy", str(setup.spool)], check=True)


def fill(path: Path, left: int = 0) -> None:
    import os

    with open(path, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(65536))
        except OSError:
            pass
        stream.truncate(max(0, os.fstat(stream.fileno()).st_size - left))


def test_a_full_disk(start, setup: Setup, small_disk: Path, films: list[Path], tmp_path: Path) -> None:
    port, filler = free_port(), small_disk / "filler"
    large = make_dicom(tmp_path / "large.dcm", 70, Rows=1000, Columns=1000, PixelData=bytes(range(250)) * 4000)
    running = start(deliver=[setup.to_pacs(port)], queue={"min_free_mb": 0})
    assert send(running, films[0]) == 0
    wait_for(lambda: running.spool.counts() == {"films": 0, "undelivered": 1, "dead": 0})
    fill(filler, left=300_000)
    assert send(running, large) == 0xA700  # it does not fit
    fill(filler)
    assert send(running, films[1]) == 0xA700  # nothing fits
    archive = Archive(port, 0)
    running.settle()  # marks are empty files: the result is delivered and ended with no byte left
    assert len(archive.seen) == 1
    filler.unlink()
    assert send(running, large) == 0
    assert send(running, films[1]) == 0
    running.settle()
    archive.close()
    assert len(set(archive.seen)) == len(archive.seen) == 3
    assert running.spool.counts()["dead"] == 0


def test_a_disk_that_fills_while_films_are_reported(start, setup: Setup, small_disk: Path, films: list[Path]) -> None:
    running = start(queue={"min_free_mb": 0})
    running.node.worker.stop()  # films are taken and wait
    for film in films[:4]:
        assert send(running, film) == 0
    running.close()
    fill(small_disk / "filler")
    again = start(queue={"min_free_mb": 0})
    wait_for(lambda: setup.metric('edge_node_failures_total{stage="report",kind="disk"}') >= 4)
    assert again.spool.counts() == {"films": 4, "undelivered": 0, "dead": 0}
    (small_disk / "filler").unlink()
    again.settle()
    assert len(list(setup.out.iterdir())) == 4
    assert again.spool.counts()["dead"] == 0
