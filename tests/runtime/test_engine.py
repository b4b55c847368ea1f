# SPDX-License-Identifier: Apache-2.0
"""The engine on hand-made bundles, with the real ONNX Runtime and the real kernel."""

from __future__ import annotations

import json
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import chest_picture, make_bundle

import edge
from edge.vision import VisionSession


@pytest.fixture(scope="module")
def engine(pristine: Path) -> edge.Engine:
    return edge.load(pristine, threads=1)


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return chest_picture()


def same(a: edge.Report, b: edge.Report) -> bool:
    return (a.findings, a.token_ids, a.logprobs, a.sentences) == (
        b.findings,
        b.token_ids,
        b.logprobs,
        b.sentences,
    )


def test_report(engine: edge.Engine, film: np.ndarray) -> None:
    report = engine.report(film)
    assert len(report.token_ids) == 24
    assert report.stop_reason == "length"
    assert 0 not in report.token_ids  # suppressed
    assert any("token cap" in warning for warning in report.warnings)
    assert report.mask is not None
    assert report.mask.shape == (8, 8)
    assert report.mask.dtype == np.uint8
    assert report.film is not None
    assert report.film.shape == film.shape
    assert report.software["threads"] == 1
    assert report.model["bundle_sha256"] == engine.bundle.sha256


def test_type_of_the_cache(bundle: Path, film: np.ndarray) -> None:
    """The caller's, else the bundle's, else the one that goes with the precision."""
    assert edge.load(bundle, threads=1).report(film).model["kv_dtype"] == "fp32"
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"kv_dtype": "int8"}))
    assert edge.load(bundle, threads=1).report(film).model["kv_dtype"] == "int8"
    assert edge.load(bundle, threads=1, kv_dtype="fp16").report(film).model["kv_dtype"] == "fp16"
    with pytest.raises(edge.UsageError, match="'int4' is not one of fp32, fp16, int8"):
        edge.load(bundle, threads=1, kv_dtype="int4")


def test_files_and_arrays_are_the_same(engine: edge.Engine, film: np.ndarray, picture: Path) -> None:
    assert same(engine.report(picture), engine.report(film))
    assert same(engine.report(str(picture)), engine.report(film))


def test_tokens_are_what_the_graph_and_the_kernel_say(engine: edge.Engine, film: np.ndarray) -> None:
    """The first token is the argmax of the graph's logits, the others follow from one row at a time."""
    from edge.decoder import Decoder
    from edge.film import read_film
    from edge.preprocess import to_gray8, to_pixels

    manifest = engine.manifest
    pixels = to_pixels(to_gray8(read_film(film), manifest.image["intensity"]), manifest.image)
    for rows in ("all", "prefill", "none"):
        report = engine.report(film, bias_rows=rows, repetition_penalty=1.0)
        seen = VisionSession(engine.bundle, threads=1).run(pixels, bias=rows != "none")
        decoder = Decoder(manifest.decoder, engine.bundle.weights(), threads=1)
        decoder.set_prefix(seen.keys, seen.values, seen.key_bias)
        logits, ids = seen.first_logits.copy(), []
        for _ in range(24):
            logits[0] = -np.inf
            ids.append(int(logits.argmax()))
            logits = decoder.forward([ids[-1]], bias=rows == "all")[0].copy()
        assert list(report.token_ids) == ids
        assert report.model["bias_rows"] == rows


def test_threads_do_not_change_the_tokens(pristine: Path, film: np.ndarray) -> None:
    assert same(edge.load(pristine, threads=1).report(film), edge.load(pristine, threads=2).report(film))


def test_registers_are_left_out_of_the_evidence(tmp_path: Path, film: np.ndarray) -> None:
    report = edge.load(make_bundle(tmp_path / "b", registers=4), threads=1).report(film)
    evidence = next(sentence.evidence for sentence in report.sentences if sentence.evidence)
    assert evidence.grid == (4, 4)
    assert abs(sum(map(sum, evidence.heat)) - 1) < 1e-3


def test_begin_ids_replace_the_first_logits(tmp_path: Path, film: np.ndarray) -> None:
    plain = edge.load(make_bundle(tmp_path / "a"), threads=1).report(film)
    begun = edge.load(make_bundle(tmp_path / "b", generation={"begin_ids": [0]}), threads=1).report(film)
    assert plain.token_ids != begun.token_ids


# ---- bias rows


def test_bundle_without_a_segmenter(tmp_path: Path, film: np.ndarray) -> None:
    path = make_bundle(tmp_path / "b", bias=False)
    engine = edge.load(path, threads=1)
    report = engine.report(film)
    assert report.mask is None
    assert report.model["bias_rows"] == "none"
    assert not any("anatomy" in warning for warning in report.warnings)
    for rows in ("all", "prefill"):
        with pytest.raises(edge.UsageError, match="no segmenter"):
            engine.report(film, bias_rows=rows)
        with pytest.raises(edge.UsageError, match="no segmenter"):
            edge.load(path, bias_rows=rows)


def test_other_rows_than_the_bundles_are_told(pristine: Path, film: np.ndarray) -> None:
    report = edge.load(pristine, threads=1, bias_rows="prefill").report(film)
    assert any("bias rows prefill" in warning for warning in report.warnings)


def test_empty_mask(engine: edge.Engine) -> None:
    with pytest.raises(edge.InputError, match="nothing to see"):
        engine.report(np.zeros((64, 64), np.uint8))
    report = engine.report(np.zeros((64, 64), np.uint8), force=True)
    assert any("anatomy not found" in warning for warning in report.warnings)
    assert any("no anatomical guidance" in warning for warning in report.warnings)


def test_strict_mask_that_hides_everything(
    engine: edge.Engine, film: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    unguided = engine.report(film, bias_rows="none")
    lowest = np.finfo(np.float32).min
    run = VisionSession.run

    def hidden(self: VisionSession, pixels: Any, *, bias: bool) -> Any:
        seen = run(self, pixels, bias=bias)
        return replace(seen, key_bias=np.full_like(seen.key_bias, lowest))

    monkeypatch.setattr(VisionSession, "run", hidden)
    strict = replace(engine.manifest, bias=replace(engine.manifest.bias, kind="hidden"))
    monkeypatch.setattr(engine, "manifest", strict)
    report = engine.report(film)
    assert same(report, unguided)
    assert report.model["bias_rows"] == "none"
    assert any("hides the whole image" in warning for warning in report.warnings)


def test_hidden_image_keys_are_not_read(engine: edge.Engine, film: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bias as a soft one, where nothing is left out, gives the same tokens."""
    from dataclasses import replace

    from edge.cli.report import timings_line

    run = VisionSession.run

    def partly(self: VisionSession, pixels: Any, *, bias: bool) -> Any:
        seen = run(self, pixels, bias=bias)
        key_bias = seen.key_bias.copy()
        key_bias[0, ::2] = key_bias[1, 3:] = np.finfo(np.float32).min
        return replace(seen, key_bias=key_bias)

    monkeypatch.setattr(VisionSession, "run", partly)
    soft = {rows: engine.report(film, bias_rows=rows) for rows in ("all", "prefill")}
    strict = replace(engine.manifest, bias=replace(engine.manifest.bias, kind="hidden"))
    monkeypatch.setattr(engine, "manifest", strict)
    hard = {rows: engine.report(film, bias_rows=rows) for rows in ("all", "prefill")}
    for rows in ("all", "prefill"):
        assert hard[rows].token_ids == soft[rows].token_ids
        np.testing.assert_allclose(hard[rows].logprobs, soft[rows].logprobs, atol=1e-4)
    keys = soft["all"].cache["image_keys"]
    assert keys == 2 * engine.manifest.prefix.length
    assert soft["all"].cache["image_keys_kept"] == hard["prefill"].cache["image_keys_kept"] == keys
    assert hard["all"].cache["image_keys_kept"] == keys // 4 + 3
    assert hard["all"].to_dict()["cache"]["bytes_per_token"] < soft["all"].cache["bytes_per_token"]
    assert "image keys hidden and not read" in timings_line(hard["all"])
    assert "hidden" not in timings_line(hard["prefill"])


# ---- generation options


def test_sampling_is_reproducible(engine: edge.Engine, film: np.ndarray) -> None:
    def tokens(**options: Any) -> tuple[int, ...]:
        return engine.report(film, temperature=2.0, **options).token_ids

    assert tokens(seed=1) == tokens(seed=1)
    assert tokens(seed=1) != tokens(seed=2)
    assert tokens(seed=1, top_k=1) == engine.report(film).token_ids


def test_prompt(engine: edge.Engine, film: np.ndarray) -> None:
    report = engine.report(film, prompt="The heart is normal.")
    assert report.findings.startswith("The heart is normal.")
    assert report.sentences[0].confidence is None or report.sentences[0].text != "The heart is normal."
    assert report.prompt == "The heart is normal."
    assert len(report.token_ids) == 24
    assert len(report.logprobs) == 24


def test_stop_ids(tmp_path: Path, engine: edge.Engine, film: np.ndarray) -> None:
    ids = engine.report(film).token_ids
    stopped = edge.load(make_bundle(tmp_path / "b", generation={"stop_ids": [ids[3]]}), threads=1).report(film)
    assert stopped.token_ids == ids[:3]
    assert stopped.stop_reason == "stop"
    assert not any("token cap" in warning for warning in stopped.warnings)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
        {"max_new_tokens": 2.0},
        {"bias_rows": "some"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"seed": -1},
        {"repetition_penalty": 0},
        {"prompt": 5},
        {"prompt": "word " * 500},
        {"max_new_tokens": np.float64(2)},
        {"max_new_tokens": np.True_},
        {"beams": True},
        {"top_k": True},
        {"temperature": True},
        {"temperature": np.float32("nan")},
        {"temperature": 10**400},
        {"temperature": np.ones(2)},
        {"repetition_penalty": "1.2"},
    ],
)
def test_wrong_options(engine: edge.Engine, film: np.ndarray, options: dict[str, Any]) -> None:
    with pytest.raises(edge.UsageError):
        engine.report(film, **options)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"max_new_tokens": np.int64(5)}, {"max_new_tokens": 5}),
        ({"beams": np.int8(2)}, {"beams": 2}),
        ({"repetition_penalty": np.float32(1.5)}, {"repetition_penalty": 1.5}),
        (
            {"temperature": np.float32(2), "top_k": np.uint16(7), "top_p": np.float16(0.5), "seed": np.uint64(1)},
            {"temperature": 2.0, "top_k": 7, "top_p": 0.5, "seed": 1},
        ),
        ({"temperature": Fraction(3, 2), "top_p": np.int32(1)}, {"temperature": 1.5}),
    ],
)
def test_numbers_of_numpy_are_numbers(
    engine: edge.Engine, film: np.ndarray, given: dict[str, Any], same: dict[str, Any]
) -> None:
    """As Python's own they go on: what is written out is JSON."""
    report = engine.report(film, **given)
    assert report.token_ids == engine.report(film, **same).token_ids
    assert report.to_json()
    options = engine._asked(max_new_tokens=np.int16(5), repetition_penalty=np.float64(2)).options
    assert (type(options.max_new_tokens), type(options.repetition_penalty)) == (int, float)


def test_numbers_of_numpy_elsewhere(engine: edge.Engine, film: np.ndarray) -> None:
    assert edge.load(engine.bundle, threads=np.int32(2)).threads == 2
    (made,) = engine.reports([film], at_once=np.int64(2))
    assert isinstance(made, edge.Report)
    session = engine.open(film)
    text = session.complete("The", sentences=np.int64(1), max_new_tokens=np.int64(9)).text
    assert text == session.complete("The", sentences=1, max_new_tokens=9).text


@pytest.mark.parametrize("wrong", [True, np.True_, np.float32(1)])
def test_what_is_no_whole_number(engine: edge.Engine, film: np.ndarray, wrong: Any) -> None:
    session = engine.open(film)
    for call in (
        lambda: edge.load(engine.bundle, threads=wrong),
        lambda: engine.reports([film], at_once=wrong),
        lambda: session.complete("The", sentences=wrong),
    ):
        with pytest.raises(edge.UsageError, match="whole number"):
            call()


def test_largest_cap(engine: edge.Engine, film: np.ndarray) -> None:
    """The refusal says which limit it is, what takes how much of it, and what to do."""
    assert len(engine.report(film, max_new_tokens=128 - 16).token_ids) == 112
    limit = "its context length is 128 tokens, less 16 for the image"
    for words, options in (
        (f"from 1 to 112 with this model: {limit}; ask for fewer$", {"max_new_tokens": 113}),
        (
            rf"from 1 to \d+ with this model: {limit}, \d+ for the prompt; ask for fewer, or shorten the prompt$",
            {"max_new_tokens": 112, "prompt": "the heart"},
        ),
        (rf"prompt is too long for this model: {limit}, \d+ for the prompt; shorten it$", {"prompt": "word " * 500}),
    ):
        with pytest.raises(edge.UsageError, match=words):
            engine.report(film, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "tpu"}, edge.UsageError),
        ({"device": "tensorrt", "vision": "openvino"}, edge.DeviceError),
        ({"threads": 0}, edge.UsageError),
        ({"bias_rows": "some"}, edge.UsageError),
    ],
)
def test_wrong_load(pristine: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        edge.load(pristine, **options)


def test_cuda_that_is_not_here(pristine: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows CUDA")
    with pytest.raises(edge.DeviceError, match="no CUDA"):
        edge.load(pristine, device="cuda")


def test_silent_fallback_is_told(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession

    def fall_back(path: str, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        assert not enable_fallback
        assert providers[0][0] == names[0]
        assert providers[0][1]["use_tf32"] == "0"
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(edge.DeviceError, match="fell back to CPUExecutionProvider"):
        edge.load(pristine, device="cuda")


# ---- streaming and stopping


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("prompt", ["", "The heart is normal. "])
def test_stream_equals_the_final_text(engine: edge.Engine, film: np.ndarray, cut: bool, prompt: str) -> None:
    for seed in range(8):
        pieces: list[str] = []
        report = engine.report(
            film, temperature=1.5, seed=seed, cut=cut, prompt=prompt, on_text=pieces.append, max_new_tokens=60
        )
        assert "".join(pieces) == report.findings
        assert all(pieces)


def test_cut_is_told(engine: edge.Engine, film: np.ndarray) -> None:
    report = engine.report(film, cut=True, prompt="The heart is normal. The")
    assert report.findings == "The heart is normal."
    assert any("left out" in warning for warning in report.warnings)
    assert len(report.token_ids) == 24


def test_exception_of_a_callback(engine: edge.Engine, film: np.ndarray) -> None:
    def stop(_piece: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        engine.report(film, on_text=stop)
    assert engine.report(film).token_ids  # and the engine goes on


def test_cancel_before(engine: edge.Engine, film: np.ndarray) -> None:
    token = edge.CancelToken()
    token.cancel()
    with pytest.raises(edge.Cancelled):
        engine.report(film, cancel=token)


def test_cancel_while_writing(engine: edge.Engine, film: np.ndarray) -> None:
    token = edge.CancelToken()
    seen: list[str] = []

    def stop(piece: str) -> None:
        seen.append(piece)
        token.cancel()

    with pytest.raises(edge.Cancelled):
        engine.report(film, cancel=token, on_text=stop)
    assert seen


def test_one_engine_in_several_threads(engine: edge.Engine) -> None:
    films = [np.roll(chest_picture(), 3 * i, axis=1) for i in range(4)]
    alone = [engine.report(film) for film in films]
    together: list[edge.Report | None] = [None] * 4

    def work(index: int) -> None:
        for _ in range(5):
            together[index] = engine.report(films[index])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(b is not None and same(a, b) for a, b in zip(alone, together, strict=True))
    assert len({report.token_ids for report in alone}) > 1


# ---- notices


def test_notice_and_synthetic(tmp_path: Path, film: np.ndarray) -> None:
    path = make_bundle(tmp_path / "b", notice="synthetic phantoms, not for clinical use", synthetic=True)
    engine = edge.load(path, threads=1)
    report = engine.report(film)
    assert engine.notice == "synthetic phantoms, not for clinical use"
    assert report.to_dict()["notice"] == engine.notice
    assert any("synthetic" in warning for warning in report.warnings)


def test_demo_bundle_always_has_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_REPORT_BUNDLE", raising=False)
    monkeypatch.setattr("edge.bundle.DEMO", make_bundle(tmp_path / "demo"))
    assert "not for clinical use" in (edge.Bundle.open().notice or "")
    assert edge.Bundle.open(tmp_path / "demo").notice
    monkeypatch.setattr("edge.bundle.DEMO", tmp_path / "none")
    with pytest.raises(edge.BundleError, match="no demo bundle"):
        edge.load()


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")  # we take one, not make one
def test_arguments_of_other_types(engine: edge.Engine, film: np.ndarray) -> None:
    """Typed errors, before the film is looked at."""
    for call in (
        lambda: engine.report(np.ma.masked_array(film, film > 9)),
        lambda: engine.report(film, prompt="\ud800"),
        lambda: engine.report(film, context=3),  # type: ignore[arg-type]
        lambda: engine.report(film, temperature=1e-60),
        lambda: engine.report(film, top_p=1e-60),
        lambda: engine.report(film, on_text="print"),  # type: ignore[arg-type]
        lambda: engine.report(film, cancel=threading.Event()),
        lambda: engine.open(film).complete("The", on_text=3),  # type: ignore[arg-type]
        lambda: engine.open(film).complete("The", cancel=3),
        lambda: list(engine.reports("film.dcm")),
        lambda: list(engine.reports(film)),
        lambda: list(engine.reports(None)),  # type: ignore[arg-type]
        lambda: engine.report(film, context="a text"),
        lambda: engine.report(film).with_text("One. Two."),
        lambda: engine.report(film).with_text([3]),  # type: ignore[list-item]
        lambda: engine.report(film).with_text(3),  # type: ignore[arg-type]
        lambda: edge.Study("film.dcm"),
        lambda: edge.Study(film),
        lambda: edge.load(3),  # type: ignore[arg-type]
    ):
        with pytest.raises(edge.UsageError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert engine.report(np.asmatrix(film)).token_ids == engine.report(film).token_ids
