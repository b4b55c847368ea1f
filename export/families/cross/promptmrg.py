# SPDX-License-Identifier: Apache-2.0
"""PromptMRG's state dict: a ResNet, a classifier of 18 findings whose four-way states become the decoder's prompt, and
BLIP's BERT decoder.

The published code hands the classifier the features of reports that it retrieved for every picture, which needs a
database and another network. A checkpoint holds neither: the features come from a file and are the same for all films.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...checkpoint import compare, read_state, shape_of
from ...errors import BadCheckpoint, CannotRead, CorruptInput
from ...options import ImageOptions
from ...tokenizer_files import load_tokenizer
from .image import image_section
from .memory import Memory
from .pair import EncoderDecoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .load import Loaded

FINDINGS = (
    *(
        "enlarged cardiomediastinum",
        "cardiomegaly",
        "lung opacity",
        "lung lesion",
        "edema",
        "consolidation",
        "pneumonia",
    ),
    *("atelectasis", "pneumothorax", "pleural effusion", "pleural other", "fracture", "support devices", "no finding"),
    *(f"auxiliary {number}" for number in range(1, 5)),
)
STATES = {"blank": "[BLA]", "positive": "[POS]", "negative": "[NEG]", "uncertain": "[UNC]"}
BEGIN, END = "[DEC]", "[SEP]"
BEAMS, NEW_TOKENS, LEAST_TOKENS = 3, 150, 100
"""With which the published code writes; the least counts the prompt."""
PICTURE, EDGE = 224, 256
_HEAD_WIDTH = 64
_LAYER = {"4": 0, "5": 1, "6": 2, "7": 3}
_IGNORED = (r".*num_batches_tracked", r".*position_ids", r"vision_proj\..*", r"memory\..*")
_OPTIONAL = (r"decoder\.cls\.predictions\.(bias|decoder\.(bias|weight))",)


def recognises(names: Collection[str]) -> bool:
    """Whether a flat state dict is one of these, from its weights' names."""
    needed = ("visual_encoder.model.0.weight", "cls_head.weight", "text_decoder.bert.embeddings.word_embeddings.weight")
    return all(name in names for name in needed)


class ResNetTokens(nn.Module):
    """Pixels [B, 3, H, W] to the feature map's places [B, N, D] and their mean [B, D]."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import ResNetModel

        self.config = config
        self.network = ResNetModel(config)

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        tokens = torch.flatten(self.network(pixel_values).last_hidden_state, 2).transpose(1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens.mean(1))


class Classifier(nn.Module):
    """Mean features [B, D] to the logits [B, findings, states]."""

    def __init__(self, width: int, memory: Memory | None) -> None:
        super().__init__()
        self.memory = memory
        extra = memory.width if memory is not None else 0
        self.head = nn.Linear(width + extra, len(STATES) * len(FINDINGS))

    def forward(self, features: Tensor) -> Tensor:
        if self.memory is not None:
            features = torch.cat((features, self.memory(features)), 1)
        return self.head(features).view(-1, len(STATES), len(FINDINGS)).transpose(1, 2)


def load(path: Path, tokenizer: Path | None = None, retrieved: Path | None = None) -> Loaded:
    """Load a state dict.

    Parameters
    ----------
    path : Path
    tokenizer : Path, optional
        Folder of the tokenizer: BERT's, with or without the tokens that the published code adds.
    retrieved : Path, optional
        Features [reports, width] that the classifier reads beside the picture's: ``.npy`` or ``.safetensors``.

    Raises
    ------
    BadCheckpoint, CannotRead, CorruptInput
    """
    from .load import Loaded

    state = read_state(path)
    words = _words(tokenizer or path.parent)
    model = build(state, path.name, None if retrieved is None else read_features(retrieved))
    vocab = model.decoder.config.vocab_size
    if words.get_vocab_size() > vocab:
        raise BadCheckpoint(f"the tokenizer holds {words.get_vocab_size()} tokens, the model {vocab}")
    notes = ["Pictures, prompt, beams and lengths are those of PromptMRG's published code."]
    if model.classifier.memory is not None:
        notes.append(
            f"The classifier reads the features of the same {model.classifier.memory.reports} reports for every film; "
            "the published code retrieves others for each."
        )
    processor = {
        "size": {"shortest_edge": EDGE},
        "do_center_crop": True,
        "crop_size": PICTURE,
        "resample": 2,
        "image_mean": ImageOptions().mean,
        "image_std": ImageOptions().std,
    }
    image = image_section(processor, PICTURE, ImageOptions())
    loaded = Loaded(model, image, generation(words, model), notes)
    loaded.words, loaded.kind = words, "promptmrg"
    return loaded


def generation(words: Tokenizer, model: Any) -> dict[str, Any]:
    """The manifest's generation section."""
    ids = {token: words.token_to_id(token) for token in (BEGIN, END, *STATES.values())}
    layers = model.decoder.config.num_hidden_layers
    prompt = 1 + len(FINDINGS)
    return {
        "max_new_tokens": min(NEW_TOKENS, model.decoder.config.max_position_embeddings - prompt),
        "repetition_penalty": 1.0,
        "stop_ids": [ids[END]],
        "suppressed_ids": [],
        "begin_ids": [ids[BEGIN]],
        "cut_at_sentence": False,
        "evidence_layers": list(range(layers // 2, layers)),
        "beams": BEAMS,
        "length_penalty": 1.0,
        "early_stopping": "no",
        "min_new_tokens": LEAST_TOKENS - prompt,
        "states": {
            "findings": list(FINDINGS),
            "names": list(STATES),
            "token_ids": [ids[token] for token in STATES.values()],
        },
    }


def _words(folder: Path) -> Tokenizer:
    """BERT's tokenizer with the prompt's tokens, at the ids that the published code gives them."""
    from tokenizers import AddedToken

    words = load_tokenizer(folder)
    if words.token_to_id(BEGIN) is None:
        words.add_special_tokens([AddedToken(BEGIN, special=True, normalized=False)])
    for token in STATES.values():
        if words.token_to_id(token) is None:
            words.add_tokens([AddedToken(token, normalized=False)])
    if words.token_to_id(END) is None:
        raise BadCheckpoint(f"the tokenizer has no {END}: it is not BERT's")
    return words


def read_features(path: Path) -> Tensor:
    """Features of reports [reports, width] from a ``.npy`` or ``.safetensors`` file.

    Raises
    ------
    CannotRead, CorruptInput, BadCheckpoint
    """
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False).astype(np.float32, casting="same_kind")
        except OSError as error:
            raise CannotRead(f"{path} cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, AttributeError):  # of letters, or several arrays
            raise CorruptInput(f"{path.name} is not an array of numbers") from None
        features = torch.from_numpy(array)
    else:
        tensors = read_state(path)
        if len(tensors) != 1:
            raise BadCheckpoint(f"{path.name} must hold one array, not {len(tensors)}")
        (features,) = tensors.values()
    if features.ndim != 2 or not 1 <= len(features) <= 1 << 12 or not torch.isfinite(features).all():
        raise BadCheckpoint(f"{path.name} must hold finite features [reports, width]")
    return features


def build(state: dict[str, Tensor], name: str, retrieved: Tensor | None) -> Any:
    """The network with exactly these weights.

    Raises
    ------
    BadCheckpoint
        Weights that do not fit: all of them are listed; or the retrieved features are missing.
    """
    config = _config(state, name)
    width = config.encoder.hidden_sizes[-1]
    _, read = shape_of(state, "cls_head.weight", 2, name)
    memory = None
    if read > width:
        if retrieved is None:
            raise BadCheckpoint(
                f"{name}: missing: the features of retrieved reports that the classifier of findings reads beside the "
                "picture's; the checkpoint does not hold them: give them with --retrieved FILE"
            )
        memory = Memory({k.removeprefix("memory."): v for k, v in state.items() if k.startswith("memory.")},
                        state.get("vision_proj.weight"), state.get("vision_proj.bias"), retrieved, name)  # fmt: skip
    from transformers import BlipTextLMHeadModel
    from transformers.modeling_utils import no_init_weights

    with no_init_weights(), torch.random.fork_rng(devices=[]):
        decoder = BlipTextLMHeadModel(config.decoder)
        model = EncoderDecoder(config, ResNetTokens(config.encoder), decoder)
        model.classifier = Classifier(width, memory)
    given = {new: tensor for old, tensor in state.items() if (new := _renamed(old)) and tensor.is_floating_point()}
    expected = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not key.startswith("classifier.memory.")
    }
    compare(given, expected, optional=_OPTIONAL, ignored=_IGNORED).raise_if_any(name)
    if "decoder.cls.predictions.bias" not in given:
        given["decoder.cls.predictions.bias"] = given.get(
            "decoder.cls.predictions.decoder.bias", torch.zeros(config.decoder.vocab_size)
        )
    model.load_state_dict({key: tensor for key, tensor in given.items() if key in expected}, strict=False)
    if "decoder.cls.predictions.decoder.weight" not in given:
        decoder.cls.predictions.decoder.weight = decoder.bert.embeddings.word_embeddings.weight
    return model.eval()


def _config(state: dict[str, Tensor], name: str) -> Any:
    """Configurations that follow from the weights' shapes; BERT's heads are 64 wide."""
    from transformers import BlipTextConfig, ResNetConfig, VisionEncoderDecoderConfig

    try:
        stages = [_blocks(state, rf"visual_encoder\.model\.{number}\.(\d+)\.") for number in _LAYER]
        layers = _blocks(state, r"text_decoder\.bert\.encoder\.layer\.(\d+)\.")
    except KeyError as error:
        raise BadCheckpoint(f"{name}: missing: {error.args[0]}") from None
    widths = [shape_of(state, f"visual_encoder.model.{number}.0.conv3.weight", 4, name)[0] for number in _LAYER]
    stem = shape_of(state, "visual_encoder.model.0.weight", 4, name)[0]
    embeddings, first = "text_decoder.bert.embeddings.", "text_decoder.bert.encoder.layer.0."
    vocab, hidden = shape_of(state, f"{embeddings}word_embeddings.weight", 2, name)
    positions, _ = shape_of(state, f"{embeddings}position_embeddings.weight", 2, name)
    mlp, _ = shape_of(state, f"{first}intermediate.dense.weight", 2, name)
    _, seen = shape_of(state, f"{first}crossattention.self.key.weight", 2, name)
    if hidden % _HEAD_WIDTH:
        raise BadCheckpoint(f"{name}: a decoder of width {hidden} has no heads of {_HEAD_WIDTH}")
    encoder = ResNetConfig(
        embedding_size=stem, hidden_sizes=widths, depths=stages, layer_type="bottleneck", hidden_act="relu"
    )
    decoder = BlipTextConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        encoder_hidden_size=seen,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=hidden // _HEAD_WIDTH,
        max_position_embeddings=positions,
        hidden_act="gelu",
        is_decoder=True,
        add_cross_attention=True,
    )
    decoder._attn_implementation = "eager"
    config = VisionEncoderDecoderConfig(encoder=encoder.to_dict(), decoder={**decoder.to_dict(), "model_type": "bert"})
    config.encoder, config.decoder = encoder, decoder
    return config


def _blocks(state: dict[str, Tensor], pattern: str) -> int:
    found = [int(match.group(1)) for name in state if (match := re.match(pattern, name))]
    if not found or max(found) > 256:
        raise KeyError(pattern.replace("\\", ""))
    return max(found) + 1


def _renamed(name: str) -> str | None:
    """The names of torchvision's ResNet and of the published modules to ours; None for what is not taken."""
    if name.startswith("text_decoder."):
        return f"decoder.{name.removeprefix('text_decoder.')}"
    if name.startswith("cls_head."):
        return f"classifier.head.{name.removeprefix('cls_head.')}"
    found = re.fullmatch(r"visual_encoder\.model\.(\d+)\.(.*)", name)
    if found is None:
        return name
    place, rest = found.groups()
    if place in ("0", "1"):
        return f"encoder.network.embedder.embedder.{'convolution' if place == '0' else 'normalization'}.{rest}"
    found = re.fullmatch(r"(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", rest)
    if found is None or place not in _LAYER:
        return name
    block, what, number, leaf = found.groups()
    stem = f"encoder.network.encoder.stages.{_LAYER[place]}.layers.{block}"
    if what == "downsample.":
        return f"{stem}.shortcut.{'convolution' if number == '0' else 'normalization'}.{leaf}"
    return f"{stem}.layer.{int(number) - 1}.{'convolution' if what == 'conv' else 'normalization'}.{leaf}"
