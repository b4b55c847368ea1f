# SPDX-License-Identifier: Apache-2.0
"""Which films are accepted, in which encodings.

CR Image, Digital X-Ray *for presentation*, and Secondary Capture (older CR readers and film digitisers send that; the
reader takes it where its Modality says CR or DX). Digital X-Ray *for processing* is left out: modalities send it beside
the presentation image, so one film would be reported twice, and from pixels no model was trained on; a site whose
modality sends nothing else adds ``DX-FOR-PROCESSING``. ``RF`` (spot films) likewise. Everything else is refused in
the negotiation, where the modality's log shows it. Transfer syntaxes: every one the reader has a decoder for.
"""

from __future__ import annotations

from typing import Any

_SOP = "1.2.840.10008.5.1.4.1.1."
_CLASSES = {
    "CR": (_SOP + "1",),
    "DX": (_SOP + "1.1",),
    "DX-FOR-PROCESSING": (_SOP + "1.1.1",),
    "SC": (_SOP + "7", _SOP + "7.2", _SOP + "7.3"),  # single frame; grey scale of 8 and of 16 bits
    "RF": (_SOP + "12.2",),
}
VERIFICATION = "1.2.840.10008.1.1"


def sop_classes(accept: tuple[str, ...]) -> list[str]:
    """SOP Class UIDs of the kinds of film named in the configuration."""
    return [uid for name in accept for uid in _CLASSES[name]]


def transfer_syntaxes() -> list[str]:
    """Transfer syntaxes with a decoder at hand; what an older peer must be able to send comes first."""
    from edge.errors import UnsupportedTransferSyntax
    from edge.film.checks import check_syntax
    from edge.film.terms import SYNTAXES

    found = []
    for uid in SYNTAXES:
        try:
            check_syntax(uid)
        except UnsupportedTransferSyntax:
            continue
        found.append(uid)
    return found


def contexts(accept: tuple[str, ...]) -> list[Any]:
    """Presentation contexts for pynetdicom: verification and the storage of films."""
    from pynetdicom.presentation import build_context

    encodings = transfer_syntaxes()
    plain = encodings[:2]
    return [build_context(VERIFICATION, plain), *(build_context(uid, encodings) for uid in sop_classes(accept))]
