# SPDX-License-Identifier: Apache-2.0
"""CXRMate's folders: CvT and its projection head, sections by token type, several films, an earlier report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import cxrmate  # noqa: E402  (needs torch)
import encoder_decoder as small  # noqa: E402
from edge_export.cli import main  # noqa: E402
from gpu_rules import check_vision_graph  # noqa: E402

import edge  # noqa: E402

KINDS = tuple(cxrmate.KINDS)
SINGLE, MULTI, LONGITUDINAL = KINDS
PRIOR = {"prior_findings": "no [SEP] effusion tant", "prior_impression": "ato rest"}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Networks this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``made(kind)``: the model and an engine on its bundle."""
    known: dict[str, Any] = {}

    def make(kind: str) -> Any:
        if kind not in known:
            folder = tmp_path_factory.mktemp("cxrmate")
            model = cxrmate.random_model(kind)
            source = cxrmate.save(model, kind, folder / "folder", 32.0 if kind == LONGITUDINAL else None)
            assert main([str(source), "--out", str(folder / "bundle"), "-q"]) == 0
            check_vision_graph(folder / "bundle")
            known[kind] = model, edge.load(folder / "bundle", threads=2)
        return known[kind]

    return make


def films(count: int) -> list[np.ndarray]:
    """Pictures uint8 [rows, columns], each of its own shape."""
    smooth = (255 * (small.pictures(count, 96)[:, 0] * 0.5 + 0.5)).numpy().astype(np.uint8)
    return [picture[: 96 - 8 * (i % 3)] for i, picture in enumerate(smooth)]


def pixels(engine: edge.Engine, pictures: list[np.ndarray]) -> Any:
    """What the model sees [1, films, 3, H, W]."""
    from edge.prepare import prepare

    seen = [prepare(picture, engine.manifest.image, force=True).pixels for picture in pictures]
    return torch.from_numpy(np.concatenate(seen))[None]


def test_one_film(made: Any) -> None:
    """Greedy and four beams, twenty films; the second section begins where the model says so."""
    model, engine = made(SINGLE)
    generation = engine.manifest.generation
    assert (generation.begin_ids, generation.stop_ids) == ((cxrmate.BOS,), (cxrmate.EOS,))
    assert generation.rules["beams"] == 4
    assert generation.max_new_tokens == 256
    assert engine.manifest.decoder["type_after"] == [cxrmate.SEP, 1]
    pictures, texts = films(20), []
    seen = pixels(engine, pictures)[0]
    for beams in (1, 4):
        want = model.write(seen, [cxrmate.BOS], num_beams=beams, max_new_tokens=40)
        for picture, ids in zip(pictures, want, strict=True):
            texts.append(engine.report(picture, force=True, max_new_tokens=40, beams=beams))
            assert list(texts[-1].token_ids) == ids
    assert len({report.token_ids for report in texts}) > 10
    both = [report for report in texts if cxrmate.SEP in report.token_ids]
    assert both, "no text has a second section"
    assert any({s.section for s in report.sentences} == {"findings", "impression"} for report in both)


def test_types_matter(made: Any) -> None:
    """Without them the text is another one, so the comparison above is one."""
    model, engine = made(SINGLE)
    picture = films(4)[3]
    prompt = [cxrmate.BOS, 5, cxrmate.SEP, 7]
    plain = []
    for switches in ((), cxrmate.KINDS[SINGLE]):
        model.switches = switches
        plain.append(model.write(pixels(engine, [picture]), prompt, max_new_tokens=16))
    assert plain[0] != plain[1]


NOTHING = [cxrmate.PMT, cxrmate.NPF, cxrmate.PMT_SEP, cxrmate.NPI, cxrmate.BOS]
"""The prompt without an earlier report."""


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", [LONGITUDINAL, pytest.param(MULTI, marks=pytest.mark.slow)])
def test_several_films(made: Any, kind: str, count: int) -> None:
    model, engine = made(kind)
    assert engine.manifest.prefix.images == 5
    prompt = NOTHING if kind == LONGITUDINAL else [cxrmate.BOS]
    pictures = films(5)[-count:]
    report = engine.report(edge.Study(pictures), force=True, max_new_tokens=40, beams=1)
    assert [list(report.token_ids)] == model.write(pixels(engine, pictures), prompt, max_new_tokens=40)
    assert report.cache["image_keys"] == 2 * 16 * count
    assert len(report.input.get("films", [0])) == count
    shown = {s.evidence.film for s in report.sentences if s.evidence}
    assert shown <= ({0} if count == 1 else set(range(1, count + 1)))
    again = engine.report(edge.Study(pictures[::-1]), force=True, max_new_tokens=40, beams=1)
    one = engine.report(pictures[0], force=True, max_new_tokens=40, beams=1)
    assert count == 1 or (one.token_ids != report.token_ids and again.input["films"] == report.input["films"][::-1])


def test_studies_at_once(made: Any) -> None:
    """Studies of different sizes share the passes over the weights."""
    _, engine = made(LONGITUDINAL)
    pictures = films(6)
    studies = [edge.Study(pictures[:3]), pictures[3], edge.Study(pictures[4:])]
    together = engine.reports(studies, at_once=3, force=True, max_new_tokens=24, beams=1)
    for study, report in zip(studies, together, strict=True):
        alone = engine.report(study, force=True, max_new_tokens=24, beams=1)
        assert (report.token_ids, report.cache["image_keys"]) == (alone.token_ids, alone.cache["image_keys"])


@pytest.mark.parametrize("given", [None, {"prior_impression": "ato rest"}, PRIOR])
@pytest.mark.parametrize("beams", [1, 4])
def test_earlier_report(made: Any, given: dict[str, str] | None, beams: int) -> None:
    """Its words are the beginning of the decoder's text; what looks like a special token in them is none."""
    model, engine = made(LONGITUDINAL)
    pictures = films(2)
    words = engine._text
    prompt = []
    for name, token, none in (
        ("prior_findings", cxrmate.PMT, cxrmate.NPF), ("prior_impression", cxrmate.PMT_SEP, cxrmate.NPI)
    ):  # fmt: skip
        text = (given or {}).get(name, "")
        prompt += [token, *(words.encode_plain(text) if text else [none])]
    assert cxrmate.SEP not in prompt
    prompt.append(cxrmate.BOS)
    report = engine.report(edge.Study(pictures), force=True, context=given, max_new_tokens=40, beams=beams)
    want = model.write(pixels(engine, pictures), prompt, num_beams=beams, max_new_tokens=40)
    assert [list(report.token_ids)] == want
    assert report.context == tuple(given or ())
    assert report.to_dict().get("context") == (list(given) if given else None)


def test_completion_behind_an_earlier_report(made: Any) -> None:
    _, engine = made(LONGITUDINAL)
    picture = films(1)[0]
    session = engine.open(picture, force=True)
    report = session.report(context=PRIOR, prompt="the", max_new_tokens=20)
    greedy = engine.report(picture, force=True, context=PRIOR, prompt="the", max_new_tokens=20, beams=1)
    done = session.complete("the", context=PRIOR, sentences=None, max_new_tokens=20)
    assert done.token_ids == greedy.token_ids
    assert session.complete("the", sentences=None, max_new_tokens=20).token_ids != greedy.token_ids
    assert report.prompt == "the"


def test_refusals(made: Any) -> None:
    _, single = made(SINGLE)
    _, engine = made(LONGITUDINAL)
    picture = films(1)[0]
    with pytest.raises(edge.UsageError, match="looks at one film at a time, not at 2"):
        single.report(edge.Study([picture, picture]), force=True)
    with pytest.raises(edge.UsageError, match="up to 5 films at a time, not at 6"):
        engine.report(edge.Study([picture] * 6), force=True)
    with pytest.raises(edge.UsageError, match="at least one"):
        edge.Study([])
    with pytest.raises(edge.UsageError, match="no context 'x': this model reads none"):
        single.report(picture, force=True, context={"x": "y"})
    with pytest.raises(edge.UsageError, match="this model reads prior_findings, prior_impression"):
        engine.report(picture, force=True, context="y")
    with pytest.raises(edge.UsageError, match="must be a text"):
        engine.report(picture, force=True, context={"prior_findings": 3})  # type: ignore[dict-item]
    long = engine.report(picture, force=True, context={"prior_findings": "e a" * 300}, max_new_tokens=5)
    assert any("prior_findings was cut at 160" in warning for warning in long.warnings)


def test_films_of_two_studies_are_refused(made: Any) -> None:
    import pydicom

    _, engine = made(LONGITUDINAL)
    film = pydicom.dcmread(Path(__file__).parents[2] / "examples/phantom.dcm")
    other = pydicom.dcmread(Path(__file__).parents[2] / "examples/phantom.dcm")
    assert engine.report(edge.Study([film, other]), max_new_tokens=5).input["films"][1]["rows"]
    other.StudyInstanceUID = "1.2.3"
    with pytest.raises(edge.UsageError, match="2 different studies"):
        engine.report(edge.Study([film, other]))


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two films of one study and one of another."""
    import pydicom

    folder, paths = tmp_path_factory.mktemp("films"), []
    for number in range(3):
        film = pydicom.dcmread(Path(__file__).parents[2] / "examples/phantom.dcm")
        film.decompress()
        film.SOPInstanceUID = f"1.2.826.0.1.{number + 1}"
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        if number == 2:
            film.StudyInstanceUID = "1.2.3"
        pixels = np.roll(film.pixel_array, 9 * number, 0)
        film.PixelData = pixels.tobytes()
        paths.append(folder / f"{number}.dcm")
        film.save_as(paths[-1])
    return paths


def command(*words: object) -> int:
    from edge.cli.report import main as report

    return report(["--threads", "1", "-q", *map(str, words)])


def test_command(made: Any, dicom: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    _, engine = made(LONGITUDINAL)
    bundle, note = ["--bundle", engine.bundle.path, "--max-new-tokens", 12], tmp_path / "note.txt"
    note.write_text("ato rest")
    assert command(*bundle, "--study", "--format", "json", *dicom[:2], "--context", f"prior_impression=@{note}") == 0
    said = json.loads(capsys.readouterr().out)
    want = engine.report(edge.Study(dicom[:2]), context={"prior_impression": "ato rest"}, max_new_tokens=12)
    assert said["token_ids"] == list(want.token_ids)
    assert [film["sop_instance_uid"][-1] for film in said["input"]["films"]] == ["1", "2"]
    assert said["context"] == ["prior_impression"]
    assert command(*bundle, *dicom[:2]) == 0, "without --study each film has a report of its own"
    assert capsys.readouterr().out.count("== ") == 2
    assert command(*bundle, "--study", *dicom) == 1
    assert "2 different studies" in capsys.readouterr().err
    assert command(*bundle, "--study", *dicom[:2], "--overlay", tmp_path / "o.png") == 1
    assert command(*bundle, *dicom[:2], "--context", "no study") == 1
    assert command(*bundle, dicom[0], "--context", "no name") == 1
    assert "give NAME=TEXT" in capsys.readouterr().err
    assert command(*bundle, dicom[0], "--context", f"prior_findings=@{tmp_path / 'none'}") == 1
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(dicom[1].read_bytes()[:2000])
    assert command(*bundle, "--study", dicom[0], broken) == 22
    out = capsys.readouterr()
    assert (out.out, out.err.count("broken.dcm")) == ("", 1)


def test_a_cap_that_leaves_a_context_no_room(made: Any, dicom: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """It fits without the context, so only the context's tokens tell: once, of the model and its context length."""
    _, engine = made(LONGITUDINAL)
    alone, told = engine.read_context(None), engine.read_context({"prior_findings": "e a" * 300})
    room = engine.manifest.text_room - len(engine.manifest.generation.begin_ids)
    fits, cap = room - len(told.ids), room - len(alone.ids)
    assert 1 <= fits < cap
    words = ["--bundle", engine.bundle.path, "--context", "prior_findings=" + "e a" * 300, "--study", *dicom[:2]]
    assert command(*words, "--max-new-tokens", cap) == 1
    out = capsys.readouterr()
    (line,) = [line for line in out.err.splitlines() if "usage" in line]
    assert f"usage: --max-new-tokens must be a whole number from 1 to {fits} with this model: its context" in line
    assert f"{len(told.ids)} for the context" in line
    assert line.endswith("; ask for fewer, or shorten the context")
    assert out.out == ""
    assert not any(film.name in out.err for film in dicom)
    with pytest.raises(edge.UsageError, match=f"from 1 to {fits} "):
        engine.report(edge.Study(dicom[:2]), context={"prior_findings": "e a" * 300}, max_new_tokens=cap)
    assert command(*words, "--max-new-tokens", fits) == 0
    assert command(*words[:2], dicom[0], "--context", "no name") == 1
    assert dicom[0].name not in capsys.readouterr().err, "nor is a film to blame for a context without a name"


def test_objects_of_a_study(made: Any, dicom: list[Path], tmp_path: Path) -> None:
    import pydicom

    _, engine = made(LONGITUDINAL)
    target = tmp_path / "draft.dcm"
    words = ["--bundle", engine.bundle.path, "--max-new-tokens", 12, "--study", *dicom[:2]]
    assert command(*words, "--format", "sr", "-o", target) == 0
    sr = pydicom.dcmread(target)
    series = sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    uids = [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence]
    assert uids == ["1.2.826.0.1.1", "1.2.826.0.1.2"]
    report = engine.report(edge.Study(dicom[:2]), max_new_tokens=12)
    assert report.to_sr(dicom[:2]).SOPInstanceUID == sr.SOPInstanceUID
    read = engine.report(edge.Study(dicom[:2]), context={"prior_findings": "ato"}, max_new_tokens=12)
    said = [[e.value for e in made_sr.iterall() if e.keyword == "TextValue"] for made_sr in (read.to_sr(dicom[:2]), sr)]
    assert "The model had read: prior_findings." in said[0]
    assert not any("had read" in text for text in said[1])
    assert len(report.to_fhir(dicom[:2])["media"]) == 2
    for films, message in ((dicom[0], "about 2 films"), (dicom[1::-1], "not the film")):
        with pytest.raises(edge.UsageError, match=message):
            report.to_sr(films)
    with pytest.raises(edge.UsageError, match="one film, and this report is about several"):
        report.to_secondary_capture(dicom[:2])


@pytest.mark.parametrize("case", ["no head", "low rank", "no token"])
def test_refused_folders(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    kind = LONGITUDINAL if case == "no token" else SINGLE
    folder = cxrmate.save(cxrmate.random_model(kind), kind, tmp_path / "folder", 8.0 if case == "low rank" else None)
    if case == "no head":
        state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        torch.save({k: v for k, v in state.items() if "projection_head" not in k}, folder / "pytorch_model.bin")
        message = "the projection from the CvT encoder's 24 features to 64 is not among the weights"
    elif case == "low rank":
        message = "low-rank weights"
    else:
        words = json.loads((folder / "tokenizer.json").read_text())
        words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] != "[NPI]"]
        (folder / "tokenizer.json").write_text(json.dumps(words))
        message = "the tokenizer lacks"
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q"]) == 31
    said = capsys.readouterr().err
    assert message in said
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_published_shapes(tmp_path: Path) -> None:
    """CvT-21 at 384 x 384 and six layers of BERT, greedily and with four beams."""
    model = cxrmate.random_model(SINGLE, cxrmate.FULL, gain=30.0)
    small.let_positions_through(model.decoder, 0.003, 0.03)
    source = cxrmate.save(model, SINGLE, tmp_path / "folder")
    assert main([str(source), "--out", str(tmp_path / "bundle"), "-q"]) == 0
    engine = edge.load(tmp_path / "bundle", threads=2)
    assert engine.manifest.prefix.length == 576
    for beams in (1, 4):
        texts = set()
        for picture in films(20):
            report = engine.report(picture, force=True, max_new_tokens=30, beams=beams)
            seen = pixels(engine, [picture])
            assert [list(report.token_ids)] == model.write(seen, [cxrmate.BOS], num_beams=beams, max_new_tokens=30)
            texts.add(report.token_ids)
        assert len(texts) > 10
