# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models without a ``tokenizer.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("google.protobuf")

from edge_export.errors import EdgeError  # noqa: E402
from edge_export.tokenizer_files import load_tokenizer  # noqa: E402

PIECES = ["<unk>", "<s>", "</s>", "\u2581the", "\u2581heart", "\u2581", "is", "\u2581large", ".", "s", "i", "larg", "e"]
TEXTS = ["the heart is large.", "  the  hearts ", "la rge heart", "\u00e9 the", "the <s> heart", ""]


CORPUS = """The heart is large and the lungs are clear. No effusion, no pneumothorax.
Small opacity in the left lower lobe; the right lung is clear of opacities.
Heart size is normal. Bilateral pleural effusions, larger on the right.
Lines and tubes are unchanged. There is mild pulmonary vascular congestion.
"""


def write(folder: Path, kind: str | None, *, model_type: int = 1) -> Path:
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    for number, piece in enumerate(PIECES):
        proto.pieces.add(piece=piece, score=-float(number), type={0: 2, 1: 3, 2: 3}.get(number, 1))
    proto.trainer_spec.model_type = model_type
    proto.trainer_spec.unk_id = 0
    folder.mkdir()
    (folder / "sentencepiece.bpe.model").write_bytes(proto.SerializeToString())
    if kind is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return folder


def test_ids_of_the_classes(tmp_path: Path) -> None:
    """The same pieces have other ids in each class; special tokens are no text."""
    roberta = load_tokenizer(write(tmp_path / "r", "XLMRobertaTokenizer"))
    assert roberta.encode("the heart", add_special_tokens=False).ids == [4, 5]
    assert [roberta.token_to_id(t) for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, 14]
    assert roberta.decode([0, 4, 5, 2, 1]) == "the heart"
    mbart = load_tokenizer(write(tmp_path / "m", "MBartTokenizerFast"))
    assert mbart.token_to_id("en_XX") == 14 + 3
    assert mbart.decode([mbart.token_to_id("en_XX"), 4, 5, 9, 2]) == "the heart."
    camembert = load_tokenizer(write(tmp_path / "c", "CamembertTokenizer"))
    assert camembert.encode("the heart", add_special_tokens=False).ids == [7, 8]


def test_class_by_the_decoder(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", None)
    (folder / "config.json").write_text(json.dumps({"decoder": {"model_type": "xlm-roberta"}}))
    assert load_tokenizer(folder).encode("the heart", add_special_tokens=False).ids == [4, 5]


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "MBartTokenizer", "CamembertTokenizer"])
def test_same_ids_as_the_librarys_own(tmp_path: Path, kind: str) -> None:
    """On a model that SentencePiece has trained itself."""
    trainer: Any = pytest.importorskip("sentencepiece").SentencePieceTrainer
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(CORPUS)
    folder = tmp_path / "folder"
    folder.mkdir()
    trainer.train(
        input=str(corpus), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=60, minloglevel=2, num_threads=1
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    library = getattr(transformers, kind)(vocab_file=str(folder / "sentencepiece.bpe.model"))
    ours = load_tokenizer(folder)
    assert ours.get_vocab_size() == len(library)
    for text in ("the heart is large.", "no effusion, left lower lobe", "small opacities in Xyz", "la  rge"):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == library.encode(text, add_special_tokens=False)
        if library.unk_token_id not in ids:
            assert ours.decode(ids) == library.decode(ids, skip_special_tokens=True)


def test_refused(tmp_path: Path) -> None:
    for kind in ("T5Tokenizer", None):
        with pytest.raises(EdgeError, match="save it as tokenizer\\.json: AutoTokenizer"):
            load_tokenizer(write(tmp_path / str(kind), kind))
    with pytest.raises(EdgeError, match="not a unigram model"):
        load_tokenizer(write(tmp_path / "bpe", "MBartTokenizer", model_type=2))
    folder = write(tmp_path / "broken", "MBartTokenizer")
    for data in (b"", b"\xff" * 100, b"hello"):
        (folder / "sentencepiece.bpe.model").write_bytes(data)
        with pytest.raises(EdgeError, match="not a SentencePiece model"):
            load_tokenizer(folder)
