# SPDX-License-Identifier: Apache-2.0
"""A bundle's table of coded findings, ``coding.json`` (docs/coding.md): into a new bundle, or into a copy of one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edge.bundle import Bundle
from edge.coding.table import parse_coding

from . import bundle_writer as writer
from .errors import BundleError, UsageError


def read_coding(path: Path) -> bytes:
    """The bytes of a table.

    Raises
    ------
    UsageError
        It cannot be read, or is no table of which every label could be used.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    _parse(data, coding_labels(data))
    return data


def coding_labels(data: bytes) -> list[str]:
    """The names of the labels that a table codes."""
    try:
        labels = json.loads(data)["labels"]
        return [str(name) for name in labels]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UsageError("the coding table is no JSON object with labels; see docs/coding.md") from None


def name_coding(manifest: dict[str, Any], data: bytes | None) -> None:
    """Let a manifest name the table; one without labels gets the table's.

    Raises
    ------
    UsageError
        The table and the manifest's labels do not fit.
    """
    if data is None:
        return
    manifest["labels"] = manifest["labels"] or coding_labels(data)
    manifest["coding"] = writer.CODING
    _parse(data, manifest["labels"])


def write_coding(stage: Path, data: bytes | None) -> None:
    """Put the table into a staged bundle."""
    if data is not None:
        (stage / writer.CODING).write_bytes(data)


def add_coding_table(bundle: Path, data: bytes, out: Path, *, force: bool = False) -> str:
    """Write a copy of `bundle` with the table, in place of one it may have; the model stays as it is.

    Parameters
    ----------
    bundle, out : Path
        May be the same folder, with `force`.

    Returns
    -------
    str
        SHA-256 of the new manifest.

    Raises
    ------
    BundleError, UsageError, OutputError
    """
    opened = Bundle.open(bundle)
    manifest = json.loads((opened.path / "manifest.json").read_bytes())
    listed = {name: opened.file(name) for name in opened.manifest.files}
    old = opened.manifest.coding_file
    if old is None and writer.CODING in listed:
        raise UsageError(f"the bundle uses the name {writer.CODING} for something else")
    del manifest["format_version"], manifest["files"]
    name_coding(manifest, data)
    with writer.staged_bundle(out, force=force) as stage:
        for name, path in listed.items():
            if name != old:
                shutil.copyfile(path, stage / name)
        write_coding(stage, data)
        return writer.write_manifest(stage, manifest)


def _parse(data: bytes, labels: list[str]) -> None:
    try:
        parse_coding(data, labels)
    except BundleError as error:
        raise UsageError(f"the coding table: {error}") from None
