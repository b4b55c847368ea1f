# SPDX-License-Identifier: Apache-2.0
"""Writes a bundle folder: every file into a temporary sibling, hashed, listed, then renamed into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadCheckpoint, BundleError, OutputError, UsageError

FORMAT_VERSION = 1
VISION, WEIGHTS, TOKENIZER, CARD = "vision.onnx", "decoder.safetensors", "tokenizer.json", "MODEL_CARD.md"
DRAFT = "draft.safetensors"
CODING = "coding.json"
VISION_FP16, VISION_STATIC, VISION_TENSORRT = "vision.fp16.onnx", "vision.static.onnx", "vision.tensorrt.onnx"


def check_target(out: Path, *, force: bool) -> None:
    """Refuse early what could not be written at the end.

    Raises
    ------
    OutputError
        The path is taken and ``force`` is not given, or it is not a bundle, or its parent cannot be made.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out} exists and is not a folder")
    if out.is_dir() and any(out.iterdir()):
        if not (out / "manifest.json").is_file():
            raise OutputError(f"{out} is a folder with other things in it: choose another --out")
        if not force:
            raise OutputError(f"{out} holds a bundle already: choose another --out or add --force")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out.parent} cannot be made ({error.strerror})") from None


@contextlib.contextmanager
def staged_bundle(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place when the block ends well, else vanishes."""
    check_target(out, force=force)
    target = out.absolute()
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target.parent} is not writable ({error.strerror})") from None
    try:
        yield stage
        stage.chmod(0o755)
        _replace(stage, target)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror or type(error).__name__})") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(stage: Path, target: Path) -> None:
    if not target.exists():
        stage.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old / "bundle")
    try:
        stage.rename(target)
    except OSError:
        (old / "bundle").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def save_weights(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write decoder weights as safetensors."""
    from safetensors.numpy import save_file

    from edge.weights import settle

    save_file(arrays, path)
    path.chmod(0o644)
    settle(path)


def write_manifest(stage: Path, manifest: dict[str, Any]) -> str:
    """Hash the files of the staged bundle, write ``manifest.json``, and return the manifest's own SHA-256."""
    listed = {}
    for path in sorted(stage.iterdir()):
        listed[path.name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    data = _encode(manifest, listed)
    with open(stage / "manifest.json", "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(data).hexdigest()


def check_manifest(manifest: dict[str, Any], of_the_model: Collection[str]) -> None:
    """Let the runtime's own reader look at a manifest before the long work begins.

    Parameters
    ----------
    of_the_model : collection of str
        Sections whose values are the checkpoint's.

    Raises
    ------
    BadCheckpoint
        The runtime would refuse one of these; the message names the value.
    UsageError
        It would refuse another.
    """
    from edge.manifest import parse_manifest

    entry = {"sha256": "0" * 64, "bytes": 1}
    try:
        names = (VISION, VISION_FP16, VISION_STATIC, VISION_TENSORRT, WEIGHTS, TOKENIZER, DRAFT, CODING, CARD)
        parse_manifest(_encode(manifest, dict.fromkeys(names, entry)))
    except BundleError as error:
        section = str(error).partition(":")[0]
        kind = BadCheckpoint if section in of_the_model else UsageError
        raise kind(f"edge-report would refuse this bundle: {error}") from None


def _encode(manifest: dict[str, Any], listed: dict[str, Any]) -> bytes:
    whole = {"format_version": FORMAT_VERSION, **manifest, "files": listed}
    return json.dumps(whole, indent=1).encode() + b"\n"


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
