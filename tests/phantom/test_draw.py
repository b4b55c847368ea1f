# SPDX-License-Identifier: Apache-2.0
"""Phantom drawing: determinism, masks, findings, resolutions, sampling and DICOM output."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from edge_export.phantom.anatomy import Anatomy  # noqa: E402
from edge_export.phantom.case import CONFLICTS, Case, conflicts, sample_case  # noqa: E402
from edge_export.phantom.dicom import film_size, to_dataset, write_dicom, write_png8  # noqa: E402
from edge_export.phantom.draw import Phantom, draw  # noqa: E402
from edge_export.phantom.labels import DEVICES, FINDINGS, LABELS, is_normal  # noqa: E402

SIZE = 320


def _case(*labels: str, seed: int = 5) -> Case:
    return sample_case(np.random.default_rng(seed), frozenset(labels))


@pytest.fixture(scope="module")
def plain() -> Phantom:
    return draw(_case(), SIZE, SIZE)


def test_labels_are_unique_and_split() -> None:
    assert len(set(LABELS)) == 26
    assert len(FINDINGS) == 22
    assert len(DEVICES) == 4
    assert is_normal(frozenset(DEVICES))
    assert not is_normal({"edema", "pacemaker"})


def test_same_case_same_picture() -> None:
    case = sample_case(np.random.default_rng(11))
    assert case == sample_case(np.random.default_rng(11))
    first, second = draw(case, 256, 256), draw(case, 256, 256)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.lungs, second.lungs)
    assert np.array_equal(first.heart, second.heart)
    assert not np.array_equal(first.image, draw(dataclasses.replace(case, seed=case.seed + 1), 256, 256).image)


def test_plain_film(plain: Phantom) -> None:
    assert plain.image.shape == (SIZE, SIZE)
    assert plain.image.dtype == np.float32
    assert plain.image.min() >= 0
    assert plain.image.max() <= 1
    assert np.isfinite(plain.image).all()
    assert plain.regions == {}
    assert not (plain.lungs & plain.heart).any()
    assert 0.18 < plain.lungs.mean() < 0.5
    assert 0.03 < plain.heart.mean() < 0.15
    assert plain.image[plain.lungs].mean() < 0.7 * plain.image[plain.heart].mean(), "air is dark, heart bright"


@pytest.mark.parametrize("seed", range(6))
def test_masks_on_any_case(seed: int) -> None:
    case = sample_case(np.random.default_rng(100 + seed))
    phantom = draw(case, 256, 256)
    assert set(phantom.regions) == case.labels
    assert not (phantom.lungs & phantom.heart).any()
    assert phantom.lungs.mean() > 0.10
    assert phantom.heart.mean() > 0.02
    for edge in (phantom.lungs[0], phantom.lungs[-1], phantom.lungs[:, 0], phantom.lungs[:, -1]):
        assert not edge.any(), "the lungs lie on the film"


@pytest.mark.parametrize("label", LABELS)
def test_finding_changes_its_region(label: str, plain: Phantom) -> None:
    shown = draw(_case(label), SIZE, SIZE)
    region = shown.regions[label]
    assert region.any()
    change = np.abs(cv2.resize(shown.image, (256, 256), interpolation=cv2.INTER_AREA)
                    - cv2.resize(plain.image, (256, 256), interpolation=cv2.INTER_AREA))  # fmt: skip
    small = cv2.resize(region.astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST) > 0
    assert (change[small] > 0.06).sum() >= 60, "visible after a resize to 256"
    assert change[small].mean() > 3 * change[~small].mean()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "kind",
    [
        "effusion_{}_small",
        "effusion_{}_large",
        "pneumothorax_{}",
        "opacity_{}_upper",
        "nodule_{}_lower",
        "elevated_hemidiaphragm_{}",
    ],
)
def test_patient_left_is_image_right(kind: str, side: str) -> None:
    label = kind.format(side)
    case = dataclasses.replace(_case(label), tilt=0.0, centre_x=0.5)
    columns = np.nonzero(draw(case, 200, 200).regions[label])[1]
    assert columns.mean() > 110 if side == "left" else columns.mean() < 90


@pytest.mark.parametrize("kind", ["nodule", "opacity"])
@pytest.mark.parametrize("zone", ["upper", "mid", "lower"])
def test_lesions_lie_in_their_zone(kind: str, zone: str) -> None:
    for seed in range(4):
        case = dataclasses.replace(_case(f"{kind}_right_{zone}", seed=seed), tilt=0.0)
        phantom = draw(case, 256, 256)
        region = phantom.regions[f"{kind}_right_{zone}"]
        rows, columns = np.nonzero(region)
        _, v = Anatomy(case).chest(np.float32(columns.mean() / 256), np.float32(rows.mean() / 256 * case.aspect))
        low, high = Anatomy(case).zone("right", zone)
        assert low < v < high + 0.02
        assert (region & phantom.heart).mean() < 0.3 * region.mean()
        width = np.ptp(columns) + 1
        assert 9 <= width <= 20 if kind == "nodule" else width > 22


def test_heart_sizes_leave_a_gap() -> None:
    def ratio(case: Case) -> float:
        phantom = draw(dataclasses.replace(case, tilt=0.0), 300, 300)
        heart, lungs = (
            np.nonzero(phantom.heart.any(0))[0],
            np.nonzero((phantom.lungs | phantom.heart).any(0))[0],
        )
        return float(np.ptp(heart) / np.ptp(lungs))

    for seed in range(5):
        assert ratio(_case(seed=seed)) < 0.49
        assert ratio(_case("cardiomegaly", seed=seed)) > 0.55


def test_same_look_at_every_resolution() -> None:
    for labels in (
        (),
        ("edema", "sternal_wires", "effusion_left_small"),
        ("opacity_left_mid", "nodule_right_upper", "central_line"),
    ):
        case = _case(*labels, seed=3)
        small, large = draw(case, 400, 400), draw(case, 800, 800)
        a, b = (cv2.resize(p.image, (200, 200), interpolation=cv2.INTER_AREA) for p in (small, large))
        assert np.abs(a - b).mean() < 0.008
        assert np.quantile(np.abs(a - b), 0.999) < 0.08
        both = cv2.resize(large.lungs.astype(np.uint8), (400, 400), interpolation=cv2.INTER_AREA) > 0
        assert 2 * (both & small.lungs).sum() / (both.sum() + small.lungs.sum()) > 0.985


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="64 pixels"):
        draw(_case(), 32, 256)


def test_sampling_frequencies_and_conflicts() -> None:
    rng = np.random.default_rng(0)
    cases = [sample_case(rng) for _ in range(2000)]
    seen = Counter(label for case in cases for label in case.labels)
    assert min(seen[label] for label in LABELS) > 0.045 * len(cases)
    assert 0.15 < np.mean([is_normal(case.labels) for case in cases]) < 0.21
    assert max(sum(label in FINDINGS for label in case.labels) for case in cases) <= 3
    assert not any(conflicts(case.labels) for case in cases)
    tube = [case for case in cases if "endotracheal_tube" in case.labels]
    assert 0.3 < np.mean(["central_line" in case.labels for case in tube]) < 0.65
    assert len({case.seed for case in cases}) == len(cases)
    assert all(1.0 <= case.aspect <= 1.25 for case in cases)


def test_conflicting_or_unknown_labels_are_refused() -> None:
    assert frozenset(("effusion_left_small", "effusion_left_large")) in CONFLICTS
    with pytest.raises(ValueError, match="exclude each other"):
        _case("pneumothorax_left", "nodule_left_mid")
    with pytest.raises(ValueError, match="unknown labels: fracture"):
        _case("fracture")


@pytest.mark.parametrize("modality", ["CR", "DX"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_reads_back(tmp_path: Path, modality: str, photometric: str) -> None:
    pydicom = pytest.importorskip("pydicom")
    case = _case("effusion_right_large")
    rows, columns = film_size(case, 400)
    assert (rows, columns) == (400, pytest.approx(400 / case.aspect, abs=2))
    phantom = draw(case, rows, columns)
    path = tmp_path / "film.dcm"
    write_dicom(to_dataset(phantom, case, bits=14, photometric=photometric, modality=modality), path)
    assert [item.name for item in tmp_path.iterdir()] == ["film.dcm"]
    ds = pydicom.dcmread(path)
    assert (ds.Modality, ds.PhotometricInterpretation, ds.BodyPartExamined, ds.ViewPosition) == (
        modality,
        photometric,
        "CHEST",
        case.view,
    )
    assert (ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (rows, columns, 16, 14, 13)
    assert ds.SOPClassUID == ("1.2.840.10008.5.1.4.1.1.1.1" if modality == "DX" else "1.2.840.10008.5.1.4.1.1.1")
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    assert ds.SOPInstanceUID.startswith("2.25.")
    assert all(uid.is_valid for uid in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID))
    assert str(ds.PatientName) == f"PHANTOM^{case.seed}"
    values = ds.pixel_array.astype(np.float64)
    assert values.max() < 2**14
    shade = np.corrcoef(values.ravel(), phantom.image.ravel())[0, 1]
    assert shade > 0.999 if photometric == "MONOCHROME2" else shade < -0.999
    assert abs(float(ds.WindowCenter) - (values.min() + values.max()) / 2) < 0.2 * 2**14
    again = to_dataset(phantom, case, bits=14, photometric=photometric, modality=modality)
    assert again.SOPInstanceUID == ds.SOPInstanceUID
    assert again.PixelData == ds.PixelData


def test_dicom_rle_and_bad_arguments(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    case = _case()
    phantom = draw(case, 128, 112)
    write_dicom(to_dataset(phantom, case, bits=16, rle=True), tmp_path / "rle.dcm")
    ds = pydicom.dcmread(tmp_path / "rle.dcm")
    assert ds.file_meta.TransferSyntaxUID.name == "RLE Lossless"
    assert np.array_equal(ds.pixel_array, to_dataset(phantom, case, bits=16).pixel_array)
    for bad in ({"bits": 8}, {"photometric": "RGB"}, {"modality": "CT"}):
        with pytest.raises(ValueError, match="must be"):
            to_dataset(phantom, case, **bad)


def test_png(tmp_path: Path, plain: Phantom) -> None:
    write_png8(plain, tmp_path / "sub" / "film.png")
    back = cv2.imread(str(tmp_path / "sub" / "film.png"), cv2.IMREAD_UNCHANGED)
    assert back.dtype == np.uint8
    assert back.shape == (SIZE, SIZE)
    assert np.abs(back / 255.0 - plain.image).max() < 0.003
