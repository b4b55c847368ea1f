# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they come: both layouts, wrappers, and everything that can be wrong with a file."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_export.draft_corpus import corpus_table  # noqa: E402
from edge_export.errors import BadCheckpoint, CannotRead, CorruptInput, UsageError  # noqa: E402
from edge_export.families.lana import layouts  # noqa: E402
from edge_export.families.lana.anatomy import BiasConfig  # noqa: E402
from edge_export.families.lana.infer import infer_config  # noqa: E402
from edge_export.families.lana.load import _stretch_positions, load  # noqa: E402
from edge_export.random_checkpoint import config_of, make, random_model, random_tokenizer, tiny_config  # noqa: E402
from edge_export.tokenizer_files import load_tokenizer, write_tokenizer  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny import END_OF_TEXT_ID, VOCAB, tiny_model  # noqa: E402

GPT2_BPE = Path(os.environ.get("EDGE_GPT2_BPE", Path(__file__).parents[2].parent / "shared/data/gpt2_bpe"))
State = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(0)


@pytest.fixture
def state(model: Any) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place for flat checkpoints: with the tokenizer and the fields that shapes do not tell."""
    random_tokenizer(VOCAB).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "m.config.json").write_text(json.dumps(tiny_config().to_dict()))
    return tmp_path


def assert_equal_models(one: Any, other: Any) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("m.pth", lambda s: s),
        ("m.pth", lambda s: {"model_state_dict": s, "optimizer_state_dict": {"lr": 0.1}}),
        ("m.pt", lambda s: {"module." + name: tensor for name, tensor in s.items()}),
        ("m.bin", lambda s: {"model_state_dict": {"module." + n: t for n, t in s.items()}}),
    ],
)
def test_flat_pickles(folder: Path, model: Any, state: State, name: str, wrap: Callable[[State], Any]) -> None:
    torch.save(wrap(state), folder / name)
    loaded = load(folder / name)
    assert loaded.layout == "flat"
    assert_equal_models(loaded.model, model)
    assert loaded.generation.stop_ids == [END_OF_TEXT_ID]
    assert loaded.generation.repetition_penalty == 1.2


def test_flat_safetensors_with_any_suffix(folder: Path, model: Any, state: State) -> None:
    save_file(state, folder / "m.safetensors")
    assert_equal_models(load(folder / "m.safetensors").model, model)
    (folder / "m.safetensors").rename(folder / "m.weights")
    assert_equal_models(load(folder / "m.weights").model, model)


def test_half_precision_is_widened(folder: Path, state: State) -> None:
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / "m.pth")
    loaded = load(folder / "m.pth").model
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_what_may_be_absent_or_extra(folder: Path, state: State, model: Any) -> None:
    del state["decoder.lm_head.weight"]
    del state["encoder.model.embeddings.mask_token"]
    state["decoder.transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    state["decoder.transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, folder / "m.pth")
    loaded = load(folder / "m.pth").model
    assert loaded.config.tied_head
    assert torch.equal(loaded.decoder.lm_head.weight, model.decoder.transformer.wte.weight)


def test_untied_head(folder: Path, state: State) -> None:
    state["decoder.lm_head.weight"] = state["decoder.lm_head.weight"] + 0.01
    torch.save(state, folder / "m.pth")
    loaded = load(folder / "m.pth").model
    assert not loaded.config.tied_head
    assert torch.equal(loaded.decoder.lm_head.weight, state["decoder.lm_head.weight"])
    assert torch.equal(loaded.decoder.transformer.wte.weight, state["decoder.transformer.wte.weight"])


def test_without_segmenter(folder: Path, state: State) -> None:
    torch.save({n: t for n, t in state.items() if not n.startswith("segmenter.")}, folder / "m.pth")
    loaded = load(folder / "m.pth")
    assert loaded.model.segmenter is None
    assert any("no segmenter" in note for note in loaded.notes)


def test_one_error_lists_everything(folder: Path, state: State) -> None:
    del state["linear_projection.proj.bias"]
    del state["segmenter.heart_model.adapter.weight"]
    state["decoder.transformer.ln_f.weight"] = torch.ones(7)
    state["classifier.weight"] = torch.ones(2, 2)
    torch.save(state, folder / "m.pth")
    with pytest.raises(BadCheckpoint) as caught:
        load(folder / "m.pth")
    text = str(caught.value)
    assert caught.value.exit_code == 31
    assert "2 missing: linear_projection.proj.bias, segmenter.heart_model.adapter.weight" in text or (
        "linear_projection.proj.bias" in text and "segmenter.heart_model.adapter.weight" in text
    )
    assert "1 unexpected: classifier.weight" in text
    assert "1 wrongly shaped: decoder.transformer.ln_f.weight [7] instead of [64]" in text


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['EVIL_FILE']}",)


def test_a_pickle_with_code_is_not_executed(folder: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_FILE", str(folder / "owned"))
    torch.save({**state, "extra": Evil()}, folder / "m.pth")
    with pytest.raises(CorruptInput, match="nothing in it was executed") as caught:
        load(folder / "m.pth")
    assert "system" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    (folder / "raw.pth").write_bytes(pickle.dumps(Evil()))
    with warnings.catch_warnings(record=True) as told, pytest.raises(CorruptInput):
        load(folder / "raw.pth")
    assert told == []  # PyTorch's own lines on stderr, about how the file was written
    assert not (folder / "owned").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated(folder: Path, state: State, suffix: str, share: float) -> None:
    path = folder / f"m{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CorruptInput) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: s["linear_projection.proj.bias"].fill_(float("nan")), "proj.bias holds numbers that are not"),
        (lambda s: s["decoder.transformer.wte.weight"].view(-1)[5].fill_(float("inf")), "wte.weight holds"),
        (lambda s: s.update({"linear_projection.proj.weight": torch.ones(64, 48, dtype=torch.int64)}), "floating"),
        (lambda s: s.update({"linear_projection.proj.weight": torch.ones(64, 48, dtype=torch.complex64)}), "complex"),
        (lambda s: s.update({"x": "a text"}), "x is not a tensor"),
        (lambda s: s.update({"x": torch.ones(3, device="meta")}), "x has no numbers, only a shape"),
        (lambda s: s.update({"x\x1b[31m\n": torch.ones(3)}), r"'x\\x1b\[31m\\n' is no name of a weight"),
        (lambda s: s.clear(), "holds no weights"),
        (lambda s: s.update({"decoder.transformer.wte.weight": torch.ones(3)}), "not a checkpoint of the family"),
        (lambda s: [s.pop(n) for n in list(s) if n.startswith("encoder")], "not a checkpoint of the family lana"),
        (lambda s: [s.pop(n) for n in list(s) if "lung_model.encoder" in n], "missing: segmenter.lung_model"),
    ],
)
def test_bad_weights(folder: Path, state: State, spoil: Callable[[State], Any], words: str) -> None:
    spoil(state)
    torch.save(state, folder / "m.pth")
    with pytest.raises(BadCheckpoint, match=words.replace(".", r"\.")):
        load(folder / "m.pth")


def test_other_files(folder: Path) -> None:
    with pytest.raises(CannotRead, match="does not exist"):
        load(folder / "nothing.pth")
    (folder / "text.pth").write_text("hello")
    with pytest.raises(CorruptInput):
        load(folder / "text.pth")
    torch.save([1, 2], folder / "list.pth")
    with pytest.raises(BadCheckpoint, match="a list"):
        load(folder / "list.pth")
    (folder / "wrong.json").write_text(json.dumps({"hiden": 3}))
    with pytest.raises(UsageError, match="unknown fields hiden"):
        load(make("tiny", 0, "flat", folder / "t.pth"), folder / "wrong.json")


def test_geometry_from_shapes() -> None:
    """The paper's shapes tell everything but the number of heads, which is one per 64 columns."""
    config = config_of("reference")
    with torch.device("meta"):
        from edge_export.families.lana.model import LanaModel

        state = LanaModel(config).state_dict()
    inferred = infer_config(state, {}, "paper")
    assert inferred == config


def test_position_table_is_stretched() -> None:
    config = config_of("reference")
    table = torch.randn(1024, 8)
    state = {"decoder.transformer.wpe.weight": table}
    notes: list[str] = []
    assert _stretch_positions(state, config, 100, notes).positions == 2048
    wide = state["decoder.transformer.wpe.weight"].numpy()
    at = np.arange(2048) * 1023 / 2047
    low = np.minimum(at.astype(int), 1022)
    part = (at - low)[:, None]
    want = table.numpy()[low] * (1 - part) + table.numpy()[low + 1] * part
    assert np.abs(wide - want).max() < 1e-3  # the interpolation itself is float32
    assert "stretched from 1024 to 2048" in notes[0]
    config.image_size = 256
    state = {"decoder.transformer.wpe.weight": table}
    assert _stretch_positions(state, config, 100, []).positions == 1024


def test_hf_folder(tmp_path: Path) -> None:
    make("tiny", 4, "hf", tmp_path / "lana")
    loaded = load(tmp_path / "lana")
    config = loaded.model.config
    assert loaded.layout == "hf"
    assert (config.connector, config.skip_tokens, config.prefix_length) == ("mlp4", 1, 20)
    assert (config.bias.kind, config.bias.strength) == ("layerwise", 2.0)
    assert (config.encoder_heads, config.decoder_heads) == (3, 4)
    assert loaded.generation.begin_ids == loaded.generation.suppressed_ids == [END_OF_TEXT_ID]
    assert loaded.generation.stop_ids == []
    assert (loaded.generation.repetition_penalty, loaded.generation.max_new_tokens) == (1.0, 150)
    assert_equal_models(loaded.model, random_model(config_of("tiny", "hf"), 4))


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_hf_segmenters_from_their_own_files(tmp_path: Path) -> None:
    folder = make("tiny", 4, "hf", tmp_path / "lana")
    model = load(folder).model
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("segmenter.")}
    save_file(layouts.flat_to_hf({n: t.clone() for n, t in state.items()}), folder / "model.safetensors")
    (folder / "segmenters").mkdir()
    torch.save(model.segmenter.lung_model.state_dict(), folder / "segmenters/lung.pth")
    torch.save({"state_dict": model.segmenter.heart_model.state_dict()}, folder / "segmenters/heart.pth")
    change(folder, segmenter_weights_in_model_state=False)
    loaded = load(folder)
    assert loaded.model.segmenter is None
    assert "no trained segmenter" in loaded.notes[0]

    change(folder, lung_segmenter_checkpoint="segmenters/lung.pth")
    loaded = load(folder)
    assert "Only the lung" in loaded.notes[0]
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        lung, heart = model.segmenter.logits(pixels)
        assert torch.equal(loaded.model.mask(pixels), (lung > 0).float())

    change(folder, heart_segmenter_checkpoint="segmenters/heart.pth")
    assert_equal_models(load(folder).model, model)

    change(folder, lung_segmenter_checkpoint="")
    with torch.no_grad():
        only_heart = load(folder).model.mask(pixels)
        assert torch.equal(only_heart, (heart.argmax(1, keepdim=True) == 2).float())

    change(folder, lung_segmenter_checkpoint="../../elsewhere.pth", use_segmentation_mask=False)
    assert load(folder).model.segmenter is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llava"}, "of type 'llava'"),
        ({"attention_bias_mode": "odd"}, "attention_bias_mode 'odd'"),
        ({"visual_projection_type": "mlp9"}, "linear, mlp4"),
    ],
)
def test_hf_other_models(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    folder = make("tiny", 4, "hf", tmp_path / "lana")
    change(folder, **values)
    with pytest.raises(BadCheckpoint, match=words):
        load(folder)


def test_hf_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(CannotRead, match=r"no config\.json"):
        load(tmp_path)
    folder = make("tiny", 4, "hf", tmp_path / "lana")
    text = folder / "bundled_backbones/text/config.json"
    text.write_text(json.dumps({**json.loads(text.read_text()), "activation_function": "relu"}))
    with pytest.raises(BadCheckpoint, match="activation_function is 'relu'"):
        load(folder)
    text.unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CannotRead, match=r"no tokenizer in .*lana: --tokenizer wants"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptInput, match="not JSON"):
        load(folder)


def test_both_layouts_carry_the_same_model(tmp_path: Path) -> None:
    config = tiny_config()
    config.bias = BiasConfig("hidden")
    model = random_model(config, 7)
    random_tokenizer(VOCAB).save(str(tmp_path / "tokenizer.json"))
    layouts.save_flat(model, tmp_path / "flat.safetensors")
    (tmp_path / "flat.config.json").write_text(json.dumps(config.to_dict()))
    layouts.save_hf(model, tmp_path / "hf")
    random_tokenizer(VOCAB).save(str(tmp_path / "hf/tokenizer.json"))
    flat, hf = load(tmp_path / "flat.safetensors").model, load(tmp_path / "hf").model
    assert flat.config == hf.config
    assert_equal_models(flat, hf)


def test_gpt2_tokenizer_tables(tmp_path: Path) -> None:
    if not (GPT2_BPE / "vocab.json").is_file():
        pytest.skip("GPT-2's tables are not beside the repository")
    tokenizer = write_tokenizer(GPT2_BPE, tmp_path / "tokenizer.json", 50257)
    text = "Heart size is normal.  No pleural effusion\u2014or pneumothorax; 3 mm na\u00efve \u00b5g."
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("Hello world").ids == [15496, 995]
    assert tokenizer.token_to_id("<|endoftext|>") == 50256
    assert tokenizer.encode("a<|endoftext|>").ids == [64, 50256]
    assert load_tokenizer(tmp_path).encode(text).ids == ids


def test_tokenizers_with_the_lengths_of_a_training(tmp_path: Path) -> None:
    tokenizer = random_tokenizer(VOCAB)
    plain, ids = tokenizer.to_str(), tokenizer.encode("the heart").ids
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("the heart").ids == ids
    write_tokenizer(tmp_path, tmp_path / "out.json", VOCAB)
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(plain)
    drafted = [corpus_table(["the heart"], words, [0])["tokens"] for words in (tokenizer, load_tokenizer(tmp_path))]
    assert np.array_equal(*drafted)


def test_tokenizer_errors(tmp_path: Path) -> None:
    with pytest.raises(CannotRead, match="--tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptInput):
        load_tokenizer(tmp_path)
    random_tokenizer(VOCAB).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadCheckpoint, match="holds 320 tokens, the model 300"):
        write_tokenizer(tmp_path, tmp_path / "out.json", 300)
    far = json.loads((tmp_path / "tokenizer.json").read_text())
    far["model"]["vocab"][next(reversed(far["model"]["vocab"]))] = 1 << 31
    (tmp_path / "tokenizer.json").write_text(json.dumps(far))
    with pytest.raises(BadCheckpoint, match="a token of id 2147483648, the model 320 tokens"):
        write_tokenizer(tmp_path, tmp_path / "out.json", VOCAB)
