# SPDX-License-Identifier: Apache-2.0
"""The library's pixels are those that the Python package feeds the model, bit by bit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from capi import CapiError, Engine, Film, Library
from dicom_film import film_of_dataset
from pydicom.dataset import Dataset

sys.path.append(str(Path(__file__).parents[1] / "film"))

from film_builder import film as make_film
from film_builder import gradient

from edge.prepare import prepare

PERCENTILE = {"mode": "percentile", "low": 0.5, "high": 99.5, "equalize": False}
INTENSITIES = {
    "window": {"mode": "window", "equalize": False},
    "minmax": {"mode": "minmax", "equalize": False},
    "percentile": PERCENTILE,
    "equalized": {"mode": "window", "low": 2.0, "high": 97.0, "equalize": True},
}


@pytest.fixture(scope="module")
def engines(library: Library, pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """One per intensity pipeline."""
    folder, found = tmp_path_factory.mktemp("pipelines"), {}
    for name, intensity in INTENSITIES.items():
        bundle = Path(shutil.copytree(pristine, folder / name))
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["image"]["intensity"] = intensity
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        found[name] = library.engine(bundle)
    return found


def image_of(name: str) -> dict[str, Any]:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return {"height": 64, "width": 64, "resize": "bicubic", "mean": mean, "std": std, "intensity": INTENSITIES[name]}


def words(values: np.ndarray, first: int = 0, bits: int = 16) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values) % 65536, first % 65536, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = values.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


signed = (gradient().astype(np.int32) - 2048).astype(np.int16)
high_bits = (gradient() << 4) | 9
edged = gradient()
edged[:, :9] = 4000
FILMS: dict[str, Dataset] = {
    "plain": make_film(),
    "8 bits": make_film(gradient(bits=8), bits=8),
    "6 bits": make_film(gradient(bits=6), bits=8, BitsStored=6, HighBit=5),
    "16 bits": make_film(gradient(bits=16), bits=16),
    "odd width": make_film(gradient(73, 81, 8), bits=8),
    "monochrome 1": make_film(PhotometricInterpretation="MONOCHROME1"),
    "inverse shape": make_film(PresentationLUTShape="INVERSE"),
    "both": make_film(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
    "contradiction": make_film(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"),
    "signed": make_film(signed),
    "dirty high bits": make_film(gradient() | 0xA000),
    "left-aligned": make_film(high_bits, HighBit=15),
    "big endian": make_film(syntax="1.2.840.10008.1.2.2"),
    "rescaled": make_film(RescaleSlope="0.37", RescaleIntercept="-211.3"),
    "falling": make_film(RescaleSlope="-1", RescaleIntercept="4095"),
    "window": make_film(WindowCenter="1800", WindowWidth="1500"),
    "exact window": make_film(WindowCenter="1800", WindowWidth="777", VOILUTFunction="LINEAR_EXACT"),
    "sigmoid": make_film(WindowCenter="2000", WindowWidth="900", VOILUTFunction="SIGMOID"),
    "threshold": make_film(WindowCenter="2000", WindowWidth="1"),
    "inverted window": make_film(PhotometricInterpretation="MONOCHROME1", WindowCenter="1800", WindowWidth="1500"),
    "impossible window": make_film(WindowCenter="1800", WindowWidth="0"),
    "several windows": make_film(WindowCenter=["900", "1800"], WindowWidth=["800", "10"]),
    "rescaled window": make_film(RescaleSlope="2", RescaleIntercept="-1000", WindowCenter="2600", WindowWidth="3000"),
    "modality LUT": make_film(ModalityLUTSequence=[words(np.arange(4096)[::-1] ** 2 >> 8)]),
    "VOI LUT": make_film(VOILUTSequence=[words(np.sqrt(np.arange(3000)) * 70, 500, 12)]),
    "signed VOI LUT": make_film(signed, VOILUTSequence=[words(np.arange(2000) * 2, -900, 12)]),
    "padding": make_film(edged, PixelPaddingValue=4000),
    "padding range": make_film(edged, PixelPaddingValue=3990, PixelPaddingRangeLimit=4095),
    "signed padding": make_film(signed, PixelPaddingValue=-2048, PixelPaddingRangeLimit=-1900),
    "all padding": make_film(PixelPaddingValue=0, PixelPaddingRangeLimit=4095),
    "window beside the film": make_film(WindowCenter="90000", WindowWidth="100"),
    "window beyond numbers": make_film(WindowCenter="1e300", WindowWidth="100"),
    "nearly uniform": make_film(np.pad(np.full((70, 78), 7, np.uint16), 1, constant_values=9)),
}


@pytest.mark.parametrize("pipeline", INTENSITIES)
@pytest.mark.parametrize("name", FILMS)
def test_pixels_of_dicom(library: Library, engines: dict[str, Engine], name: str, pipeline: str) -> None:
    ds, keep = FILMS[name], []
    theirs = prepare(ds, image_of(pipeline))
    engine = engines[pipeline]
    film = film_of_dataset(library, ds, keep)
    assert np.array_equal(engine.prepare(film, 64, 64), theirs.pixels[0])
    warnings = engine.report(film, max_new_tokens=1)["warnings"]
    assert warnings[: len(theirs.film.warnings)] == theirs.film.warnings


def test_a_film_without_contrast_is_refused(library: Library, engines: dict[str, Engine]) -> None:
    """A failed exposure is no clear chest."""
    keep: list[Any] = []
    film = film_of_dataset(library, make_film(np.full((72, 80), 7, np.uint16)), keep)
    for engine in engines.values():
        with pytest.raises(CapiError, match="every pixel has the same value") as caught:
            engine.report(film, max_new_tokens=1)
        assert caught.value.status == 26
    framed = make_film(np.pad(np.full((72, 80), 7, np.uint16), 2, constant_values=4000), PixelPaddingValue=4000)
    with pytest.raises(CapiError, match="every pixel has the same value"):  # what differs is padding
        engines["window"].report(film_of_dataset(library, framed, keep), max_new_tokens=1)


def test_padding_without_a_limit(library: Library, engines: dict[str, Engine]) -> None:
    """A host that sets what the header holds, and no more: one value is padding, not all from 0 to it."""
    film = library.film_of_array(edged)
    film.has_padding, film.padding_value = 1, 4000
    want = prepare(make_film(edged, bits=16, PixelPaddingValue=4000), image_of("percentile")).pixels[0]
    assert np.array_equal(engines["percentile"].prepare(film, 64, 64), want)


def test_single_precision_window_edges(library: Library, engines: dict[str, Engine]) -> None:
    """Ten thousand sigmoid values: the exponential is the one step that is not the same instruction."""
    picture = np.arange(72 * 80, dtype=np.uint16).reshape(72, 80)
    unlike = 0
    for center in range(1000, 5000, 200):
        ds = make_film(picture, bits=16, WindowCenter=str(center), WindowWidth="1777.3", VOILUTFunction="SIGMOID")
        keep: list[Any] = []
        ours = engines["window"].prepare(film_of_dataset(library, ds, keep), 64, 64)
        unlike += int((ours != prepare(ds, image_of("window")).pixels[0]).sum())
    assert unlike == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("pipeline", INTENSITIES)
def test_pixels_of_arrays(library: Library, engines: dict[str, Engine], dtype: Any, pipeline: str) -> None:
    array = (gradient(90, 131, 8).astype(np.float64) * 0.77 - (20 if dtype != np.uint8 else 0)).astype(dtype)
    ours = engines[pipeline].prepare(library.film_of_array(array), 64, 64)
    assert np.array_equal(ours, prepare(array, image_of(pipeline)).pixels[0])


def test_rows_with_a_stride(library: Library, engines: dict[str, Engine]) -> None:
    whole = gradient(90, 150)
    view = whole[3:80, 10:140]
    ours = engines["minmax"].prepare(library.film_of_array(view), 64, 64)
    assert np.array_equal(ours, prepare(view, image_of("minmax")).pixels[0])


SIZES = [(64, 64), (65, 64), (64, 200), (127, 333), (641, 1000), (300, 299), (64, 65), (2000, 1900)]
TALL = [(100, 70), (77, 70), (76, 70), (700, 64), (900, 70), (337, 200), (336, 200)]


@pytest.mark.parametrize("size", SIZES + TALL)
def test_resize_is_pillows(library: Library, engines: dict[str, Engine], size: tuple[int, int]) -> None:
    """Shrinking by whole and odd factors, one axis or both; tall pictures lose rows first since Pillow 13."""
    if size in TALL and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("the order of the axes was another before Pillow 13")
    picture = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    ours = engines["minmax"].prepare(library.film_of_array(picture), 64, 64)
    assert np.array_equal(ours, prepare(picture, image_of("minmax")).pixels[0])


def test_resize_makes_larger(library: Library, demo: Path) -> None:
    image = image_of("percentile") | {"height": 256, "width": 256}
    with library.engine(demo) as engine:
        for size in ((64, 64), (70, 300), (300, 70), (256, 99)):
            picture = np.random.default_rng(1).integers(0, 256, size, np.uint8)
            ours = engine.prepare(library.film_of_array(picture), 256, 256)
            assert np.array_equal(ours, prepare(picture, image).pixels[0])


@pytest.mark.parametrize("name", ["bilinear", "lanczos", "bicubic"])
@pytest.mark.parametrize("whole", [None, [72], [70, 91]])
def test_filters_and_crops(
    library: Library, pristine: Path, tmp_path: Path, name: str, whole: list[int] | None
) -> None:
    image = image_of("minmax") | {"resize": name} | ({"crop_from": whole} if whole else {})
    bundle = Path(shutil.copytree(pristine, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"image": image}))
    with library.engine(bundle) as engine:
        for size in ((64, 64), (90, 131), (131, 90), (300, 77)):
            picture = np.random.default_rng(2).integers(0, 256, size, np.uint8)
            ours = engine.prepare(library.film_of_array(picture), 64, 64)
            assert np.array_equal(ours, prepare(picture, image).pixels[0])


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"pixels": None}, 1, "NULL"),
    ({"rows": 0}, 26, "too small"),
    ({"rows": -5}, 26, "too small"),
    ({"columns": 63}, 26, "too small"),
    ({"rows": 12_001}, 26, "implausibly large"),
    ({"rows": 11_000, "columns": 11_000}, 26, "implausibly large"),
    ({"row_stride": 1}, 1, "row_stride"),
    ({"row_stride": -160}, 1, "row_stride"),
    ({"row_stride": (1 << 63) - 1}, 1, "row_stride"),
    ({"bits_allocated": 12}, 26, "bits_allocated"),
    ({"bits_stored": 17}, 22, "more bits stored"),
    ({"bits_stored": 5}, 26, "5 bits per pixel is too few"),
    ({"bits_stored": 1}, 26, "1 bit per pixel is too few"),
    ({"bits_allocated": 1}, 26, "1 bit per pixel is too few"),
    ({"bits_stored": -3}, 22, "more bits stored"),
    ({"photometric": 7}, 26, "photometric"),
    ({"presentation": 9}, 1, "presentation"),
    ({"voi": 12}, 1, "voi"),
    ({"rescale_slope": 0.0}, 22, "rescale"),
    ({"rescale_slope": float("nan")}, 22, "rescale"),
    ({"rescale_intercept": 1e300}, 22, "rescale"),
    ({"modality": b"CT"}, 23, "modality"),
    ({"modality": b""}, 23, "modality"),
    ({"modality": b"X" * 5000}, 23, "modality"),
    ({"size": 0}, 1, "edge_film_init"),
    ({"size": 1 << 31}, 1, "edge_film_init"),
]


@pytest.mark.parametrize(("values", "status", "word"), REFUSED)
def test_films_that_are_refused(
    engine: Engine, library: Library, values: dict[str, Any], status: int, word: str
) -> None:
    picture = gradient(80, 80)
    film = library.film_of_array(picture)
    for name, value in values.items():
        setattr(film, name, value)
    with pytest.raises(CapiError, match=word) as caught:
        engine.report(film)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_floats_that_are_not_finite(engine: Engine, library: Library) -> None:
    picture = np.ones((80, 80), np.float32)
    picture[3, 4] = np.nan
    with pytest.raises(CapiError, match="not finite") as caught:
        engine.report(library.film_of_array(picture))
    assert caught.value.status == 22


@pytest.mark.parametrize("name", ["modality_lut", "voi_lut"])
@pytest.mark.parametrize(("count", "bits"), [(0, 8), (-1, 8), (65537, 16), (4, 7), (4, 17), (4, -2), (4, 99)])
def test_tables_that_are_none(engine: Engine, library: Library, name: str, count: int, bits: int) -> None:
    """An impossible size is the caller's error; an impossible depth stands in the film."""
    picture, entries = gradient(80, 80), np.arange(70000).astype(np.uint16)
    film: Film = library.film_of_array(picture)
    lut = getattr(film, name)
    lut.entries = entries.ctypes.data_as(type(lut.entries))
    lut.count, lut.bits = count, bits
    if name == "voi_lut" and count == 4:
        assert "the VOI look-up table in the header is damaged and not used" in engine.report(film)["warnings"]
        return
    with pytest.raises(CapiError) as caught:
        engine.report(film)
    assert caught.value.status == (22 if count == 4 else 1)


@pytest.mark.parametrize("view", ["Прямая", "ΠΑ", "正面", "قبل", "PA 正面"])
@pytest.mark.parametrize("codec", ["utf-8", "iso2022_jp"])
def test_a_view_in_another_script_is_left_out(engine: Engine, library: Library, view: str, codec: str) -> None:
    """As in the Python package: no refusal, and no view made of its bytes (in ISO 2022 the last one holds LL)."""
    picture = gradient(80, 80)
    film = library.film_of_array(picture)
    film.view_position = view.encode(codec, "ignore")
    assert engine.report(film, max_new_tokens=1)["input"]["view_position"] == ""


@pytest.mark.parametrize("uid", [b"", b"1..2", b"1.2.", b".1", b"1.2.x", b"1" * 65, b"1" * 5000, b"\xff\xfe", b"1.2 3"])
def test_ill_formed_identifiers_are_left_out(engine: Engine, library: Library, uid: bytes) -> None:
    picture = gradient(80, 80)
    film = library.film_of_array(picture)
    film.sop_instance_uid, film.view_position = uid, b"SECRET^NAME"
    told = engine.report(film, max_new_tokens=1)["input"]
    assert told["sop_instance_uid"] == told["view_position"] == ""
    film.sop_instance_uid, film.view_position = b"1.2.840.1 \0", b"pa "
    told = engine.report(film, max_new_tokens=1)["input"]
    assert (told["sop_instance_uid"], told["view_position"]) == ("1.2.840.1", "PA")
