# SPDX-License-Identifier: Apache-2.0
"""The standard objects of ``edge-report``: which files they go to, and their bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge.cli.options import DICOM_OBJECTS, OBJECTS
from edge.cli.output import check_target, numbered, printable, write_whole
from edge.errors import EdgeError, NotCoded, OutputError, UsageError
from edge.prompt import Context, check_cap

if TYPE_CHECKING:
    import argparse

    from edge.manifest import Manifest
    from edge.report import Report
    from edge.standard.filmheader import FilmHeader


class Objects:
    """Where the objects of one call of the command go.

    Attributes
    ----------
    folder : str or None
        ``-o`` where it is a folder: there is one, or the name ends with a slash, or there are several films. Each
        object is a file of its own there, named by its UID, so that a second run replaces and never doubles.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.several = len(options.images) > 1 and not options.study
        self.wanted = options.format in OBJECTS
        self.folder = None
        output = options.output
        if self.wanted and output and (self.several or output.endswith(os.sep) or os.path.isdir(output)):
            self.folder = output.rstrip(os.sep) or os.sep

    def check_folder(self) -> None:
        """Find out before the work that the folder of ``-o`` cannot be made, or written to.

        Raises
        ------
        OutputError
        """
        assert self.folder is not None
        if not os.path.lexists(self.folder):
            check_target(self.folder, [])
            return  # made with the first object: where there is none there is no folder either
        if not os.path.isdir(self.folder):
            found = "a file" if os.path.exists(self.folder) else "a link that leads nowhere"
            raise OutputError(f"a folder is needed here, and this is {found}")
        if not os.access(self.folder, os.W_OK):
            raise OutputError("the folder cannot be written to")

    def pictures(self, index: int) -> Iterator[tuple[str, str]]:
        """Kind and path of what is written beside the report of a film."""
        for kind, path in (("overlay", self.options.overlay), ("mask", self.options.mask_dicom)):
            if path is not None:
                yield kind, numbered(path, index) if self.several else path

    def check_model(self, manifest: Manifest) -> None:
        """Find out before the work that the model cannot make what is asked for."""
        if self.options.mask_dicom is not None and not manifest.has_mask:
            raise UsageError("--mask-dicom: this model has no segmenter, so there is no mask to write")
        self.check_cap(manifest, Context())
        if self.options.format == "sr-tid1500" and manifest.coding_file is None:
            raise NotCoded

    def check_cap(self, manifest: Manifest, told: Context) -> None:
        """The same of the token cap, behind a context as the model reads it."""
        if self.options.max_new_tokens is not None:
            check_cap(self.options.max_new_tokens, manifest, told, name="--max-new-tokens")

    def header(self, film: str) -> FilmHeader | None:
        """The film's header, where an object needs it; before the work, so that a refusal costs nothing."""
        options = self.options
        dicom = [path for _, path in self.pictures(1) if path.lower().endswith(".dcm")]
        if not self.wanted and not dicom:
            return None
        from edge.standard.filmheader import film_header

        if options.format == "fhir" and not dicom and not _is_dicom(film):
            return None  # FHIR does without; the film's own reader says what else is wrong
        return film_header(film)

    def deliver(self, report: Report, header: FilmHeader | None) -> bytes | None:
        """The object of a film: written to the folder, or given back to go where the report goes."""
        if self.options.format in DICOM_OBJECTS:
            from edge.standard.modules import to_file

            assert header is not None
            dataset = report.to_sr(header) if self.options.format == "sr" else report.to_coded_sr(header)
            name, data = f"SR.{dataset.SOPInstanceUID}.dcm", to_file(dataset)
        else:
            from edge.standard.fhir import to_json

            resource = report.to_fhir(header)
            lines = self.several and self.folder is None
            name = f"DiagnosticReport.{resource['id']}.json"
            data = to_json(resource, indent=None if lines else 2).encode() + b"\n"
        if self.folder is None:
            return data
        path = os.path.join(self.folder, name)
        made = self._made_folder()
        try:
            write_whole(path, data)
        except OutputError as error:
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(self.folder)
            raise OutputError(f"{printable(path)}: {error}") from None
        return None

    def _made_folder(self) -> bool:
        """Make the folder of ``-o``; False where it is there."""
        assert self.folder is not None
        try:
            os.mkdir(self.folder)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise OutputError(f"{printable(self.folder)}: {error.strerror or 'cannot be made'}") from None

    def warnings(self, header: FilmHeader | None) -> list[str]:
        """What a reader of the objects must know besides the report's own warnings."""
        if header is None or not header.values.damaged:
            return []
        return ["a text of the film is not in the character set that the film names; signs are missing in the objects"]

    def write_pictures(self, report: Report, header: FilmHeader | None, index: int) -> list[tuple[str, EdgeError]]:
        """Write what goes beside the report; failures are given back, so that the report still gets out."""
        failed: list[tuple[str, EdgeError]] = []
        for kind, path in self.pictures(index):
            try:
                write_whole(path, _picture(report, header, kind, path))
            except EdgeError as error:
                failed.append((path, error))
        return failed


def _picture(report: Report, header: FilmHeader | None, kind: str, path: str) -> bytes:
    if path.lower().endswith(".png"):
        from edge.render.overlay import overlay_png

        return overlay_png(report)
    from edge.standard.modules import to_file

    assert header is not None
    return to_file(report.to_secondary_capture(header) if kind == "overlay" else report.to_segmentation(header))


def _is_dicom(film: str) -> bool:
    from edge.film.source import open_film, sniff

    with open_film(film) as handle:
        return sniff(handle.read(512))[0] == "dicom"
