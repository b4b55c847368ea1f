# SPDX-License-Identifier: Apache-2.0
"""The bundle: a folder with a manifest and the files it pins.

A bundle is data from anywhere. Opening one checks, in this order: the manifest (:mod:`edge.manifest`), that
every listed file is a regular file inside the folder with the listed size, and the SHA-256 of every one. Only
then is any of them parsed. Nothing in a bundle is a pickle or a program.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, UsageError
from edge.manifest import FileEntry, Manifest, parse_manifest
from edge.strict import MAX_BYTES
from edge.threads import starting_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.coding.table import CodingTable

log = logging.getLogger("edge")

ENVIRONMENT = "EDGE_REPORT_BUNDLE"
DEMO = Path(__file__).with_name("bundles") / "demo"
DEMO_NOTICE = (
    "the demo model was trained on synthetic phantoms only: its drafts say nothing about real films "
    "and are not for clinical use"
)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file has been checked against the manifest.

    Attributes
    ----------
    path : Path
        The folder, with symbolic links resolved.
    manifest : Manifest
    sha256 : str
        SHA-256 of the bytes of ``manifest.json``; it pins every other file.
    notice : str or None
        One line that must be shown to whoever reads a report of this model.
    """

    path: Path
    manifest: Manifest
    sha256: str
    notice: str | None
    unlisted: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Bundle:
        """Open and check a bundle.

        Parameters
        ----------
        path
            The folder. ``None``: ``$EDGE_REPORT_BUNDLE``, and without it the demo bundle of the package.

        Raises
        ------
        BundleError
            The folder is missing, the manifest is wrong or of another format version, or a file is missing,
            is not a regular file inside the folder, or differs in size or hash.
        UsageError
            The name of the folder is empty, or no path.
        """
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise UsageError("a bundle is given by the path of its folder")
        root, is_demo = _locate(path)
        data = _read_manifest(root)
        manifest = parse_manifest(data)
        paths = {name: _inside(root, name) for name in manifest.files}
        for name, entry in manifest.files.items():
            size = paths[name].stat().st_size
            if size != entry.bytes:
                raise BundleError(f"{name} has {size} bytes instead of {entry.bytes}: copy the bundle again")
        with starting_threads(), ThreadPoolExecutor(min(4, len(paths))) as pool:
            for name in pool.map(lambda name: _check_hash(name, paths[name], manifest.files[name]), paths):
                log.debug("%s: SHA-256 as listed", name)
        listed = {*manifest.files, "manifest.json"}
        unlisted = tuple(sorted(name for name in os.listdir(root) if name not in listed))
        for name in unlisted:
            log.info("bundle %s: ignoring the unlisted file %r", manifest.name, name)
        notice = manifest.notice or (DEMO_NOTICE if is_demo else None)
        return cls(root, manifest, hashlib.sha256(data).hexdigest(), notice, unlisted)

    def file(self, name: str) -> Path:
        """The path of a listed file.

        Raises
        ------
        BundleError
            The manifest lists no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{name!r} is not listed in the manifest")
        return self.path / name

    def weights(self) -> dict[str, NDArray[np.generic]]:
        """The decoder's weights, mapped from the file read-only and checked against the decoder spec.

        Returns
        -------
        dict of str to ndarray
            As :func:`edge.weights.expected_shapes`: matrices [out, in] in float32, in int8 with a float32 ``.scale``
            [out], or in int4, packed uint8 [out, in / 2] with a float16 ``.scale`` [out, in / 32]; all else float32.

        Raises
        ------
        BundleError
            The file is no valid safetensors file, or holds other weights than the decoder spec asks for.
        """
        from edge.weights import check_weights, map_safetensors

        arrays = map_safetensors(self.file(self.manifest.weights_file))
        check_weights(arrays, self.manifest.decoder)
        return arrays

    def coding_table(self) -> CodingTable | None:
        """How the model's findings are coded, checked; ``None`` where the bundle does not say.

        Raises
        ------
        BundleError
            The table is damaged, or does not fit the manifest's labels.
        """
        name = self.manifest.coding_file
        if name is None:
            return None
        from edge.coding.table import parse_coding

        return parse_coding(self.file(name).read_bytes(), self.manifest.labels)

    def draft_table(self) -> Any:
        """The kernel's view of the draft table, mapped and checked; ``None`` where the bundle has none.

        Raises
        ------
        BundleError
        """
        if self.manifest.draft_file is None:
            return None
        from edge.draft import load_draft_table

        return load_draft_table(self.file(self.manifest.draft_file), self.manifest.decoder["vocab"])


def _locate(path: str | os.PathLike[str] | None) -> tuple[Path, bool]:
    """The folder to open, and whether it is the demo bundle."""
    given = os.fspath(path) if path is not None else os.environ.get(ENVIRONMENT) or None
    if given == "":
        raise UsageError("the name of the bundle's folder is empty")
    is_demo = given is None
    folder = DEMO if given is None else Path(given)
    try:
        root = folder.resolve(strict=True)
        if root.is_dir():
            return root, is_demo or root == DEMO.resolve()
        problem = "is a file, not a folder"
        if root.name == "manifest.json":
            problem += ": give the folder that holds it"
    except PermissionError:
        problem = "may not be looked into by this user"
    except (OSError, ValueError, RuntimeError):
        problem = "does not exist"
    if is_demo:
        raise BundleError(f"this installation holds no demo bundle: give one with --bundle DIR or ${ENVIRONMENT}")
    origin = "" if path is not None else f" (from ${ENVIRONMENT})"
    raise BundleError(f"the bundle {str(folder)!r}{origin} {problem}; edge-export makes a bundle")


def _read_manifest(root: Path) -> bytes:
    if not os.path.exists(root / "manifest.json") and os.access(root, os.X_OK):
        raise BundleError(f"{str(root)!r} holds no manifest.json: edge-export makes a bundle")
    try:
        with open(_inside(root, "manifest.json"), "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise BundleError(f"manifest.json cannot be read ({error.strerror})") from None


def _inside(root: Path, name: str) -> Path:
    """`name` in `root`, refused unless it is a regular file that really lies in it."""
    try:
        path = (root / name).resolve(strict=True)
        mode = path.stat().st_mode
    except PermissionError as error:
        raise BundleError(f"{name} cannot be read ({error.strerror})") from None
    except (OSError, RuntimeError):
        raise BundleError(f"{name} is missing: copy the bundle again") from None
    if not path.is_relative_to(root):
        raise BundleError(f"{name} is a link that leads out of the bundle: copy the file itself")
    if not stat.S_ISREG(mode):
        raise BundleError(f"{name} is not a regular file")
    return path


def _check_hash(name: str, path: Path, entry: FileEntry) -> str:
    try:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{name} cannot be read ({error.strerror})") from None
    if digest != entry.sha256:
        raise BundleError(f"{name} does not match its SHA-256 in the manifest: copy or export the bundle again")
    return name
