# SPDX-License-Identifier: Apache-2.0
"""A folder with a ``VisionEncoderDecoderModel`` to that model, its defaults, and what it brings along.

The configuration may come from anywhere: no code of the folder runs, sizes are checked before a model of them is
built, and every weight that does not fit is named.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...checkpoint import compare, read_json, read_state
from ...errors import BadCheckpoint, CannotRead
from ...options import ImageOptions
from .. import CROSS
from ..limits import GENERATION, MOST, MOST_LAYERS, NETWORK, PROCESSOR, check
from . import cvt, cxrmate, low_rank
from .decoders import missing_pieces
from .encoders import ENCODERS, MISSING
from .generation import generation_section
from .image import image_section
from .pair import EncoderDecoder
from .prompt import Prompt, Words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LAYER_KEYS = ("num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers", "num_layers")
_DEFAULTED = ("size", "crop_size", "rescale_factor", "image_mean", "image_std")
"""Of a preprocessor configuration: null is as good as nothing."""
_OPTIONAL = (
    r"encoder\.pooler\..*",
    r"encoder\.embeddings\.mask_token",
    r"decoder\.cls\.predictions\.(bias|decoder\.bias)",
    r"decoder\.lm_head\.(bias|decoder\.bias)",
)
_TIED = (r"decoder\.lm_head\.(decoder\.)?weight", r"decoder\.cls\.predictions\.decoder\.weight")
_IGNORED = (
    r".*\.(attn|crossattention)\.(bias|masked_bias)",
    r".*\.position_ids",
    r".*\.token_type_ids",
    r".*\.(relative_position_index|relative_coords_table|attn_mask|num_batches_tracked)",
    r"encoder\.pooler\..*",
    r"decoder\.final_logits_bias",
)


@dataclass
class Loaded:
    """A model ready for export.

    Attributes
    ----------
    model : VisionEncoderDecoderModel
        In evaluation mode, float32, with plain attention.
    image, generation : dict
        Sections of the manifest.
    notes : list of str
        What a user must know.
    type_after : list of int
        Pairs of a token id and the type of the tokens behind it, where types change within a text.
    images : int
        Films of one study that the model looks at together, at most.
    words : Tokenizer or None
        The tokenizer where it is not the folder's as it is.
    kind : str
        The family's name where encoder and decoder do not say it.
    """

    model: Any
    image: dict[str, Any]
    generation: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    type_after: list[int] = field(default_factory=list)
    images: int = 1
    words: Tokenizer | None = None
    kind: str = ""
    layout = CROSS

    @property
    def family(self) -> str:
        return self.kind or f"{self.model.config.encoder.model_type}-{self.model.config.decoder.model_type}"


def load(path: Path, tokenizer: Path | None = None, prompt: Prompt | None = None) -> Loaded:
    """Load a folder.

    Parameters
    ----------
    path : Path
    tokenizer : Path, optional
        Folder of the tokenizer; by default the same.
    prompt : Prompt, optional
        What the decoder is told before it writes, where the folder does not say it.

    Raises
    ------
    BadCheckpoint
        A piece is missing in this exporter, or weights do not fit: all of them are listed.
    CannotRead, CorruptInput, UsageError
    """
    values = read_json(path / "config.json")
    config = _config(path, values)
    _refuse_missing(path, config)
    notes: list[str] = []
    state = read_state(_weights_file(path))
    file = path / "preprocessor_config.json"
    processor = read_json(file) if file.is_file() else {}
    check(processor, PROCESSOR, f"{path.name}: {file.name}")
    processor = {key: value for key, value in processor.items() if value is not None or key not in _DEFAULTED}
    if not processor:
        notes.append("The folder holds no preprocessor_config.json: ViT's defaults were taken.")
    words = Words(tokenizer or path)
    own = None
    if cxrmate.is_cxrmate(values):
        own = cxrmate.layout(values, words.tokenizer, words.special)
        processor = cxrmate.image_size(processor)
        notes.append("Pictures, sections and token types are those of CXRMate's published code.")
    state, merged = low_rank.merge(state, path, cxrmate.LOW_RANK_SCALE if own and own.context else None)
    if merged:
        notes.append(f"{merged} low-rank updates of the decoder were added to its weights.")
    model = build(config, cvt.renamed(state) if config.encoder.model_type == "cvt" else state, path.name)
    image = image_section(processor, getattr(config.encoder, "image_size", None), ImageOptions())
    generation = generation_section(path, model, notes, words=words, own=own)
    loaded = Loaded(model, image, generation, notes)
    if own is not None:
        loaded.type_after, loaded.images = own.type_after, own.images
    if prompt is not None:
        prompt.apply(loaded, words.tokenizer)
    return loaded


def _config(path: Path, values: dict[str, Any]) -> Any:
    from transformers import AutoConfig, VisionEncoderDecoderConfig

    kinds = {}
    for part in ("encoder", "decoder"):
        if not isinstance(values.get(part), dict) or not isinstance(values[part].get("model_type"), str):
            raise BadCheckpoint(f"{path.name}: config.json names no {part}")
        kinds[part] = values[part]["model_type"]
    _check_sizes(values, path.name)
    for part in ("encoder", "decoder"):
        check(values[part], NETWORK, f"{path.name}: config.json: {part}")
    for where, said in (("config.json", values), ("config.json: decoder", values["decoder"])):
        check(said, GENERATION, f"{path.name}: {where}")
    encoder = kinds["encoder"]
    if encoder in MISSING or encoder not in ENCODERS:
        why = MISSING.get(encoder, f"there are: {', '.join(sorted(set(ENCODERS) - set(MISSING)))}")
        raise BadCheckpoint(f"{path.name}: not supported: encoders of type {encoder!r} ({why})")
    try:
        AutoConfig.for_model(kinds["decoder"])
    except ValueError:
        raise BadCheckpoint(f"{path.name}: not supported: decoders of type {kinds['decoder'][:40]!r}") from None
    given = {key: deepcopy(value) for key, value in values.items() if key != "auto_map"}  # it is taken apart
    for part in ("encoder", "decoder"):  # null says nothing, where the library would take it for a value
        given[part] = {key: value for key, value in given[part].items() if value is not None or key not in NETWORK}
    try:
        config = VisionEncoderDecoderConfig.from_dict(given)
    except Exception as error:
        raise BadCheckpoint(f"{path.name}: config.json is not a configuration ({_line(error)})") from None
    config._attn_implementation = "eager"
    for part in (config.encoder, config.decoder):
        part._attn_implementation = "eager"
    return config


def _check_sizes(values: Any, name: str, key: str = "") -> None:
    """Refuse numbers that no model has before one is built of them."""
    if isinstance(values, dict):
        for inner, value in values.items():
            _check_sizes(value, name, str(inner))
    elif isinstance(values, list):
        if len(values) > 1 << 16:
            raise BadCheckpoint(f"{name}: config.json: {key[:40]} holds too many values")
        for value in values:
            _check_sizes(value, name, key)
    elif isinstance(values, int):
        limit = MOST_LAYERS if key in (*_LAYER_KEYS, "depths") else MOST
        if abs(values) > limit:
            raise BadCheckpoint(f"{name}: config.json: {key[:40]} = {str(values)[:20]} is out of range")


def _refuse_missing(path: Path, config: Any) -> None:
    missing = list(missing_pieces(config.decoder))
    if missing:
        raise BadCheckpoint(f"{path.name}: not supported: {'; '.join(missing)}")


def _weights_file(path: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    if list(path.glob("*.index.json")):
        raise BadCheckpoint(f"{path.name} is split into several weight files: save it as one model.safetensors")
    raise CannotRead(f"{path} has no model.safetensors and no pytorch_model.bin")


def build(config: Any, state: dict[str, torch.Tensor], name: str) -> Any:
    """A model with exactly these weights. Shapes are compared on a model without memory first."""
    from transformers.modeling_utils import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            expected = _network(config, state).state_dict()
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{name}: {error}") from None
    except Exception as error:
        raise BadCheckpoint(f"{name}: no such model can be built ({_line(error)})") from None
    optional = _OPTIONAL + (_TIED if config.decoder.tie_word_embeddings else ())
    weights = {key: tensor for key, tensor in expected.items() if tensor.is_floating_point()}
    given = {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}
    compare(given, weights, optional=optional, ignored=_IGNORED).raise_if_any(name)
    with torch.random.fork_rng(devices=[]), no_init_weights():
        model = _network(config, state)
    for key, tensor in model.state_dict().items():
        if key not in given and tensor.is_floating_point():
            tensor.zero_()  # what may be missing was not initialised; tied weights come from their twin
    model.load_state_dict({key: tensor for key, tensor in given.items() if key in weights}, strict=False)
    model.decoder.tie_weights()
    return model.eval()


def _network(config: Any, names: Collection[str]) -> Any:
    from transformers import AutoModelForCausalLM, VisionEncoderDecoderModel

    if config.encoder.model_type != "cvt":
        return VisionEncoderDecoderModel(config)
    decoder = AutoModelForCausalLM.from_config(config.decoder)
    width = config.decoder.cross_attention_hidden_size or config.decoder.hidden_size
    return EncoderDecoder(config, cvt.CvtTokens(config.encoder, width, names), decoder)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
