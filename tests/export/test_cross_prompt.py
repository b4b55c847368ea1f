# SPDX-License-Identifier: Apache-2.0
"""What any folder's decoder is told before it writes, against ``transformers.generate`` with the same prompt: begin
tokens, a context, several films."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small  # noqa: E402  (needs torch)
from edge_export.cli import main  # noqa: E402
from edge_export.errors import BadCheckpoint  # noqa: E402
from test_cross_families import own_text  # noqa: E402
from transformers.modeling_outputs import BaseModelOutput  # noqa: E402

import edge  # noqa: E402

TOKENS = 24


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def films(count: int) -> list[np.ndarray]:
    return list((255 * (small.pictures(count)[:, 0] * 0.5 + 0.5)).numpy().astype(np.uint8))


def library(
    model: Any, engine: edge.Engine, pictures: list[np.ndarray], prompt: list[int], **options: Any
) -> list[int]:
    """What the library generates behind a prompt; several pictures are looked at side by side."""
    from edge.prepare import prepare

    with torch.no_grad():
        tokens = [
            model.encoder(torch.from_numpy(prepare(p, engine.manifest.image, force=True).pixels)).last_hidden_state
            for p in pictures
        ]
        ids = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.cat(tokens, 1)),
            decoder_input_ids=torch.tensor([prompt]), decoder_start_token_id=prompt[0], do_sample=False,
            max_length=None, max_new_tokens=TOKENS, **options,
        )  # fmt: skip
    return own_text(ids[0], len(prompt), small.END)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, edge.Engine]:
    """ViT and BERT with a begin of two tokens, two contexts and up to three films."""
    folder = tmp_path_factory.mktemp("prompt")
    model = small.random_model("vit", "bert")
    source = small.save(model, folder / "folder", max_length=TOKENS + 2)
    words = edge_tokenizer(source)
    first, second, none = (words.id_to_token(i) for i in (300, 301, 302))
    told = ["--context", f"indication={first}:{none}", "--context", f"prior={second}"]
    begin = f"{words.id_to_token(2)}{words.id_to_token(7)}"
    assert list(words.encode(begin).ids) == [2, 7]
    code = main([str(source), "--out", str(folder / "bundle"), "-q", "--begin", begin, "--images", "3", *told])
    assert code == 0
    return model, edge.load(folder / "bundle", threads=2)


def edge_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("count", [1, 3])
def test_prompt(made: tuple[Any, edge.Engine], count: int, beams: int) -> None:
    model, engine = made
    generation = engine.manifest.generation
    assert generation.begin_ids == (2, 7)
    assert [part.name for part in generation.context] == ["indication", "prior"]
    assert engine.manifest.decoder["cross_keys"] == 3 * engine.manifest.prefix.length
    first, none, second = (generation.context[0].before, generation.context[0].absent, generation.context[1].before)
    pictures, texts = films(count), set()
    for context in ({}, {"indication": "rest"}, {"prior": "no tea", "indication": "ado"}):
        prompt = [*first, *engine._text.encode(context["indication"])] if "indication" in context else [*none]
        if "prior" in context:
            prompt += [*second, *engine._text.encode(context["prior"])]
        prompt += [2, 7]
        report = engine.report(edge.Study(pictures), force=True, context=context, beams=beams, max_new_tokens=TOKENS)
        assert list(report.token_ids) == library(model, engine, pictures, prompt, num_beams=beams)
        assert set(report.context) == set(context)
        texts.add(report.token_ids)
    assert len(texts) > 1


def test_forced_ids_of_a_generation_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The words that a folder forces are the beginning of the decoder's prompt."""
    from edge_export.families.cross.generation import generation_section

    model = small.random_model("vit", "gpt2")
    folder = small.save(model, tmp_path / "folder")
    config = json.loads((folder / "generation_config.json").read_text())
    for forced, want in (([[1, 9], [2, 17]], [2, 9, 17]), ([], [2]), (None, [2])):
        (folder / "generation_config.json").write_text(json.dumps(config | {"forced_decoder_ids": forced}))
        section = generation_section(folder, model, [])
        assert section["begin_ids"] == want
        assert section.get("counted_begin", 0) == len(want) - 1
    for forced in ([[2, 9]], [[1, None]], [[1, 9], [3, 9]]):
        (folder / "generation_config.json").write_text(json.dumps(config | {"forced_decoder_ids": forced}))
        assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q"]) == 31
        assert "forced_decoder_ids must name the tokens at 1, 2" in capsys.readouterr().err
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": 0.5}))
    with pytest.raises(BadCheckpoint, match=r"generation_config\.json cannot be used"):
        generation_section(folder, model, [])


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small.save(small.random_model("vit", "gpt2"), tmp_path / "folder")
    long = " ".join(["tea"] * 120)
    for words, message in (
        (["--context", "indication"], "NAME=TOKENS or NAME=TOKENS:ABSENT is needed"),
        (["--begin", long], "leaves no room for a text"),
        (["--images", "17"], "--images: '17' is not a whole number from 1 to 16"),
    ):
        assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q", *words]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
