# SPDX-License-Identifier: Apache-2.0
"""Modality and VOI transformations, polarity, padding; pydicom's own functions are the slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from film_builder import film, gradient, lut_item
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from edge.errors import CorruptInput
from edge.film import read_film
from edge.preprocess import to_gray8

WINDOW = {"mode": "window", "low": 0.5, "high": 99.5, "equalize": False}


def twin(ds, pixels, bits=12):
    """Brightness 0..1 by pydicom: modality LUT, then VOI, before any inversion."""
    out = apply_voi_lut(apply_modality_lut(pixels, ds), ds)
    return out


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 1000), (100.5, 37.25), (-300, 5000), (2047, 1)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -1024), (-2, 8190)])
def test_windows(read, function, center, width, slope, intercept):
    pixels = gradient()
    tags = {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    if function:
        tags["VOILUTFunction"] = function
    ds = film(pixels, **tags)
    got = read(ds)
    assert np.allclose(got.pixels, pixels * float(slope) + intercept, atol=1e-3)
    unit = got.window.apply(got.pixels)
    assert unit.dtype == np.float32
    # pydicom scales to the range of the rescaled stored values
    ends = np.array([0, 4095]) * slope + intercept
    low, high = (min(ends), max(ends)) if slope > 0 else (ends[0], ends[1])
    expected = (twin(ds, pixels) - low) / (high - low)
    if slope < 0:  # pydicom takes slope * range as it comes, so its output range is turned over
        expected = (twin(ds, pixels) - ends[0]) / (ends[1] - ends[0])
    assert np.abs(unit - expected).max() < 2e-5


def test_first_of_several_windows(read):
    got = read(film(WindowCenter=[1000, 2000], WindowWidth=[500, 700], WindowCenterWidthExplanation=["A", "B"]))
    assert (got.window.center, got.window.width) == (1000, 500)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5, "WindowWidth": -3},
        {"WindowCenter": 5, "WindowWidth": 0.5},
        {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_impossible_window_is_told_and_not_used(read, tags):
    got = read(film(**tags))
    assert got.window is None
    assert any("window" in w for w in got.warnings)


def test_window_without_its_other_half_is_no_window(read):
    assert read(film(WindowCenter=5)).window is None


def test_unknown_voi_function_is_linear(read):
    got = read(film(WindowCenter=2000, WindowWidth=1000, VOILUTFunction="CUBIC"))
    assert got.window.kind == "LINEAR"
    assert any("VOI function" in w for w in got.warnings)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_voi_lut(read, bits):
    table = np.sort(np.random.default_rng(1).integers(0, 2**bits, 2000))
    ds = film(VOILUTSequence=[lut_item(1000, bits, table)], WindowCenter=1, WindowWidth=2)
    got = read(ds)
    assert got.window.kind == "LUT"
    expected = apply_voi_lut(gradient(), ds) / (2**bits - 1)
    assert np.abs(got.window.apply(got.pixels) - expected).max() < 1e-6


def test_voi_lut_with_signed_first_value(read):
    pixels = gradient().astype(np.int16) - 2048
    table = np.arange(4096)
    ds = film(pixels, VOILUTSequence=[lut_item(-2048, 12, table, signed=True)])
    unit = read(ds).window.apply(read(ds).pixels)
    assert np.abs(unit - (pixels + 2048) / 4095).max() < 1e-6


def test_signed_first_value_in_implicit_vr(read):
    """Implicit VR does not tell US from SS: negative modality values make it signed (C.11.2.1.1)."""
    pixels = gradient()
    ds = film(
        pixels,
        syntax="1.2.840.10008.1.2",
        RescaleSlope=1,
        RescaleIntercept=-2048,
        VOILUTSequence=[lut_item(-2048, 12, np.arange(4096), signed=True)],
    )
    got = read(ds)
    assert np.abs(got.window.apply(got.pixels) - pixels / 4095).max() < 1e-6


@pytest.mark.parametrize("cell", ["u1", "<u2"])
def test_voi_lut_of_bytes(read, cell):
    """8-bit entries are stored in 8 bits, by some in 16; the length tells (C.11.1.1)."""
    table = np.arange(256)[::-1]
    item = lut_item(0, 8, table)
    item.LUTData = table.astype(cell).tobytes()
    got = read(film(gradient(bits=8), bits=8, VOILUTSequence=[item]))
    assert np.abs(got.window.apply(got.pixels) - (255 - gradient(bits=8)) / 255).max() < 1e-6


def test_full_size_lut_has_count_zero(read):
    table = np.arange(65536)[::-1]
    ds = film(gradient(bits=16), bits=16, VOILUTSequence=[lut_item(0, 16, table)])
    got = read(ds)
    assert np.abs(got.window.apply(got.pixels) - (65535 - gradient(bits=16)) / 65535).max() < 1e-6


def test_damaged_voi_lut_falls_back_to_the_window(read):
    item = lut_item(0, 12, np.arange(4096))
    item.LUTData = b"\0\0" * 10
    got = read(film(VOILUTSequence=[item], WindowCenter=2000, WindowWidth=100))
    assert got.window.kind == "LINEAR"
    assert any("look-up table" in w for w in got.warnings)


def test_modality_lut(read):
    table = np.random.default_rng(2).integers(0, 65536, 3000)
    ds = film(ModalityLUTSequence=[lut_item(500, 16, table)])
    assert np.array_equal(read(ds).pixels, apply_modality_lut(gradient(), ds))


def test_modality_lut_wins_over_rescale(read):
    ds = film(ModalityLUTSequence=[lut_item(0, 12, np.arange(4096)[::-1])], RescaleSlope=3, RescaleIntercept=9)
    assert np.array_equal(read(ds).pixels, 4095 - gradient().astype(int))


def test_damaged_modality_lut_is_refused(refused):
    item = lut_item(0, 12, np.arange(4096))
    item.LUTData = b"\0\0" * 10
    refused(film(ModalityLUTSequence=[item]), CorruptInput)
    refused(film(ModalityLUTSequence=[lut_item(0, 40, np.arange(16))]), CorruptInput)


@pytest.mark.parametrize("slope", ["0", "1e30", "-1e-30"])
def test_unusable_rescale_is_refused(refused, slope):
    refused(film(RescaleSlope=slope, RescaleIntercept="0"), CorruptInput)


@pytest.mark.parametrize(
    "voi",
    [
        {},
        {"WindowCenter": 1500, "WindowWidth": 900},
        {"WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 1500, "WindowWidth": 1},
        {"VOILUTSequence": [lut_item(200, 12, np.sort(np.random.default_rng(3).integers(0, 4096, 3000)))]},
    ],
    ids=["none", "linear", "exact", "sigmoid", "threshold", "lut"],
)
@pytest.mark.parametrize(
    "tags",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        {"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_inverted_exactly_once(read, voi, tags):
    """The display value is one minus what the VOI gives, whichever of the two tags (or both) asks for it."""
    straight = read(film(**voi))
    turned = read(film(**voi, **tags))
    assert np.array_equal(turned.pixels, 4095 - straight.pixels)
    if voi:
        expected = 1.0 - straight.window.apply(straight.pixels)
        assert np.array_equal(turned.window.apply(turned.pixels), expected)
    standard = (tags["PhotometricInterpretation"] == "MONOCHROME1") != (
        tags.get("PresentationLUTShape") == "IDENTITY"
    ) and tags.get("PhotometricInterpretation") == "MONOCHROME1"
    assert any("contradict" in w for w in turned.warnings) is not standard


@pytest.mark.parametrize("intensity", [WINDOW, {**WINDOW, "mode": "minmax"}, {**WINDOW, "mode": "percentile"}])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_both_photometric_interpretations_show_the_same_picture(read, intensity, bits):
    pixels = gradient(bits=bits)
    top = 2**bits - 1
    two = read(film(pixels, bits=bits))
    one = read(film(top - pixels, bits=bits, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(one.pixels, two.pixels)
    assert np.array_equal(to_gray8(one, intensity), to_gray8(two, intensity))


def test_both_interpretations_with_a_window(read):
    """The window of MONOCHROME1 data lies where the inverted values are."""
    pixels = gradient()
    two = read(film(pixels, WindowCenter=1000, WindowWidth=801))
    one = read(film(4095 - pixels, PhotometricInterpretation="MONOCHROME1", WindowCenter=4096 - 1000, WindowWidth=801))
    difference = to_gray8(one, WINDOW).astype(int) - to_gray8(two, WINDOW)
    assert np.abs(difference).max() <= 1  # the linear window is not symmetric about its centre


def test_signed_monochrome1(read):
    pixels = gradient().astype(np.int16) - 2048
    got = read(film(pixels, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(got.pixels, -1 - pixels)


def test_padding_value(read):
    pixels = gradient()
    pixels[:8] = 0
    pixels[8:] = np.maximum(pixels[8:], 1000)
    got = read(film(pixels, PixelPaddingValue=0))
    assert not got.valid[:8].any()
    assert got.valid[8:].all()
    picture = to_gray8(got, {**WINDOW, "mode": "minmax"})
    assert (picture[:8] == 0).all()
    inside = read_film(pixels[8:].copy())
    assert np.array_equal(picture[8:], to_gray8(inside, {**WINDOW, "mode": "minmax"}))


@pytest.mark.parametrize("pair", [(4000, 4095), (4095, 4000)])
def test_padding_range_in_monochrome1(read, pair):
    """Padding is a matter of stored values, and black whatever the polarity."""
    pixels = np.minimum(gradient(), 3999)
    pixels[:20] = 4050
    got = read(
        film(
            pixels,
            PixelPaddingValue=pair[0],
            PixelPaddingRangeLimit=pair[1],
            PhotometricInterpretation="MONOCHROME1",
        )
    )
    assert np.array_equal(got.valid, pixels < 4000)
    for mode in ("window", "minmax", "percentile"):
        assert (to_gray8(got, {**WINDOW, "mode": mode, "equalize": True})[:20] == 0).all()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_signed_padding(read, syntax):
    pixels = gradient(bits=16).astype(np.int32) - 32768
    pixels[:9] = -2000
    ds = film(pixels.astype(np.int16), bits=16, syntax=syntax)
    ds.add_new("PixelPaddingValue", "SS", -2000)
    got = read(ds)
    assert np.array_equal(got.valid, pixels != -2000)


def test_all_padding_is_ignored(read):
    got = read(film(np.full((70, 70), 5, np.uint16), PixelPaddingValue=5), force=True)
    assert got.valid is None
    assert any("padding" in w for w in got.warnings)
