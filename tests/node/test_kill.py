# SPDX-License-Identifier: Apache-2.0
"""A node that is killed at random points loses no film, and reports none twice to a receiver.

Everything is real: the process ends by SIGKILL, films come from DCMTK's storescu, which sends again until it is told
that a film was taken, and reports go to DCMTK's storescp, which is killed now and then as well.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from cli_films import make_dicom
from node_parts import MODALITY, Pacs, Process, Setup, needs_dcmtk, reported_films, storescu, wait_for

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra node)")

ROOT = "1.2.826.0.1.3680043.8.498.77"


class Modality:
    """Sends films until each is acknowledged, some of them twice, and never stops before it is told to."""

    def __init__(self, folder: Path, port: int, number: int) -> None:
        self._folder, self._port, self._number = folder / str(number), port, number
        self._folder.mkdir(parents=True)
        self._stop = threading.Event()
        self.acknowledged: list[str] = []
        self.failed_sends = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(self._number)
        number = 0
        while not self._stop.is_set():
            number += 1
            uid = f"{ROOT}.{self._number}.{number}"
            film = make_dicom(self._folder / f"{number}.dcm", number, SOPInstanceUID=uid)
            again = chance.random() < 0.2
            while not self._stop.is_set():
                done = storescu(self._port, film, calling=MODALITY)
                if done.returncode == 0:
                    self.acknowledged.append(uid)
                    if not again:
                        break
                    again = False
                else:
                    self.failed_sends += 1
                    time.sleep(0.05)

    def ask_to_stop(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        self.ask_to_stop()
        self._thread.join(120)
        assert not self._thread.is_alive()


def _kill_often(setup: Setup, times: int, seed: int) -> dict[str, int]:
    chance = random.Random(seed)
    archive_folder = setup.folder / "archive"
    archive = Pacs(archive_folder)
    port = archive.port
    config = setup.write(deliver=[setup.to_pacs(port, timeout_s=5)])
    node = Process(setup, config)
    senders = setup.folder / "sending"
    modalities = [Modality(senders, setup.port, number) for number in range(1, 4)]
    before_ready = archive_kills = 0
    try:
        for kill in range(times):
            # From in the middle of the start to well into the work.
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0.05, 1.5))
                before_ready += setup.get("/ready")[0] != 200
            else:
                node.ready()
                time.sleep(chance.uniform(0.0, 0.6))
            node.kill()
            if kill % 7 == 3:
                archive.close()
                archive_kills += 1
                node = Process(setup, config)
                time.sleep(0.2)
                archive = Pacs(archive_folder, port=port)
            else:
                node = Process(setup, config)
        node.ready()
        for modality in modalities:
            modality.stop()
        films = {uid for modality in modalities for uid in modality.acknowledged}
        wait_for(lambda: set(_delivered(archive)) >= films, 60)
        wait_for(lambda: setup.metric("edge_node_undelivered_results") == 0, 30)
        assert setup.metric("edge_node_queue_films") == 0
        assert setup.metric("edge_node_dead_letters") == 0
        delivered = _delivered(archive)
        assert sorted(delivered) == sorted(films)  # none lost, and one report of each
        assert not list((setup.spool / "incoming").iterdir())
        assert node.terminate() == 0
    finally:
        for modality in modalities:
            modality.ask_to_stop()
        node.kill()
        archive.close()
    return {
        "kills": times,
        "kills_before_ready": before_ready,
        "archive_kills": archive_kills,
        "films_acknowledged": len(films),
        "acknowledgements": sum(len(modality.acknowledged) for modality in modalities),
        "failed_sends": sum(modality.failed_sends for modality in modalities),
        "reports_in_archive": len(delivered),
    }


def _delivered(archive: Pacs) -> list[str]:
    """Films that the archive has a whole report of; a killed archive leaves halves, which the node sends anew."""
    for path in archive.objects():
        if path.stat().st_size == 0:
            return []
    try:
        return reported_films(archive.objects())
    except Exception:  # one is just being written
        return []


@needs_dcmtk
def test_killed_three_times(setup: Setup) -> None:
    print(_kill_often(setup, 3, seed=7))


@needs_dcmtk
@pytest.mark.slow
def test_killed_two_hundred_times(setup: Setup) -> None:
    print(_kill_often(setup, 200, seed=11))
