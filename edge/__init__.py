# SPDX-License-Identifier: Apache-2.0
"""edge-report: a chest radiograph in, a draft of its findings out, on the device at hand.

>>> import edge
>>> engine = edge.load()                      # the demo bundle; or edge.load("path/to/bundle")
>>> report = engine.report("film.dcm")        # doctest: +SKIP
>>> print(report.findings)                    # doctest: +SKIP

Importing the package imports nothing heavy: every public name is resolved on first use (:pep:`562`).
Drafts are for research; the package is not a medical device.
"""

from __future__ import annotations

from importlib import import_module

from edge.version import __version__

TYPE_CHECKING = False  # typing's own is not worth its import: this is on the way of every command
if TYPE_CHECKING:
    from typing import Any

    from edge.bundle import Bundle
    from edge.engine import Engine, load
    from edge.errors import (
        BundleError,
        Cancelled,
        CannotRead,
        CannotReference,
        CorruptInput,
        DeviceError,
        EdgeError,
        InputError,
        MissingRuntime,
        NetworkError,
        NoPixelData,
        NotAnImage,
        NotCoded,
        NotFrontalChest,
        OutputError,
        ProcessingError,
        UnsupportedModality,
        UnsupportedPixels,
        UnsupportedTransferSyntax,
        UsageError,
    )
    from edge.film import Film, read_film
    from edge.report import Evidence, Report, Sentence
    from edge.session import Completion, FilmSession
    from edge.study import Study

    CancelToken: Any

_HOME = {
    "load": "edge.engine",
    "Engine": "edge.engine",
    "Bundle": "edge.bundle",
    "Report": "edge.report",
    "Sentence": "edge.report",
    "Evidence": "edge.report",
    "FilmSession": "edge.session",
    "Completion": "edge.session",
    "Study": "edge.study",
    "Film": "edge.film",
    "read_film": "edge.film",
    "CancelToken": "edge._kernel",
    **dict.fromkeys(
        (
            "EdgeError",
            "UsageError",
            "NotCoded",
            "InputError",
            "CannotRead",
            "CannotReference",
            "NotAnImage",
            "CorruptInput",
            "UnsupportedModality",
            "NotFrontalChest",
            "NoPixelData",
            "UnsupportedPixels",
            "UnsupportedTransferSyntax",
            "BundleError",
            "NetworkError",
            "OutputError",
            "ProcessingError",
            "MissingRuntime",
            "DeviceError",
            "Cancelled",
        ),
        "edge.errors",
    ),
}

__all__ = [
    "Bundle",
    "BundleError",
    "CancelToken",
    "Cancelled",
    "CannotRead",
    "CannotReference",
    "Completion",
    "CorruptInput",
    "DeviceError",
    "EdgeError",
    "Engine",
    "Evidence",
    "Film",
    "FilmSession",
    "InputError",
    "MissingRuntime",
    "NetworkError",
    "NoPixelData",
    "NotAnImage",
    "NotCoded",
    "NotFrontalChest",
    "OutputError",
    "ProcessingError",
    "Report",
    "Sentence",
    "Study",
    "UnsupportedModality",
    "UnsupportedPixels",
    "UnsupportedTransferSyntax",
    "UsageError",
    "__version__",
    "load",
    "read_film",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
