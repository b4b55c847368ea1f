# SPDX-License-Identifier: Apache-2.0
"""Typed errors. Every failure a caller can meet is an :class:`EdgeError` with a process exit code.

Exit codes follow the ranges of DCMTK's tools: 1 wrong usage, 20-39 input, 40-59 output, 60-79 network,
80-99 processing. Messages name what is wrong and what to do; they never hold patient data.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every error raised by this package.

    Attributes
    ----------
    kind : str
        Short stable name of the failure, printed by the command line.
    exit_code : int
        Process exit code used by ``edge-report``.
    soft : bool
        True where ``--force`` may override the refusal.
    hint : str
        What to do next, where the message does not say it.
    """

    kind = "error"
    exit_code = 80
    soft = False

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgeError):
    """The call itself is wrong: an unknown option value, a folder where a file was asked for."""

    kind = "usage"
    exit_code = 1


class NotCoded(UsageError):
    """Coded findings of a model whose bundle does not say how they are coded."""

    def __init__(self) -> None:
        super().__init__(
            "this bundle does not say how its findings are coded (it has no coding.json)",
            hint="make the text report (sr, fhir), or add a table with edge-export --coding",
        )


class InputError(EdgeError):
    """Base of everything that can be wrong with a film."""

    kind = "bad input"
    exit_code = 20


class CannotRead(InputError):
    kind = "cannot read"
    exit_code = 20


class NotAnImage(InputError):
    kind = "not DICOM or a picture"
    exit_code = 21


class CorruptInput(InputError):
    kind = "corrupt or truncated"
    exit_code = 22


class UnsupportedModality(InputError):
    kind = "unsupported modality"
    exit_code = 23


class NotFrontalChest(InputError):
    """A named body part other than the chest, or a lateral or oblique view. ``--force`` overrides it."""

    kind = "not a frontal chest film"
    exit_code = 24
    soft = True


class NoPixelData(InputError):
    kind = "no pixel data"
    exit_code = 25


class UnsupportedPixels(InputError):
    kind = "unsupported pixels"
    exit_code = 26


class UnsupportedTransferSyntax(InputError):
    kind = "unsupported transfer syntax"
    exit_code = 27


class BundleError(InputError):
    """The model bundle is missing, damaged, or of another format version."""

    kind = "bundle"
    exit_code = 30


class OutputError(EdgeError):
    kind = "cannot write"
    exit_code = 40


class CannotReference(OutputError):
    """The film lacks the UIDs by which a standard object would point at it."""

    kind = "cannot be referenced"
    exit_code = 41


class NetworkError(EdgeError):
    """An address cannot be listened on."""

    kind = "network"
    exit_code = 60


class ProcessingError(EdgeError):
    kind = "processing"
    exit_code = 80


class MissingRuntime(ProcessingError):
    """The inference runtime is not installed."""

    kind = "runtime missing"
    exit_code = 81


class DeviceError(ProcessingError):
    """The requested device or instruction set cannot be used."""

    kind = "device"
    exit_code = 82


class Cancelled(ProcessingError):
    kind = "cancelled"
    exit_code = 83
