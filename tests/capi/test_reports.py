# SPDX-License-Identifier: Apache-2.0
"""Reports of the C library are those of the Python package: ids, log-probabilities, texts, evidence, warnings."""

from __future__ import annotations

import ctypes
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from capi import ON_TEXT, CapiError, Engine, Error, Library, onnxruntime_library
from dicom_film import film_of_dataset
from handmade import CODING, chest_picture, make_bundle, make_graph, seal

import edge
from edge.vision.choice import has_bf16

ROOT = Path(__file__).parents[2]
MEASURED = ("timings_ms", "tokens_per_s")


@pytest.fixture(scope="module")
def python(demo: Path, engine: Engine) -> edge.Engine:
    """The Python engine on the same instruction set as the library's build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_ISA", engine.info["software"]["isa"])
        return edge.load(demo, threads=1)


def same(ours: dict[str, Any], theirs: edge.Report) -> None:
    expected = json.loads(theirs.to_json())
    given = {key: value for key, value in ours.items() if key != "c"}
    assert list(given) == list(expected)
    for key in MEASURED:
        given.pop(key), expected.pop(key)
    for left, right in zip(given["sentences"], expected["sentences"], strict=True):
        evidence, other = left.pop("evidence"), right.pop("evidence")
        assert (evidence is None) == (other is None)
        if evidence is not None:
            # The sums are the same to the last digit or two of double precision.
            assert np.abs(np.array(evidence.pop("heat")) - np.array(other.pop("heat"))).max() <= 1.5e-6
        assert evidence == other
    assert given == expected
    mask = ours["c"]["mask"]
    assert (mask is None) == (theirs.mask is None)
    assert mask is None or np.array_equal(mask, theirs.mask)


def cells(ds: pydicom.Dataset) -> np.ndarray:
    """What a host's decoder makes of the compressed pixels."""
    return ds.pixel_array.astype(np.uint16)


@pytest.mark.parametrize("rows", ["all", "prefill", "none"])
def test_sample_film(engine: Engine, python: edge.Engine, library: Library, rows: str) -> None:
    path, keep = ROOT / "examples" / "phantom.dcm", []
    ds = pydicom.dcmread(path)
    film = film_of_dataset(library, ds, keep, cells(ds))
    same(engine.report(film, bias_rows=rows), python.report(path, bias_rows=rows))


@pytest.mark.parametrize("seed", [11, 12, 13, 14])
def test_drawn_phantoms(engine: Engine, python: edge.Engine, library: Library, seed: int) -> None:
    """What edge-phantom draws, of both photometric interpretations."""
    dicom = pytest.importorskip("edge_export.phantom.dicom")
    from edge_export.phantom.case import sample_case
    from edge_export.phantom.draw import draw

    case = sample_case(np.random.default_rng(seed))
    height, width = dicom.film_size(case, 500)
    ds = dicom.to_dataset(draw(case, height, width), case, bits=12 + seed % 4, photometric=f"MONOCHROME{1 + seed % 2}")
    for rows in ("all", "none"):
        keep: list[Any] = []
        same(engine.report(film_of_dataset(library, ds, keep), bias_rows=rows), python.report(ds, bias_rows=rows))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 5},
    {"max_new_tokens": 9, "cut": 1},
    {"draft": 0},
    {"repetition_penalty": 1.7},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "seed": (1 << 63) - 1},
    {"beams": 4, "max_new_tokens": 30},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_options(engine: Engine, python: edge.Engine, library: Library, options: dict[str, Any]) -> None:
    picture = chest_picture(300)
    theirs = python.report(picture, **{k: bool(v) if k in ("cut", "draft") else v for k, v in options.items()})
    same(engine.report(library.film_of_array(picture), **options), theirs)


SECTIONS = [
    {"token_id": token, "name": name}
    for token, name in [(9, "findings"), *((i, ("findings", "impression", "other")[i % 3]) for i in range(60, 310, 18))]
]
RULES = {"no_repeat_ngram": 2, "min_new_tokens": 11, "counted_begin": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 3},
        {"bias": False},
        {"kv_dtype": "int8"},
        {"generation": {"begin_ids": [5, 9], "cut_at_sentence": True}},
        {"generation": {"evidence_layers": [], "stop_ids": [40, 41, 42, 43, 44, 45, 46]}},
        {"synthetic": True, "notice": "for tests only \u2013 \u6771\u4eac"},
        {"coding": CODING},
        {"generation": {"sections": SECTIONS}},
        {"generation": {"sections": SECTIONS, "begin_ids": [5, 9], "cut_at_sentence": True, "max_new_tokens": 60}},
        {"generation": {"beams": 3, "sections": SECTIONS, "stop_ids": [40, 41, 42, 43]}},
        {"generation": {"beams": 4, "length_penalty": -0.5, "early_stopping": "yes", "begin_ids": [5], **RULES}},
        {"generation": {"beams": 2, "length_penalty": 2.0, "early_stopping": "never", "forced_end_id": 44}},
        {"generation": {"begin_ids": [5, 9], "penalise_prompt": True, "stop_ids": list(range(30, 90)), **RULES}},
    ],
)
def test_handmade_bundles(
    engine: Engine, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Noise of every kind of bundle: registers, no segmenter, prompts, incomplete characters."""
    monkeypatch.setenv("EDGE_ISA", engine.info["software"]["isa"])
    bundle, picture = make_bundle(tmp_path / "bundle", **changes), chest_picture()
    with library.engine(bundle) as handmade:
        same(handmade.report(library.film_of_array(picture)), edge.load(bundle, threads=1).report(picture))


def test_beams_of_a_bundle_can_be_left(
    engine: Engine, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text instead, by the option and by a temperature; the pieces of the text come all the same."""
    monkeypatch.setenv("EDGE_ISA", engine.info["software"]["isa"])
    bundle, picture = make_bundle(tmp_path / "bundle", generation={"beams": 4, **RULES}), chest_picture()
    python = edge.load(bundle, threads=1)
    with library.engine(bundle) as handmade:
        film, pieces, texts = library.film_of_array(picture), [], []

        @ON_TEXT
        def on_text(_user: int, text: Any, length: int) -> int:
            pieces.append(text[:length].decode())
            return 0

        for options in ({}, {"beams": 1}, {"beams": 2}, {"temperature": 0.7, "seed": 5}):
            pieces.clear()
            ours = handmade.report(film, on_text=on_text, **options)
            same(ours, python.report(picture, **options))
            assert "".join(pieces) == ours["findings"]
            texts.append(ours["token_ids"])
        assert texts[0] != texts[1] != texts[3]


def test_pictures_without_anatomy(library: Library, pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with library.engine(pristine) as engine:
        monkeypatch.setenv("EDGE_ISA", engine.info["software"]["isa"])
        python = edge.load(pristine, threads=1)
        half = chest_picture()
        half[:, :48] = 0
        for picture in (half, np.eye(80, 90, dtype=np.uint8), 255 - chest_picture()):
            same(engine.report(library.film_of_array(picture)), python.report(picture))


def test_threads_do_not_change_a_report(library: Library, demo: Path, engine: Engine) -> None:
    film = library.film_of_array(chest_picture(400))
    first = engine.report(film)
    for threads in (2, 5):
        with library.engine(demo, threads=threads) as other:
            again = other.report(film)
        assert (again["token_ids"], again["logprobs"]) == (first["token_ids"], first["logprobs"])
        assert again["software"]["threads"] == threads


def test_two_engines_at_once(library: Library, demo: Path, pristine: Path) -> None:
    """Different bundles, in threads of their own, each called by two more."""
    films = [library.film_of_array(chest_picture(size)) for size in (200, 310)]
    engines = [library.engine(demo), library.engine(pristine)]
    alone = [[engine.report(film)["token_ids"] for film in films] for engine in engines]
    assert alone[0] != alone[1]
    found: dict[tuple[int, int], Any] = {}

    def work(e: int, f: int) -> None:
        found[e, f] = engines[e].report(films[f])["token_ids"]

    threads = [threading.Thread(target=work, args=(e, f)) for e in (0, 1) for f in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(e, f): alone[e][f] for e in (0, 1) for f in (0, 1)}
    for engine in engines:
        engine.close()


def test_streaming(engine: Engine, library: Library) -> None:
    pieces: list[str] = []

    @ON_TEXT
    def on_text(user: int, text: Any, length: int) -> int:
        assert user == 77
        pieces.append(text[:length].decode())  # strictly: never inside a character
        return 0

    film = library.film_of_array(chest_picture(300))
    report = engine.report(film, on_text=on_text, user=77)
    assert "".join(pieces) == report["findings"]
    assert len(pieces) > 5
    pieces.clear()
    cut = engine.report(film, on_text=on_text, user=77, cut=1, max_new_tokens=12)
    assert "".join(pieces) == cut["findings"]


def test_a_callback_can_cancel(engine: Engine, library: Library) -> None:
    calls = []

    @ON_TEXT
    def on_text(_user: int, _text: Any, _length: int) -> int:
        calls.append(1)
        return 1

    film = library.film_of_array(chest_picture(300))
    with pytest.raises(CapiError, match="stopped before") as caught:
        engine.report(film, on_text=on_text)
    assert (caught.value.status, len(calls)) == (83, 1)
    assert engine.report(film)["findings"]


def test_cancel_tokens(engine: Engine, library: Library) -> None:
    c, film = library.c, library.film_of_array(chest_picture(300))
    token = c.edge_cancel_new()

    @ON_TEXT
    def on_text(_user: int, _text: Any, _length: int) -> int:
        c.edge_cancel_set(token)
        return 0

    for options in ({"on_text": on_text}, {}):  # while it runs; before it begins
        with pytest.raises(CapiError, match="stopped before") as caught:
            engine.report(film, cancel=token, **options)
        assert caught.value.status == 83
    c.edge_cancel_reset(token)
    assert engine.report(film, cancel=token)["findings"]
    c.edge_cancel_free(token)


def test_a_callback_must_not_report_on_its_engine(engine: Engine, library: Library) -> None:
    film = library.film_of_array(chest_picture(300))
    statuses = []

    @ON_TEXT
    def on_text(_user: int, _text: Any, _length: int) -> int:
        try:
            engine.report(film)
        except CapiError as error:
            statuses.append(error.status)
        return 0

    assert engine.report(film, on_text=on_text)["findings"]
    assert set(statuses) == {84}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 1000}, "max_new_tokens"),
        ({"bias_rows": "some"}, "'some'"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"beams": 17}, "beams"),
        ({"beams": -1}, "beams"),
        ({"beams": 2, "temperature": 0.5}, "beams"),
        ({"size": 3}, "edge_report_options_init"),
    ],
)
def test_options_out_of_range(engine: Engine, library: Library, options: dict[str, Any], word: str) -> None:
    picture = chest_picture(100)
    with pytest.raises(CapiError, match=word) as caught:
        engine.report(library.film_of_array(picture), **options)
    assert caught.value.status == 1
    last = Error()
    library.c.edge_engine_last_error(engine.handle, ctypes.byref(last))
    assert (last.status, last.message.decode()) == (1, str(caught.value))


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        ({"threads": -1}, 1, "threads"),
        ({"threads": 513}, 1, "threads"),
        ({"bias_rows": "every"}, 1, "bias rows"),
        ({"kv_dtype": "int4"}, 1, "'int4' is not one of fp32, fp16, int8"),
        ({"runtime": "tensorrt"}, 1, "'tensorrt'"),
        ({"isa": "mmx"}, 82, "unknown instruction set"),
        ({"runtime_library": "/nowhere/libonnxruntime.so"}, 81, "ONNX Runtime cannot be opened"),
        ({"runtime": "openvino", "runtime_library": "/nowhere/libopenvino_c.so"}, 81, "OpenVINO"),
        ({"size": 0}, 1, "edge_options_init"),
    ],
)
def test_engine_options_out_of_range(
    library: Library, pristine: Path, options: dict[str, Any], status: int, word: str
) -> None:
    with pytest.raises(CapiError, match=word) as caught:
        library.engine(pristine, **options)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_a_library_that_is_no_runtime(library: Library, pristine: Path) -> None:
    for runtime in ("ort", "openvino"):
        with pytest.raises(CapiError) as caught:
            library.engine(pristine, runtime=runtime, runtime_library=str(library.path))
        assert caught.value.status == 81


def test_rows_need_a_segmenter(library: Library, tmp_path: Path) -> None:
    with pytest.raises(CapiError, match="no segmenter"):
        library.engine(make_bundle(tmp_path / "b", bias=False), bias_rows="all")


def test_null_and_versions(library: Library) -> None:
    """Null pointers are an error or nothing, never a crash."""
    c, error = library.c, Error()
    assert c.edge_abi_version() == 1
    assert c.edge_version().decode() == edge.__version__
    assert c.edge_status_name(30) == b"bundle"
    assert c.edge_status_name(-7) == b"unknown"
    assert c.edge_engine_open(None, None, None, ctypes.byref(error)) == error.status == 1
    assert c.edge_engine_open(b"/nowhere", None, None, None) == 1
    assert c.edge_engine_open(b"/nowhere", None, ctypes.byref(ctypes.c_void_p()), None) == 30
    assert c.edge_engine_report(None, None, None, None, ctypes.byref(error)) == error.status == 1
    assert c.edge_engine_prepare(None, None, None, 0, ctypes.byref(error)) == error.status == 1
    for function in (c.edge_engine_close, c.edge_report_free, c.edge_cancel_free, c.edge_cancel_set):
        function(None)
    assert c.edge_report_text(None) is c.edge_report_json(None) is c.edge_engine_info(None) is None
    assert c.edge_report_warning_count(None) == 0


def test_smaller_structures_of_older_headers(library: Library, engine: Engine) -> None:
    """Fields behind a structure's size are not read; those beyond what is known are not used."""
    film = library.film_of_array(chest_picture(200))
    whole = engine.report(film)
    film.size = type(film).has_padding.offset
    film.has_padding, film.modality = 1, 1  # a pointer to nowhere
    assert engine.report(film)["token_ids"] == whole["token_ids"]


def openvino_file() -> Path:
    openvino = pytest.importorskip("openvino")
    return next((Path(openvino.__file__).parent / "libs").glob("libopenvino_c.so*"))


def test_openvinos_own_graph(library: Library, pristine: Path, tmp_path: Path) -> None:
    """Where the processor is one for it OpenVINO comes first, with its graph: what the package does there."""
    file, picture = openvino_file(), chest_picture(100)
    film, folder = library.film_of_array(picture), make_bundle(tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    graph = make_graph(manifest["decoder"]["vocab"], seed=7)  # other numbers, to be told apart
    (folder / "vision.static.onnx").write_bytes(graph.SerializeToString())
    manifest["graphs"]["vision_static"] = "vision.static.onnx"
    seal(folder, manifest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_OPENVINO_LIBRARY", str(file))
        patch.setenv("EDGE_ONNXRUNTIME_LIBRARY", str(onnxruntime_library()))
        patch.setenv("EDGE_ISA", "generic")
        theirs = edge.load(folder, threads=1)
        usual = list(edge.load(pristine, threads=1, vision="ort").report(picture).token_ids)
        with library.engine(folder, runtime_library=None) as ours:
            report = ours.report(film)
            same(report, theirs.report(picture))
            assert report["software"]["vision"] == ("openvino" if has_bf16() else "ort")
            assert (report["token_ids"] == usual) is not has_bf16()
        with library.engine(folder, runtime="ort") as other:  # the graph for all
            assert other.report(film)["token_ids"] == usual
        patch.setenv("EDGE_OPENVINO_LIBRARY", "/nowhere")
        with library.engine(folder, runtime_library=None) as without:
            assert without.info["software"]["vision"] == "ort"


def test_openvino(library: Library, demo: Path, engine: Engine) -> None:
    """The other runtime, where it is installed: the same words, and the numbers of the Python package with it."""
    file = openvino_file()
    film, picture = library.film_of_array(chest_picture(300)), chest_picture(300)
    with library.engine(demo, runtime="openvino", runtime_library=str(file)) as other:
        report = other.report(film)
        assert report["software"]["vision"] == "openvino"
        assert report["token_ids"] == engine.report(film)["token_ids"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGE_ISA", engine.info["software"]["isa"])
            same(report, edge.load(demo, threads=1, vision="openvino").report(picture))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_OPENVINO_LIBRARY", str(file))
        patch.setenv("EDGE_ONNXRUNTIME_LIBRARY", "/nowhere")
        with library.engine(demo, runtime_library=None) as found:  # the first that is found
            assert found.info["software"]["vision"] == "openvino"
