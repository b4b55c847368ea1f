# SPDX-License-Identifier: Apache-2.0
"""Small encoder-decoders that learn from phantoms: stages, checkpoints, and the folder they end in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from edge_export.phantom import cross, cross_train, data  # noqa: E402  (needs torch)
from edge_export.phantom.case import sample_case  # noqa: E402
from edge_export.phantom.cli import main  # noqa: E402
from edge_export.phantom.labels import LABELS  # noqa: E402


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of noise in the place of 250 drawn phantoms."""
    rng, size = np.random.default_rng(0), cross.IMAGE_SIZE
    labels = [sample_case(rng).labels for _ in range(12)]
    folder = tmp_path_factory.mktemp("cache")
    np.savez(
        data.shard_path(folder, 1, size, 0).open("wb"),
        images=rng.integers(0, 255, (12, size, size), np.uint8),
        lung=np.zeros((12, 28, 28), np.uint8),
        heart=np.zeros((12, 28, 28), np.uint8),
        regions=rng.integers(0, 2, (12, len(LABELS), 14, 14), np.uint8) * 255,
        labels=np.array([[name in found for name in LABELS] for found in labels]),
    )
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Learnt from fewer texts than those of a training."""
    folder = tmp_path_factory.mktemp("tokenizers")
    return {family: cross.tokenizer_for(family, folder / f"{family}.json", 1500) for family in cross.FAMILIES}


@pytest.mark.parametrize("family", cross.FAMILIES)
def test_train(
    tmp_path: Path, cache: Path, tokenizers: dict[str, Tokenizer], family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage moves its own weights only; a second run finds all of them finished; the folder loads as it is."""
    from edge_export.families.cross.load import load

    command = ["train", "--family", family, "--out", str(tmp_path), "--cache", str(cache), "--images", "250"]
    command += ["--steps", "1", "--threads", "1", "--workers", "1"]
    tokenizers[family].save(str(tmp_path / f"{family}-tokenizer.json"))
    assert main(command) == 0
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    assert set(kept) == {"encoder.pt", f"{family}-decoder.pt", f"{family}-report.pt"}
    weights = [torch.load(tmp_path / name, weights_only=True)["weights"] for name in sorted(kept)]
    assert all(torch.isfinite(tensor).all() for stage in weights for tensor in stage)
    loaded = load(tmp_path / family)
    assert loaded.family == f"vit-{family.split('-')[0]}"
    assert loaded.generation["stop_ids"] == [cross.special_ids(family, tokenizers[family])["eos_token_id"]]
    assert loaded.image["resize"] == "bicubic"
    before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == kept
    for key, tensor in load(tmp_path / family).model.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)
    assert "now edge-export" in capsys.readouterr().out


def test_labels_survive_the_tokenizers(tokenizers: dict[str, Tokenizer]) -> None:
    """What either tokenizer makes of a text says the same."""
    from edge_export.phantom.grammar import write_findings
    from edge_export.phantom.labeller import label

    rng = np.random.default_rng(3)
    for tokenizer in tokenizers.values():
        for _ in range(40):
            text = write_findings(sample_case(rng).labels, rng)
            ids = tokenizer.encode(text).ids
            assert len(ids) < cross.POSITIONS - 2
            assert label(tokenizer.decode(ids)) == label(text)


def test_stages_of_another_family_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--family", "bert-cross", "--out", str(tmp_path), "--stage", "segmenter"]) == 1
    assert "has the stages encoder, decoder, report" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_stopped_training_goes_on(tmp_path: Path, cache: Path, tokenizers: dict[str, Tokenizer]) -> None:
    """A request to end takes effect behind a step, whose state is kept: the weights are those of a whole run."""
    import os
    import signal

    from edge_export.phantom.staged import StageOptions
    from edge_export.phantom.train import Films

    def trainer(folder: Path) -> cross_train.CrossTrainer:
        folder.mkdir(exist_ok=True)
        films = Films(cache, 1, cross.IMAGE_SIZE, 1)
        return cross_train.CrossTrainer(folder, films, "bert-cross", tokenizers["bert-cross"], 1)

    options = StageOptions(steps=3, batch=2, learning_rate=1e-3, warmup=1)
    whole = trainer(tmp_path / "whole")
    whole.run("encoder", options, lambda line: None)
    stopped = trainer(tmp_path / "stopped")
    loss = stopped.loss

    def interrupted(stage: str, step: int, options: StageOptions) -> dict[str, torch.Tensor]:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(stage, step, options)

    stopped.loss = interrupted  # type: ignore[method-assign]
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        stopped.run("encoder", options, lines.append)
    assert lines == ["encoder: stopped behind step 2; the same command goes on from there"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = trainer(tmp_path / "stopped")
    again.run("encoder", options, lambda line: None)
    for one, other in zip(whole.model.encoder.parameters(), again.model.encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_losses_fall(tmp_path: Path, cache: Path, tokenizers: dict[str, Tokenizer]) -> None:
    """A dozen steps on a few texts are enough to see the decoder learn."""
    from edge_export.phantom.train import Films

    films = Films(cache, 1, cross.IMAGE_SIZE, 1)
    trainer = cross_train.CrossTrainer(tmp_path, films, "gpt2-cross", tokenizers["gpt2-cross"], 1)
    trainer.before("decoder", lambda line: None)
    options = cross_train.DEFAULTS["decoder"]
    parameters = [p for module in trainer.modules("decoder") for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    losses = []
    for step in range(12):
        loss = trainer.loss("decoder", step, options)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1.0
