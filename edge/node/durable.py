# SPDX-License-Identifier: Apache-2.0
"""Files that are there after a power cut: written, synced, then renamed, and the folder synced too.

A rename within a file system is atomic; that is what every step of the spool is made of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it; its name is durable only once its folder is synced."""
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def also_at(source: Path, target: Path) -> None:
    """Give a synced file a second name; where the file system has no hard links (FAT, exFAT, many a network share) a
    synced copy of it."""
    try:
        os.link(source, target)
    except OSError:
        write_synced(target, source.read_bytes())


def move(source: Path, target: Path) -> bool:
    """Rename a folder and sync both ends; False where `target` is already there (nothing is changed then)."""
    try:
        os.rename(source, target)  # onto a folder that is not empty it fails, and all of ours hold files
    except OSError:
        if target.exists() and source.exists():
            return False
        raise
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)
    return True


def touch(path: Path) -> None:
    """An empty file that marks something, durable at once; no harm where it is there already."""
    with open(path, "ab"):
        pass
    sync_folder(path.parent)


def throw_away(path: Path, bin_: Path) -> None:
    """Remove a folder so that no half of it is ever seen in its place: renamed into the bin, then removed."""
    gone = bin_ / uuid.uuid4().hex
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    sync_folder(path.parent)
    with contextlib.suppress(OSError):
        shutil.rmtree(gone)


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
