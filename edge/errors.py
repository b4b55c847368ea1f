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

    def __init__(
        self,
        message: str = "this bundle does not say how its findings are coded (it has no coding.json)",
        *,
        hint: str = "make the text report (sr, fhir), or add a table with edge-export --coding",
    ) -> None:
        super().__init__(message, hint=hint)


class InputError(EdgeError):
    """Base of everything that can be wrong with a film."""

    kind = "bad input"
    exit_code = 20


class CannotRead(InputError):
    """The file is missing, may not be opened, or its disk or network fails while it is read."""

    kind = "cannot read"
    exit_code = 20


class NotAnImage(InputError):
    """The file's content is neither DICOM nor a PNG or JPEG picture."""

    kind = "not DICOM or a picture"
    exit_code = 21


class CorruptInput(InputError):
    """The file ends early, contradicts itself, or holds values that cannot be used."""

    kind = "corrupt or truncated"
    exit_code = 22


class UnsupportedModality(InputError):
    """The header names a modality other than CR, DX, DR, RG and RF, or another kind of object."""

    kind = "unsupported modality"
    exit_code = 23


class NotFrontalChest(InputError):
    """A named body part other than the chest, or a lateral or oblique view. ``--force`` overrides it."""

    kind = "not a frontal chest film"
    exit_code = 24
    soft = True


class NoPixelData(InputError):
    """A DICOM object that holds no pixel data, or keeps it elsewhere."""

    kind = "no pixel data"
    exit_code = 25


class UnsupportedPixels(InputError):
    """Colour, several frames, or a depth, a size or a type that no film has."""

    kind = "unsupported pixels"
    exit_code = 26


class UnsupportedTransferSyntax(InputError):
    """The pixels are compressed in a way that is not taken, or whose decoder is not installed."""

    kind = "unsupported transfer syntax"
    exit_code = 27


class BundleError(InputError):
    """The model bundle is missing, damaged, or of another format version."""

    kind = "bundle"
    exit_code = 30


class OutputError(EdgeError):
    """A file or a folder cannot be written."""

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
    """Base of what can fail while a model runs: memory, numbers that are not finite, a graph that fails."""

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
    """The caller stopped the report before it was complete."""

    kind = "cancelled"
    exit_code = 83
