# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders with cross-attention: ids equal to the library's own generate, and folders that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import encoder_decoder as small  # noqa: E402  (needs torch)
from edge_export.cli import main  # noqa: E402
from edge_export.errors import EdgeError  # noqa: E402
from edge_export.families.cross import decoders as kinds  # noqa: E402
from edge_export.families.cross.encoders import EncoderTokens  # noqa: E402
from gpu_rules import check_vision_graph  # noqa: E402

from edge.decoder import Decoder, GenerationOptions  # noqa: E402

IMAGES, TOKENS = 20, 40


def image_keys(decoder: kinds.Decoder, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values [layers, heads, tokens, head_dim] of the cross-attention."""

    def project(part: kinds.Linear) -> np.ndarray:
        rows = tokens @ part.weight.t() + part.bias
        return rows.view(rows.shape[0], decoder.heads, -1).transpose(0, 1).detach().numpy()

    keys = np.stack([project(block.cross_k) for block in decoder.blocks])
    return keys, np.stack([project(block.cross_v) for block in decoder.blocks])


def own_text(ids: Any, prompt: int, end: int) -> list[int]:
    """What the library generated: without the prompt, and what comes from the end token on."""
    text = [int(i) for i in ids[prompt:]]
    return text[: text.index(end)] if end in text else text


def check_greedy(model: Any, images: int, tokens: int, threads: int = 2) -> None:
    """Ids of many pictures against ``transformers.generate``."""
    with torch.no_grad():
        decoder = kinds.DECODERS[model.config.decoder.model_type](model.decoder)
        pixels = small.pictures(images, model.config.encoder.image_size)
        want = model.generate(pixels, num_beams=1, do_sample=False, max_length=tokens + 1)
        encoder = EncoderTokens(model)
        seen = [encoder(one[None]) for one in pixels]
    end = model.generation_config.eos_token_id
    kernel = Decoder(decoder.spec(len(seen[0])), decoder.arrays(), threads=threads)
    ngram = model.generation_config.no_repeat_ngram_size or 0
    options = GenerationOptions(
        max_new_tokens=tokens, begin_ids=(2,), stop_ids=(end,), bias_rows="none", no_repeat_ngram=ngram
    )
    texts = []
    for number in range(images):
        kernel.set_prefix(*image_keys(decoder, seen[number]))
        texts.append(kernel.generate(None, options).token_ids)
        assert texts[-1] == own_text(want[number], 1, end), f"picture {number}"
    assert len({tuple(text) for text in texts}) > 1, "all pictures have the same text"
    assert max(len(set(text)) for text in texts) > 2


@pytest.mark.parametrize("decoder", [*small.DECODERS, *small.ROBERTA_KINDS])
def test_greedy_ids(decoder: str) -> None:
    check_greedy(small.random_model("vit", decoder), IMAGES, TOKENS)


def test_export(tmp_path: Path) -> None:
    """A folder becomes a bundle whose report is what the library generates."""
    import edge

    model = small.random_model("vit", "bert")
    folder = small.save(model, tmp_path / "folder", max_length=32)
    begin = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token(2)
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q", "--section", f"impression={begin}",
                 "--intensity", "percentile:1:98+equalize"]) == 0  # fmt: skip
    engine = edge.load(tmp_path / "bundle", threads=2)
    manifest = engine.manifest
    assert manifest.family == "vit-bert"
    check_vision_graph(tmp_path / "bundle")
    assert manifest.image["intensity"] == {"mode": "percentile", "low": 1.0, "high": 98.0, "equalize": True}
    assert manifest.has_cross
    assert not manifest.has_mask
    picture = np.random.default_rng(4).integers(0, 255, (90, 70)).astype(np.uint8)
    report = engine.report(picture, force=True)
    from edge.film import read_film
    from edge.preprocess import to_gray8, to_pixels

    film = read_film(picture, force=True)
    pixels = to_pixels(to_gray8(film, manifest.image["intensity"]), manifest.image)
    with torch.no_grad():
        want = model.generate(torch.from_numpy(pixels), num_beams=1, max_length=32)[0]
    assert list(report.token_ids) == own_text(want, 1, small.END)
    assert report.cache["image_keys"] == 2 * manifest.prefix.length
    assert report.mask is None
    assert {s.section for s in report.sentences} == {"impression"}
    assert report.to_dict()["sections"][0]["name"] == "impression"
    assert all(s.evidence is None or s.evidence.grid == manifest.prefix.grid for s in report.sentences)
    assert any(s.evidence for s in report.sentences) or not report.sentences


EVERY = [pytest.param(name, marks=[] if name == "swinv2" else pytest.mark.slow) for name in small.ENCODERS]
"""The one with the most uncommon operators is always tried."""


@pytest.mark.parametrize("encoder", EVERY)
@pytest.mark.parametrize("quantize", ["none", pytest.param("int8", marks=pytest.mark.slow)])
def test_export_of_every_encoder(tmp_path: Path, encoder: str, quantize: str) -> None:
    folder = small.save(small.random_model(encoder, "gpt2"), tmp_path / "folder")
    if encoder == "swinv2":  # which takes pictures of any size: no square
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"height": 64, "width": 96}}))
    assert main([str(folder), "--out", str(tmp_path / "bundle"), "-q", "--quantize", quantize]) == 0
    if quantize == "none":
        check_vision_graph(tmp_path / "bundle")


FULL: dict[str, dict[str, Any]] = {
    "gpt2": {"decoder": {"n_layer": 6}, "vocab": 50259},
    "bert": {"decoder": {"num_hidden_layers": 2}, "vocab": 30522},
    "roberta": {"decoder": {"max_position_embeddings": 514}, "vocab": 50265},
    "bart": {"decoder": {"d_model": 768, "decoder_layers": 6, "decoder_attention_heads": 12,
                         "decoder_ffn_dim": 3072}, "vocab": 50265},
    "mbart": {"decoder": {"d_model": 1024, "decoder_layers": 12, "decoder_attention_heads": 16,
                          "decoder_ffn_dim": 4096, "scale_embedding": True}, "vocab": 250027},
}  # fmt: skip
"""Published shapes: DistilGPT2, the two BERT layers of the CheXpert Plus baselines, RoBERTa, BART, mBART-50."""


def full_model(decoder: str) -> Any:
    """Random weights of a published shape behind a ViT-B/16."""
    model = small.random_model("vit", decoder, full={"encoder": {}, "image_size": 224, **FULL[decoder]})
    if decoder in ("roberta", "mbart"):
        model.generation_config.no_repeat_ngram_size = 2
    return model


@pytest.mark.slow
@pytest.mark.parametrize("decoder", FULL)
def test_greedy_ids_at_published_shapes(decoder: str) -> None:
    check_greedy(full_model(decoder), IMAGES, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.save(small.random_model("vit", "gpt2"), tmp_path_factory.mktemp("cross") / "folder")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "encoder": (
        {"encoder": {"model_type": "cvt", "qkv_bias": [True] * 3}},
        "the projection from the CvT encoder's 384 features to 64",
    ),
    "decoder": ({"decoder": {"model_type": "llama"}}, "RMSNorm"),
    "activation": ({"decoder": {"activation_function": "relu"}}, "activation 'relu'"),
    "layers": ({"decoder": {"n_layer": 10**9}}, "out of range"),
    "width": ({"encoder": {"hidden_size": 10**9}}, "out of range"),
    "shape": ({"decoder": {"n_embd": 128}}, "wrongly shaped"),
    "more layers": ({"decoder": {"n_layer": 3}}, r"missing: .*decoder\.transformer\.h\.2\.ln_1\.weight"),
    "fewer layers": ({"decoder": {"n_layer": 1}}, r"unexpected: .*decoder\.transformer\.h\.1\.ln_1\.weight"),
    "heads": ({"decoder": {"n_head": 5}}, "no such model"),
    "no encoder": ({"encoder": 7}, "names no encoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is named, in one line, before anything is written."""
    import re

    bad = tmp_path / "bad"
    bad.mkdir()
    for file in folder.iterdir():
        if file.name != "config.json":
            (bad / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    changes, message = REFUSED[case]
    for part, values in changes.items():
        config[part] = {**config[part], **values} if isinstance(values, dict) else values
    (bad / "config.json").write_text(json.dumps(config))
    assert main([str(bad), "--out", str(tmp_path / "bundle"), "-q"]) == 31
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert "Traceback" not in said
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("text", ["percentile:9", "percentile:90:10", "minmax:1:2", "window+gamma", "percentile:a:b"])
def test_intensities_that_cannot_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", "--out", "bundle", "--intensity", text]) == 1
    assert "is not window, minmax or percentile" in capsys.readouterr().err


def test_weights_that_are_code_are_not_run(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        (bad / name).symlink_to(folder / name)
    (bad / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb()}))
    assert main([str(bad), "--out", str(tmp_path / "bundle"), "-q"]) == 22
    assert "nothing in it was executed" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_image_section() -> None:
    """The processors' ways to say a size."""
    from edge_export.families.cross.image import image_section
    from edge_export.options import ImageOptions

    options = ImageOptions()
    vit = image_section({"size": {"height": 384, "width": 384}, "resample": 3}, 224, options)
    assert (vit["height"], vit["resize"], "crop_from" in vit) == (384, "bicubic", False)
    deit = image_section({"size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3}, 224, options)
    assert (deit["height"], deit["crop_from"]) == (224, [256, 256])
    dino = image_section(
        {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
        518,
        options,
    )
    assert (dino["width"], dino["crop_from"]) == (224, [256])
    raw = image_section({"do_normalize": False}, 64, options)
    assert raw["mean"] == [0.0] * 3
    assert raw["std"] == [1.0] * 3
    with pytest.raises(EdgeError, match="differ from film to film"):
        image_section({"size": {"shortest_edge": 256}}, 224, options)
    with pytest.raises(EdgeError, match="resampling"):
        image_section({"resample": 0}, 224, options)
