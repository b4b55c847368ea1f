# SPDX-License-Identifier: Apache-2.0
"""What the server refuses, and every failure as one line of JSON."""

from __future__ import annotations

import logging
from typing import Any

from edge.errors import CannotReference, EdgeError, InputError, UsageError

log = logging.getLogger("edge")


class Refusal(EdgeError):
    """A request that is not served; `status` is the HTTP one."""

    kind = "refused"

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def gone() -> Refusal:
    """The film is not open, or not any more."""
    return Refusal(404, "film closed", "this film is not open any more; drop it again")


def described(error: BaseException) -> dict[str, Any]:
    """A failure for the page: ``kind``, ``message``, and ``soft`` where the film may be taken all the same.

    Only typed errors are quoted, which hold no patient data; of others the type is named.
    """
    if isinstance(error, EdgeError):
        return {"kind": error.kind, "message": str(error), "soft": error.soft}
    if isinstance(error, MemoryError):
        return {"kind": "processing", "message": "there is not enough memory", "soft": False}
    log.error("internal error (%s)", type(error).__name__)
    message = f"internal error ({type(error).__name__}); please report it"
    return {"kind": "processing", "message": message, "soft": False}


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure."""
    if isinstance(error, Refusal):
        return error.status
    if isinstance(error, UsageError):
        return 400
    return 422 if isinstance(error, (InputError, CannotReference)) else 500
