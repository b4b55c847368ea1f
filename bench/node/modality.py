# SPDX-License-Identifier: Apache-2.0
"""A modality that sends films at a steady pace, each until it is acknowledged."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any


class Modality(threading.Thread):
    """Sends the same picture under ever new SOP Instance UIDs, one association per film.

    Attributes
    ----------
    acknowledged : dict
        SOP Instance UID to seconds since 1970.
    seconds : list of float
        From opening the association to the answer.
    busy, broken : int
        Answers "out of resources", and associations that failed; the film is sent again after a second.
    """

    def __init__(self, title: str, film: Any, port: int, every: float, end: float) -> None:
        super().__init__(name=title)
        self.title, self._port, self._every, self._end = title, port, every, end
        self._film = copy.deepcopy(film)  # its UID changes all the time
        self.acknowledged: dict[str, float] = {}
        self.seconds: list[float] = []
        self.busy = self.broken = 0

    def run(self) -> None:
        from pydicom.uid import generate_uid

        due = time.time()
        while time.time() < self._end:
            self._film.SOPInstanceUID = generate_uid()
            while not self._send(self._film):
                time.sleep(1.0)
            due += self._every
            time.sleep(max(0.0, due - time.time()))

    def _send(self, film: Any) -> bool:
        from pynetdicom import AE

        ae = AE(self.title)
        ae.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
        began = time.time()
        association = ae.associate("127.0.0.1", self._port, ae_title="EDGE", max_pdu=131072)
        if not association.is_established:
            self.broken += 1
            return False
        answer = association.send_c_store(film)
        now = time.time()
        association.release()
        status = answer.get("Status")
        if status == 0:
            self.acknowledged[str(film.SOPInstanceUID)] = now
            self.seconds.append(now - began)
            return True
        if status == 0xA700:
            self.busy += 1
        else:
            self.broken += 1
        return False
