# SPDX-License-Identifier: Apache-2.0
"""Errors of the exporter; exit codes in the ranges of :mod:`edge.errors`."""

from __future__ import annotations

from edge.errors import BundleError, CannotRead, CorruptInput, EdgeError, InputError, OutputError, UsageError

__all__ = [
    "BadCheckpoint",
    "BundleError",
    "CannotRead",
    "CorruptInput",
    "EdgeError",
    "ExportError",
    "OutputError",
    "UsageError",
]


class BadCheckpoint(InputError):
    """The checkpoint is readable but not a model this exporter knows: another family, or weights that do
    not fit."""

    kind = "checkpoint"
    exit_code = 31


class ExportError(EdgeError):
    """The exported graph does not compute what the PyTorch model computes; nothing was written."""

    kind = "export"
    exit_code = 84
