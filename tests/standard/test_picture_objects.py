# SPDX-License-Identifier: Apache-2.0
"""The overlay as Secondary Capture, the mask as Segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standard_parts import COLUMNS, DX, FILM, ROWS, SERIES, STUDY, dciodvfy, make_film, make_report, written

import edge
from edge.render.overlay import overlay_image
from edge.standard.segmentation import at_film_size


def test_secondary_capture(tmp_path: Path) -> None:
    path = tmp_path / "sc.dcm"
    sc = written(make_report().to_secondary_capture(make_film(BurnedInAnnotation="NO")), path)
    assert sc.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (sc.StudyInstanceUID, sc.PatientID, sc.Modality) == (STUDY, "ID-4711", "OT")
    assert np.array_equal(sc.pixel_array, np.asarray(overlay_image(make_report())))
    assert sc.SourceImageSequence[0].ReferencedSOPInstanceUID == FILM
    assert sc.BurnedInAnnotation == "NO"
    assert "Not for clinical use" in sc.ImageComments
    assert "PixelSpacing" not in sc
    assert dciodvfy(path) == []
    with pytest.raises(edge.InputError):  # our own picture is not taken for a film
        edge.read_film(path)


def test_lossy_once_is_lossy_for_ever(tmp_path: Path) -> None:
    film = make_film(
        LossyImageCompression="01", LossyImageCompressionRatio="12.5", LossyImageCompressionMethod="ISO_10918_1"
    )
    for name in ("to_secondary_capture", "to_segmentation"):
        made = written(getattr(make_report(), name)(film), tmp_path / "made.dcm")
        assert (made.LossyImageCompression, made.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
        assert dciodvfy(tmp_path / "made.dcm") == []


@pytest.mark.parametrize("frame_of_reference", ["", "1.2.3.4"])
def test_segmentation(frame_of_reference: str, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    film = make_film(**({"FrameOfReferenceUID": frame_of_reference} if frame_of_reference else {}))
    seg = written(make_report().to_segmentation(film), path)
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert (seg.Rows, seg.Columns, seg.NumberOfFrames, seg.SegmentationType) == (ROWS, COLUMNS, 1, "BINARY")
    mask = make_report().mask
    assert np.array_equal(seg.pixel_array, at_film_size(mask, ROWS, COLUMNS))
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Lungs and heart", "AUTOMATIC")
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES
    (source,) = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (DX, FILM)
    assert seg.get("FrameOfReferenceUID", "") == frame_of_reference
    assert dciodvfy(path) == []


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(["R", "F"], np.fliplr), (["R", "H"], lambda mask: mask[::-1, ::-1]), (["F", "L"], np.transpose)],
)
def test_the_mask_lies_over_the_film_as_it_is_stored(orientation: list[str], stored: Any, tmp_path: Path) -> None:
    """Which was turned to be read as usual."""
    report = make_report(mask=np.triu(np.ones((16, 16), np.uint8), 3))
    seg = written(report.to_segmentation(make_film(PatientOrientation=orientation)), tmp_path / "seg.dcm")
    shape = (COLUMNS, ROWS) if orientation[0] == "F" else (ROWS, COLUMNS)
    assert np.array_equal(seg.pixel_array, stored(at_film_size(report.mask, *shape)))
    assert not np.array_equal(seg.pixel_array, at_film_size(report.mask, ROWS, COLUMNS))
    assert dciodvfy(tmp_path / "seg.dcm") == []


def test_another_library_reads_the_segmentation(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    path = tmp_path / "seg.dcm"
    written(make_report().to_segmentation(make_film()), path)
    seg = highdicom.seg.segread(path)
    assert seg.get_source_image_uids() == [(STUDY, SERIES, FILM)]
    (pixels,) = seg.get_pixels_by_source_instance([FILM])
    assert np.array_equal(pixels[..., 0], at_film_size(make_report().mask, ROWS, COLUMNS))


def test_no_mask_no_segmentation() -> None:
    with pytest.raises(edge.UsageError):
        make_report(mask=None).to_segmentation(make_film())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 130), st.integers(1, 130))
def test_the_mask_goes_back_through_the_resize(height: int, width: int, rows: int, columns: int) -> None:
    """The middle of each film pixel, as a share of the picture, lies in the mask cell that it gets."""
    mask = np.arange(height * width).reshape(height, width)
    out = at_film_size(mask, rows, columns)  # type: ignore[arg-type]
    assert out.shape == (rows, columns)
    down, across = np.divmod(out, width)
    middle = (np.arange(rows) + 0.5) / rows * height
    assert (down <= middle[:, None] + 1e-9).all()
    assert (middle[:, None] < down + 1 + 1e-9).all()
    middle = (np.arange(columns) + 0.5) / columns * width
    assert (across <= middle + 1e-9).all()
    assert (middle < across + 1 + 1e-9).all()


def test_a_mask_twice_as_coarse_is_each_cell_twice() -> None:
    mask = np.array([[1, 0], [0, 1]], np.uint8)
    assert np.array_equal(at_film_size(mask, 4, 4), np.kron(mask, np.ones((2, 2), np.uint8)))
