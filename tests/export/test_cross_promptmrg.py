# SPDX-License-Identifier: Apache-2.0
"""PromptMRG: a classifier's four-way states of 18 findings are the decoder's prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small  # noqa: E402  (needs torch)
import promptmrg  # noqa: E402
from edge_export.cli import main  # noqa: E402
from gpu_rules import check_vision_graph  # noqa: E402

import edge  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def export(folder: Path, model: Any, *words: str) -> edge.Engine:
    source = promptmrg.save(model, folder / "checkpoint")
    retrieved = [] if model.reports is None else ["--retrieved", str(source.with_name("reports.npy"))]
    assert main([str(source), "--out", str(folder / "bundle"), "-q", *retrieved, *words]) == 0
    check_vision_graph(folder / "bundle")
    return edge.load(folder / "bundle", threads=2)


@pytest.fixture(scope="module", params=["retrieved", pytest.param("picture only", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, edge.Engine]:
    model = promptmrg.random_model(retrieved=request.param == "retrieved")
    return model, export(tmp_path_factory.mktemp("promptmrg"), model)


def films(count: int) -> list[np.ndarray]:
    smooth = (255 * (small.pictures(count, 260)[:, 0] * 0.5 + 0.5)).numpy().astype(np.uint8)
    return [picture[: 260 - 16 * (i % 3)] for i, picture in enumerate(smooth)]


def check(model: Any, engine: edge.Engine, count: int, lengths: dict[int, int]) -> None:
    """States and ids of many films against the model; `lengths`: tokens by the number of beams."""
    from edge.prepare import prepare

    pictures = films(count)
    seen = torch.from_numpy(np.concatenate([prepare(p, engine.manifest.image, force=True).pixels for p in pictures]))
    states = engine.manifest.generation.states
    assert states is not None
    found, texts = set(), set()
    for beams, tokens in lengths.items():
        want, prompt = model.write(seen, num_beams=beams, max_new_tokens=tokens, min_length=100)
        for picture, ids, own in zip(pictures, want, prompt, strict=True):
            report = engine.report(picture, force=True, max_new_tokens=tokens, beams=beams)
            assert [state.state for state in report.states] == [states.names[i] for i in own]
            assert list(report.token_ids) == ids
            texts.add(report.token_ids)
            found |= set(own)
    assert found == {0, 1, 2, 3}
    assert len(texts) > 1


def test_states_and_ids(made: tuple[Any, edge.Engine]) -> None:
    model, engine = made
    generation = engine.manifest.generation
    assert generation.begin_ids == (promptmrg.DEC,)
    assert generation.rules == {"beams": 3, "length_penalty": 1.0, "early_stopping": "no", "min_new_tokens": 81}
    assert engine.manifest.image["crop_from"] == (256,)
    check(model, engine, 20, {1: 110, 3: 30})  # a random text of many flat choices is all near-ties to beams


def test_states_in_the_report(made: tuple[Any, edge.Engine]) -> None:
    _, engine = made
    report = engine.report(films(1)[0], force=True, max_new_tokens=8)
    said = report.to_dict()["states"]
    assert [state["finding"] for state in said][:2] == ["enlarged cardiomediastinum", "cardiomegaly"]
    assert len(said) == 18
    assert all(state["state"] in ("blank", "positive", "negative", "uncertain") for state in said)
    assert all(0.25 <= state["confidence"] <= 1 for state in said)


def test_the_prompt_is_the_films(made: tuple[Any, edge.Engine]) -> None:
    """A completion goes on behind the states, and another film's states do not stay in the cache."""
    _, engine = made
    one, two = (engine.open(picture, force=True) for picture in films(2))
    assert one.states != two.states
    texts = [session.report(max_new_tokens=12, prompt="heart the").token_ids for session in (one, two, one)]
    assert texts[0] == texts[2]
    greedy = engine.report(films(1)[0], force=True, max_new_tokens=12, prompt="heart the", beams=1)
    assert one.complete("heart the", sentences=None, max_new_tokens=12).token_ids == greedy.token_ids
    assert one.room("heart the") == 512 - 1 - 18 - 2


def test_several_films_at_once(made: tuple[Any, edge.Engine]) -> None:
    """Each text stands behind the states of its own film."""
    _, engine = made
    pictures = films(4)
    together = engine.reports(pictures, at_once=4, force=True, max_new_tokens=16, beams=1)
    for picture, report in zip(pictures, together, strict=True):
        alone = engine.report(picture, force=True, max_new_tokens=16, beams=1)
        assert (report.token_ids, report.states) == (alone.token_ids, alone.states)


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = promptmrg.random_model()
    source = promptmrg.save(model, tmp_path / "checkpoint")
    out = ["--out", str(tmp_path / "bundle"), "-q"]
    assert main([str(source), *out]) == 31
    assert "missing: the features of retrieved reports" in capsys.readouterr().err
    np.save(tmp_path / "narrow.npy", np.zeros((21, 8), np.float32))
    assert main([str(source), *out, "--retrieved", str(tmp_path / "narrow.npy")]) == 31
    assert "are 8 wide, the transformer over them 16" in capsys.readouterr().err
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    assert main([str(source), *out, "--retrieved", str(tmp_path / "objects.npy")]) == 22
    state = model.state_dict()
    del state["visual_encoder.model.6.1.bn2.weight"]
    torch.save(state, source)
    assert main([str(source), *out, "--retrieved", str(source.with_name("reports.npy"))]) == 31
    assert "encoder.network.encoder.stages.2.layers.1.layer.1.normalization.weight" in capsys.readouterr().err
    assert main([str(source), *out, "--begin", "[DEC]"]) == 1
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_published_shapes(tmp_path: Path) -> None:
    """ResNet-101 at 224 x 224, the transformer over 21 reports, BERT base. Not in int8: the classifier of this random
    model reads differences so small that rounding drowns them, and the exporter refuses it, as it should."""
    model = promptmrg.random_model(promptmrg.FULL, gain=50.0)
    check(model, export(tmp_path / "full", model), 20, {1: 30, 3: 12})
