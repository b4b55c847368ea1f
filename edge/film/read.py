# SPDX-License-Identifier: Apache-2.0
"""``read_film``: one call from a file, a dataset or an array to a checked film."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge.errors import (
    CannotRead,
    CorruptInput,
    EdgeError,
    NotFrontalChest,
    ProcessingError,
    UnsupportedPixels,
    UsageError,
)
from edge.film import limits
from edge.film.source import open_film, sniff
from edge.film.types import Film, FilmMeta

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from edge.film.dicomfile import Header


def read_film(
    source: str | Path | bytes | Dataset | NDArray[Any],
    *,
    force: bool = False,
) -> Film:
    """Read a frontal chest radiograph, or say why not.

    Parameters
    ----------
    source : str, Path, bytes, pydicom.Dataset or ndarray
        A DICOM, PNG or JPEG file (told apart by content) or what is in one, a dataset, or a grey picture of shape
        (rows, columns): uint8, uint16, int16 or floating point, higher is brighter.
    force : bool
        Take a film in spite of a soft refusal: another body part, a lateral or oblique view. What was
        overridden stands in the film's warnings.

    Returns
    -------
    Film

    Raises
    ------
    edge.errors.InputError
        One subclass per kind of refusal. Whatever a header tells is decided before pixels are decoded; no
        message holds patient data.
    edge.errors.UsageError
        `source` is a folder or of another type.
    """
    try:
        return _read(source, force)
    except MemoryError:
        problem: EdgeError = ProcessingError("there is not enough memory for a film of this size")
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # A damaged value that no check foresaw. The text of such errors may quote the file, so it stays here.
        problem = CorruptInput("the film cannot be understood: the file is damaged; copy it again")
    raise problem


def _read(source: object, force: bool) -> Film:
    if isinstance(source, np.ma.MaskedArray):
        raise UsageError("a masked array is not taken: fill what is masked, and give a plain one")
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source), force)
    if isinstance(source, bytes):
        return _from_handle(io.BytesIO(source), force)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(os.fspath(source), force)
    if type(source).__module__.split(".")[0] == "pydicom" or hasattr(source, "file_meta"):
        from edge.film.dataset import header_of_dataset

        return _from_header(header_of_dataset(source), force)  # type: ignore[arg-type]
    raise UsageError(f"a film is a path, a file's bytes, a pydicom dataset or a 2-D array, not {type(source).__name__}")


def _from_file(path: str | bytes, force: bool) -> Film:
    handle = open_film(path)  # type: ignore[arg-type]
    problem = ""
    try:
        with handle:
            return _from_handle(handle, force)
    except OSError as error:  # a disk or network fault while reading; its text may hold the file name
        problem = type(error).__name__
    raise CannotRead(f"the file cannot be read to its end ({problem})")


def _from_handle(handle: BinaryIO, force: bool) -> Film:
    kind, offset = sniff(handle.read(512))
    if kind == "dicom":
        from edge.film.dicomfile import read_header

        return _from_header(read_header(handle, offset), force)
    handle.seek(0)
    return _from_picture(handle, kind, force)


def _from_picture(handle: BinaryIO, kind: str, force: bool) -> Film:
    from edge.film.pictures import read_picture

    film = read_picture(handle, kind)
    _check_contrast(film.pixels, film.valid, film.warnings, force)
    return film


def _from_header(header: Header, force: bool) -> Film:
    from edge.film import anatomy, checks, grey, orientation
    from edge.film.decode import stored_pixels
    from edge.film.terms import RAW_DX

    warnings: list[str] = []
    values = header.values
    modality = checks.check_modality(header, warnings)
    shape, element = checks.check_pixels(header, warnings)
    seen = anatomy.look(values)
    if seen.refusal:
        if not force:
            raise NotFrontalChest(seen.refusal, hint="--force reports it all the same")
        warnings.append(f"taken by force: {seen.refusal}")
    warnings += seen.warnings
    if values.term("PresentationIntentType") == "FOR PROCESSING" or values.uid("SOPClassUID") == RAW_DX:
        warnings.append("raw detector data (for processing), not made to be looked at")
    if not header.syntax_named:
        warnings.append("the file does not name its transfer syntax; it was told from the first elements")

    stored = stored_pixels(header, shape, element, warnings)
    valid = grey.padding(stored, values, shape, warnings)
    pixels, lowest, highest = grey.modality(stored, values, shape)
    del stored
    window = grey.voi(values, lowest, warnings)
    if grey.inverted(values, shape, warnings):
        pixels, window = grey.invert(pixels, window, lowest, highest)
    _check_contrast(pixels, valid, warnings, force)
    if turn := orientation.turn_of(values.texts("PatientOrientation")):
        pixels, valid = turn.apply(pixels), None if valid is None else turn.apply(valid)
        warnings.append(orientation.words(turn))
    meta = FilmMeta(
        sop_instance_uid=values.uid("SOPInstanceUID") or header.media_instance,
        study_instance_uid=values.uid("StudyInstanceUID"),
        series_instance_uid=values.uid("SeriesInstanceUID"),
        modality=modality,
        view_position=seen.view_position,
        body_part=seen.body_part,
        photometric=shape.photometric,
        transfer_syntax=header.syntax,
        rows=shape.rows,
        columns=shape.columns,
        source="dicom",
    )
    return Film(pixels, valid, window, shape.stored, meta, warnings)


def _from_array(array: NDArray[Any], force: bool) -> Film:
    if array.ndim != 2:
        raise UnsupportedPixels(f"an array of shape (rows, columns) is expected, not of {array.ndim} dimensions")
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "uif" or (kind in "ui" and size > 2):
        raise UnsupportedPixels(f"arrays are uint8, uint16, int16 or floating point, not {array.dtype}")
    rows, columns = array.shape
    limits.check_size(rows, columns)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        pixels = array.astype(np.float32)
    if kind == "f" and not np.isfinite(pixels).all():
        raise CorruptInput("the array holds values that are not finite")
    warnings: list[str] = []
    _check_contrast(pixels, None, warnings, force)
    meta = FilmMeta(photometric="MONOCHROME2", rows=rows, columns=columns, source="array")
    return Film(pixels, None, None, 32 if kind == "f" else 8 * size, meta, warnings)


def _check_contrast(
    pixels: NDArray[np.float32], valid: NDArray[np.bool_] | None, warnings: list[str], force: bool
) -> None:
    """Refuse a film on which there is nothing, also beside padding: a model would write that the lungs are clear."""
    from edge.film.grey import uniform

    if not uniform(pixels, valid):
        return
    nothing = "every pixel has the same value; there is nothing to see"
    if not force:
        raise NotFrontalChest(nothing, hint="--force reports it all the same")
    warnings.append(nothing)
