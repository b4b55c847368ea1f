# SPDX-License-Identifier: Apache-2.0
"""A straightforward PyTorch model of CXRMate's kinds, with random weights, and its folder.

CvT features and a projection head, a BERT decoder whose token types tell sections apart, several films side by side,
and an earlier report as the beginning of the decoder's text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import encoder_decoder as small
import torch
import transformers as hf
from edge_export.random_checkpoint import random_tokenizer
from tokenizers import AddedToken
from torch import Tensor, nn

VOCAB = 330
SPECIAL = ("[BOS]", "[SEP]", "[EOS]", "[PAD]", "[PMT]", "[PMT-SEP]", "[NPF]", "[NPI]")
BOS, SEP, EOS, PAD, PMT, PMT_SEP, NPF, NPI = range(VOCAB - len(SPECIAL), VOCAB)
PENALTY = 1.5
"""Else a random text repeats one token."""
SMALL: dict[str, Any] = {
    "encoder": {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "decoder": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
                "max_position_embeddings": 400},
}  # fmt: skip
FULL: dict[str, Any] = {
    "encoder": {"embed_dim": [64, 192, 384], "num_heads": [1, 3, 6], "depth": [1, 4, 16]},  # CvT-21
    "decoder": {"num_hidden_layers": 6},
}


class Encoder(hf.CvtPreTrainedModel):
    """Films [B, 3, H, W] or [B, films, 3, H, W] to tokens, those of a study one after the other."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.cvt = hf.CvtModel(config, add_pooling_layer=False)
        self.projection_head = nn.Module()
        width = config.embed_dim[-1]
        self.projection_head.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection_head.projection = nn.Linear(width, config.projection_size, bias=False)

    def forward(self, pixel_values: Tensor, return_dict: bool = True, **_: Any) -> Any:
        films = pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]
        seen = self.cvt(films.flatten(0, 1)).last_hidden_state.flatten(2).transpose(1, 2)
        tokens = self.projection_head.projection(self.projection_head.layer_norm(seen))
        return hf.modeling_outputs.BaseModelOutput(last_hidden_state=tokens.reshape(len(films), -1, tokens.shape[-1]))


class Model(hf.VisionEncoderDecoderModel):
    """`switches`: the type of the tokens behind each id."""

    switches: tuple[tuple[int, int], ...] = ((SEP, 1),)

    def types(self, ids: Tensor) -> Tensor:
        types = torch.zeros_like(ids)
        for token, kind in self.switches:
            seen = (ids == token).cumsum(1)
            behind = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1) > 0
            types[behind] = kind
        return types

    def prepare_inputs_for_generation(self, input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        prepared = super().prepare_inputs_for_generation(input_ids, **inputs)
        rows = prepared["decoder_input_ids"].shape[1]
        return prepared | {"decoder_token_type_ids": self.types(input_ids)[:, -rows:]}

    def write(self, films: Tensor, prompt: list[int], **options: Any) -> list[list[int]]:
        """Of every study, the ids behind the prompt without the end token."""
        ids = self.generate(
            films, decoder_input_ids=torch.tensor([prompt] * len(films)), decoder_start_token_id=prompt[0],
            eos_token_id=EOS, pad_token_id=PAD, do_sample=False, repetition_penalty=PENALTY, **options,
        )  # fmt: skip
        texts = [[int(i) for i in row[len(prompt) :]] for row in ids]
        return [text[: text.index(EOS)] if EOS in text else text for text in texts]


KINDS = {
    "SingleCXREncoderDecoderModel": ((SEP, 1),),
    "MultiCXREncoderDecoderModel": ((SEP, 1),),
    "LongitudinalPromptMultiCXREncoderDecoderModel": ((PMT_SEP, 1), (BOS, 0), (SEP, 1)),
}


def random_model(kind: str, shapes: dict[str, Any] = SMALL, seed: int = 0, gain: float = 12.0) -> Model:
    """A model whose texts differ from picture to picture."""
    vocab = VOCAB if shapes is SMALL else 30000
    target = hf.BertConfig(vocab_size=vocab, is_decoder=True, add_cross_attention=True, **shapes["decoder"])
    source = hf.CvtConfig(**shapes["encoder"], projection_size=target.hidden_size)
    source.hidden_size = target.hidden_size  # VisionEncoderDecoderModel asks for one
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(source, target)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        decoder = hf.BertLMHeadModel(target)
        model = Model(config, encoder=Encoder(source), decoder=decoder).eval()
        small.enliven(model, gain * (64 / target.hidden_size) ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        # Sections follow each other, and texts end, now and then.
        decoder.cls.predictions.bias[[SEP, EOS]] += torch.tensor([0.4, 0.2])
        decoder.bert.embeddings.position_embeddings.weight.mul_(6.0)
        decoder.bert.embeddings.token_type_embeddings.weight.mul_(6.0)
    model.switches = KINDS[kind]
    return model


def save(model: Model, kind: str, folder: Path, low_rank: float | None = None) -> Path:
    """The folder as it is published; with `low_rank` the queries and keys are split into a weight and an update of so
    much scale."""
    folder.mkdir(parents=True)
    config = json.loads(model.config.to_json_string())
    config |= {"architectures": [kind], "auto_map": {"AutoModel": "modelling.Model"}}
    del config["encoder"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if low_rank is not None:
        state = _split(state, low_rank)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "generation_config.json").write_text(json.dumps({"pad_token_id": 0, "repetition_penalty": PENALTY}))
    processor = {
        "crop_pct": 0.875, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "ConvNextImageProcessor",
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 64 if config["decoder"]["vocab_size"] == VOCAB else 384},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    words = random_tokenizer(VOCAB - len(SPECIAL))
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    words.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "[BOS]", "sep_token": "[SEP]", "eos_token": {"content": "[EOS]"}, "pad_token": "[PAD]"}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return folder


def _split(state: dict[str, Tensor], scale: float, rank: int = 2) -> dict[str, Tensor]:
    """Weights of a decoder under ``peft``'s names, queries and keys of the self-attention in two parts."""
    split: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        head, _, tail = name.partition(".")
        plain = f"decoder.base_model.model.{tail}" if head == "decoder" else name
        if ".attention.self.query.weight" in name or ".attention.self.key.weight" in name:
            up = torch.randn(tensor.shape[0], rank, generator=generator)
            down = torch.randn(rank, tensor.shape[1], generator=generator)
            stem = plain.removesuffix(".weight")
            split[f"{stem}.lora_A.default.weight"], split[f"{stem}.lora_B.default.weight"] = down, up
            tensor = tensor - scale / rank * up @ down
        split[plain] = tensor
    return split
