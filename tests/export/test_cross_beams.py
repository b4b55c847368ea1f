# SPDX-License-Identifier: Apache-2.0
"""Beam search and the rules on a text against ``transformers.generate``, by way of the exporter's own reading of a
generation configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small  # noqa: E402  (needs torch)
from edge_export.families.cross import decoders as kinds  # noqa: E402
from edge_export.families.cross.encoders import EncoderTokens  # noqa: E402
from edge_export.families.cross.generation import generation_section  # noqa: E402
from test_cross_families import FULL, full_model, image_keys, own_text  # noqa: E402

from edge.decoder import Decoder, GenerationOptions  # noqa: E402

IMAGES, TOKENS = 20, 24

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("gpt2", {"num_beams": 4}),
    "long": ("gpt2", {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3}),
    "short": ("bert", {"num_beams": 4, "length_penalty": 0.5, "early_stopping": "never", "repetition_penalty": 1.3}),
    "rules": ("bart", {"num_beams": 4, "no_repeat_ngram_size": 3, "min_length": 9, "forced_eos_token_id": 319}),
    "start": ("bart", {"num_beams": 3, "forced_bos_token_id": 0, "num_return_sequences": 3, "length_penalty": -0.5}),
    "greedy": ("roberta", {"no_repeat_ngram_size": 2, "min_new_tokens": 12, "repetition_penalty": 1.2}),
    "cap": ("mbart", {"forced_eos_token_id": 319, "no_repeat_ngram_size": 4}),
}


def check(folder: Path, model: Any, images: int, threads: int = 2) -> list[list[list[int]]]:
    """All returned texts of all pictures, compared; they are returned."""
    config = model.generation_config
    config.save_pretrained(folder)
    with torch.no_grad():
        decoder = kinds.DECODERS[model.config.decoder.model_type](model.decoder)
        pixels = small.pictures(images, model.config.encoder.image_size)
        want = model.generate(pixels)
        encoder = EncoderTokens(model)
        seen = [encoder(one[None]) for one in pixels]
    count = config.num_return_sequences or 1
    section = generation_section(folder, model, [])
    end, begin = config.eos_token_id, len(section["begin_ids"])
    kernel = Decoder(decoder.spec(len(seen[0])), decoder.arrays(), threads=threads)
    options = GenerationOptions.from_manifest(section, bias_rows="none", sequences=count if count > 1 else None)
    texts = []
    for number in range(images):
        kernel.set_prefix(*image_keys(decoder, seen[number]))
        result = kernel.generate(None, options)
        got = [ids for ids, _ in result.sequences] or [result.token_ids]
        assert got[0] == result.token_ids
        library = [own_text(ids, begin, end) for ids in want[number * count : (number + 1) * count]]
        assert got == library, f"picture {number}"
        texts.append(got)
    return texts


@pytest.mark.parametrize("case", CASES)
def test_same_ids(tmp_path: Path, case: str) -> None:
    decoder, generation = CASES[case]
    model = small.random_model("vit", decoder)
    model.generation_config.max_length = TOKENS
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    texts = check(tmp_path, model, IMAGES)
    assert len({str(text) for text in texts}) > 1, "all pictures have the same text"


@pytest.mark.parametrize("decoder", small.DECODERS)
def test_beams_of_every_family(tmp_path: Path, decoder: str) -> None:
    model = small.random_model("vit", decoder, seed=1)
    model.generation_config.max_length, model.generation_config.num_beams = TOKENS, 4
    texts = check(tmp_path, model, IMAGES)
    assert len({str(text) for text in texts}) > 1, "all pictures have the same text"


@pytest.mark.slow
@pytest.mark.parametrize("decoder", FULL)
def test_same_ids_at_published_shapes(tmp_path: Path, decoder: str) -> None:
    """mBART takes 9 GB and ten minutes."""
    model = full_model(decoder)
    if decoder == "roberta":
        small.let_positions_through(model.decoder, 0.1, 0.1)
    model.generation_config.max_length, model.generation_config.num_beams = 40, 4
    texts = check(tmp_path, model, IMAGES)
    assert len({str(text) for text in texts}) > 1, "all pictures have the same text"


@pytest.mark.parametrize("decoder", ["gpt2", "bert", "bart"])
def test_drafted_texts(decoder: str) -> None:
    """Greedy texts in fewer passes where they can be guessed from a table of phrasing, the same bit by bit."""
    from edge_export.draft_table import Piece, build_table

    import edge._kernel as kernel

    model = small.random_model("vit", decoder)
    parts = kinds.DECODERS[decoder](model.decoder)
    with torch.no_grad():
        encoder = EncoderTokens(model)
        films = [image_keys(parts, encoder(one[None])) for one in small.pictures(6)]
    spec = parts.spec(films[0][0].shape[2])
    options = GenerationOptions(begin_ids=(2,), stop_ids=(319,), max_new_tokens=40, bias_rows="none", draft=False)
    plain = []
    own = Decoder(spec, parts.arrays(), threads=2, evidence_layers=[1])
    for film in films:
        own.set_prefix(*film)
        plain.append(own.generate(None, options))
    table = kernel.DraftTable(**build_table([Piece(text.token_ids) for text in plain * 3]), vocab=small.VOCAB)
    drafting = Decoder(spec, parts.arrays(), threads=2, evidence_layers=[1], draft_table=table)
    passes = 0
    for film, text in zip(films, plain, strict=True):
        drafting.set_prefix(*film)
        drafted = drafting.generate(None, options.but(draft=True))
        assert drafted.token_ids == text.token_ids
        assert (drafted.logprobs == text.logprobs).all()
        assert (drafted.evidence == text.evidence).all()
        passes += drafted.passes
    assert passes < 0.6 * sum(text.passes for text in plain)


def test_threads_change_nothing() -> None:
    """Texts, scores, log-probabilities and evidence, bit by bit; and a greedy text after a search of beams."""
    model = small.random_model("vit", "gpt2")
    decoder = kinds.gpt2(model.decoder)
    with torch.no_grad():
        keys, values = image_keys(decoder, EncoderTokens(model)(small.pictures(1)))
    options = GenerationOptions(begin_ids=(2,), stop_ids=(319,), max_new_tokens=60, bias_rows="none", beams=5)
    found = []
    for threads in (1, 2, 3):
        kernel = Decoder(decoder.spec(keys.shape[2]), decoder.arrays(), threads=threads, evidence_layers=[0, 1])
        kernel.set_prefix(keys, values)
        before = kernel.generate(None, options.but(beams=1))
        result = kernel.generate(None, options.but(sequences=5))
        assert kernel.generate(None, options.but(beams=1)).token_ids == before.token_ids
        assert result.evidence.shape == (len(result.token_ids), keys.shape[2])
        assert (abs(result.evidence.sum(1) - 1) < 1e-4).all()
        found.append((result.sequences, result.logprobs.tolist(), result.evidence.tolist()))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 5
