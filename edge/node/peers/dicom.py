# SPDX-License-Identifier: Apache-2.0
"""A DICOM peer (a PACS) that gets the objects by C-STORE."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.node.peers.kinds import Away, Refused
from edge.node.states import end_quietly

if TYPE_CHECKING:
    from edge.node.config import Deliver

_CLASSES = {
    "sr": "1.2.840.10008.5.1.4.1.1.88.11",
    "sr-tid1500": "1.2.840.10008.5.1.4.1.1.88.34",
    "capture": "1.2.840.10008.5.1.4.1.1.7",
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
}
_SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]  # Explicit and Implicit VR Little Endian
_DUPLICATE = 0x0111
"""Duplicate SOP instance: it has the object already, which is all we want."""
KEEP_OPEN = 64
"""Films that go over one association before it is closed and opened anew."""


class DicomReceiver:
    """Keeps one association open while there is something to send.

    Parameters
    ----------
    settings : Deliver
    ae_title : str
        Ours.
    """

    def __init__(self, settings: Deliver, ae_title: str) -> None:
        from pynetdicom import AE, evt

        self._opened = [(evt.EVT_CONN_OPEN, lambda event: end_quietly(event.assoc))]
        self._settings = settings
        self._ae = AE(ae_title)
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = settings.timeout_s
        self._ae.connection_timeout = min(settings.timeout_s, 15.0)
        for kind in settings.objects:
            self._ae.add_requested_context(_CLASSES[kind], _SYNTAXES)
        self._tls = client_context(settings)
        self._assoc: Any = None
        self._sent = 0

    def send(self, files: Sequence[Path]) -> None:
        from pydicom import dcmread

        if self._assoc is None or not self._assoc.is_established or self._sent >= KEEP_OPEN:
            self.close()
            self._open()
        self._sent += 1
        for number, file in enumerate(files, 1):
            dataset = dcmread(file)
            try:
                answer = self._assoc.send_c_store(dataset, msg_id=number)
            except ValueError:
                raise Refused(f"it did not agree to take objects of class {dataset.SOPClassUID}") from None
            except (RuntimeError, AttributeError) as error:
                self.close()
                raise Away(f"the association broke ({type(error).__name__})") from None
            self._judge(answer)

    def _judge(self, answer: Any) -> None:
        status = answer.get("Status", None)
        if status is None:
            self.close()
            raise Away("no answer; the association ended")
        status = int(status)
        if status in (0x0000, _DUPLICATE) or status & 0xF000 == 0xB000:  # success; with a warning, it is stored too
            return
        if status & 0xFF00 == 0xA700:
            raise Away(f"out of resources (0x{status:04X})")
        raise Refused(f"status 0x{status:04X}")

    def _open(self) -> None:
        settings = self._settings
        tls = (self._tls, settings.host) if self._tls is not None else None
        try:
            assoc = self._ae.associate(
                settings.host, settings.port, ae_title=settings.ae_title, tls_args=tls, evt_handlers=self._opened
            )
        except (OSError, RuntimeError, ValueError) as error:  # an unknown host name is one
            raise Away(f"no connection ({type(error).__name__})") from None
        if not assoc.is_established:
            rejected = assoc.is_rejected
            assoc.kill()
            raise Away("it rejected the association" if rejected else "no association")
        with contextlib.suppress(OSError, AttributeError):
            # A request goes out in two parts; the second would wait for the receiver's delayed acknowledgement (40 ms).
            assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._assoc, self._sent = assoc, 0

    def close(self) -> None:
        assoc, self._assoc = self._assoc, None
        if assoc is None:
            return
        if assoc.is_established:
            assoc.release()
        else:
            assoc.kill()


def client_context(settings: Deliver) -> ssl.SSLContext | None:
    """The TLS context towards a receiver: its certificate is checked, by the given CA or the system's."""
    if settings.tls is None:
        return None
    context = ssl.create_default_context(cafile=settings.tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls.cert is not None:
        context.load_cert_chain(settings.tls.cert, settings.tls.key)
    return context
