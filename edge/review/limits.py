# SPDX-License-Identifier: Apache-2.0
"""How much the page may ask of the machine."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    Attributes
    ----------
    upload_bytes : int
        Of one film's file.
    uploads : int
        Films read at the same time; further ones are refused.
    sessions : int
        Films open at the same time; the one longest unused makes room.
    session_bytes : int
        What open films may hold together, beside those in the making.
    idle_seconds : float
        After so long without use a film is forgotten.
    chunk_seconds, upload_seconds : float
        Longest pause within an upload, and longest upload.
    json_bytes : int
        Of any other request's body.
    text_chars, sentences : int
        Of the findings in a request.
    """

    upload_bytes: int = 128 * MIB
    uploads: int = 2
    sessions: int = 8
    session_bytes: int = 1024 * MIB
    idle_seconds: float = 30 * 60.0
    chunk_seconds: float = 20.0
    upload_seconds: float = 120.0
    json_bytes: int = 256 << 10
    text_chars: int = 20_000
    sentences: int = 500
