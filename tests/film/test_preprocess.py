# SPDX-License-Identifier: Apache-2.0
"""Film to 8-bit picture to model input."""

from __future__ import annotations

import numpy as np
import pytest
from film_builder import gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edge.errors import BundleError
from edge.film import Film, FilmMeta, Voi, read_film
from edge.preprocess import equalize, percentiles, to_gray8, to_pixels

IMAGE = {
    "height": 64,
    "width": 48,
    "resize": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def test_minmax():
    pixels = gradient()
    gray = to_gray8(read_film(pixels), {"mode": "minmax"})
    low, high = int(pixels.min()), int(pixels.max())
    exact = (pixels.astype(float) - low) / (high - low) * 255
    assert gray.dtype == np.uint8
    assert np.abs(gray - exact).max() <= 0.51
    assert (gray.min(), gray.max()) == (0, 255)


def test_percentile():
    pixels = gradient()
    gray = to_gray8(read_film(pixels), {"mode": "percentile", "low": 5, "high": 90})
    low, high = np.percentile(pixels, (5, 90))
    assert np.abs(gray - np.clip((pixels - low) / (high - low), 0, 1) * 255).max() <= 0.51


def test_window_falls_back_to_percentile():
    film = read_film(gradient())
    pair = {"low": 2, "high": 97}
    expected = to_gray8(film, {"mode": "percentile", **pair})
    assert np.array_equal(to_gray8(film, {"mode": "window", **pair}), expected)
    for center, width in ((90_000.0, 10.0), (-90_000.0, 10.0), (1e8, 1e9)):  # all black, all white, all grey
        film.window, film.warnings = Voi("LINEAR", center=center, width=width), []
        assert np.array_equal(to_gray8(film, {"mode": "window", **pair}), expected)
        assert film.warnings == ["the window in the header shows nothing of the film and is not used"]


def test_window():
    film = read_film(gradient())
    film.window = Voi("LINEAR_EXACT", center=2000.0, width=1000.0)
    gray = to_gray8(film, {"mode": "window"})
    exact = np.clip((gradient() - 2000.0) / 1000 + 0.5, 0, 1) * 255
    assert np.abs(gray - exact).max() <= 0.51


def test_uniform_film_is_black():
    film = read_film(np.full((70, 70), 9, np.uint8), force=True)
    for mode in ("minmax", "percentile", "window"):
        assert not to_gray8(film, {"mode": mode, "equalize": True}).any()


def test_nearly_uniform_film_shows_its_tails():
    pixels = np.zeros((100, 100), np.uint16)
    pixels[0, 0] = 50
    assert to_gray8(read_film(pixels), {"mode": "percentile"})[0, 0] == 255


@pytest.mark.parametrize(
    "intensity", [{"mode": "log"}, {"mode": "percentile", "low": 60, "high": 40}, {"mode": "minmax", "high": 101}]
)
def test_unknown_intensity(intensity):
    with pytest.raises(BundleError):
        to_gray8(read_film(gradient()), intensity)


def test_the_film_is_not_changed():
    film = read_film(gradient())
    film.window = Voi("SIGMOID", center=2000.0, width=1000.0, mirror=4095.0)
    before = film.pixels.copy()
    for mode in ("window", "minmax", "percentile"):
        to_gray8(film, {"mode": mode, "equalize": True})
    assert np.array_equal(film.pixels, before)


def test_padding_takes_no_part():
    pixels = gradient().astype(np.float32)
    valid = np.ones(pixels.shape, bool)
    valid[:12] = False
    wild = pixels.copy()
    wild[:12] = 60000
    meta = FilmMeta()
    for intensity in ({"mode": "minmax"}, {"mode": "percentile"}, {"mode": "percentile", "equalize": True}):
        gray = to_gray8(Film(wild, valid, None, 16, meta), intensity)
        alone = to_gray8(Film(pixels[12:], None, None, 16, meta), intensity)
        assert not gray[:12].any()
        assert np.array_equal(gray[12:], alone)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.integers(-3000, 65535).map(float)),
    st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_percentiles_are_numpys(values, pair):
    assert np.allclose(percentiles(values, *pair), np.percentile(values.astype(float), pair), atol=1e-2, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, 50, elements=st.floats(-1e6, 1e6, width=32)))
def test_percentiles_of_broken_values(values):
    assert np.allclose(percentiles(values, 3, 91), np.percentile(values, (3, 91)), rtol=1e-5, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_equalize_is_opencvs(gray):
    cv2 = pytest.importorskip("cv2")
    assert np.array_equal(equalize(gray), cv2.equalizeHist(gray))


@pytest.mark.parametrize("shape", [(72, 80), (512, 400), (33, 500)])
@pytest.mark.parametrize("size", [(64, 48), (256, 256)])
def test_to_pixels_is_pillow_and_torchvision(shape, size):
    gray = gradient(*shape, bits=8).astype(np.uint8)
    image = {**IMAGE, "height": size[0], "width": size[1]}
    got = to_pixels(gray, image)
    resized = Image.fromarray(gray).convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
    unit = np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255)
    mean = np.asarray(IMAGE["mean"], np.float32)[:, None, None]
    std = np.asarray(IMAGE["std"], np.float32)[:, None, None]
    assert got.shape == (1, 3, *size)
    assert got.dtype == np.float32
    assert got.flags["C_CONTIGUOUS"]
    assert np.array_equal(got[0], (unit - mean) / std)


def test_unknown_resize():
    with pytest.raises(BundleError):
        to_pixels(np.zeros((64, 64), np.uint8), {**IMAGE, "resize": "area"})
