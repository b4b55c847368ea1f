# SPDX-License-Identifier: Apache-2.0
"""A PyTorch model of CvT2DistilGPT2 with random weights, and its checkpoint under the published modules' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_decoder as small
import torch
import transformers as hf
from edge_export.random_checkpoint import random_tokenizer
from torch import Tensor, nn

WORDS = 320
END, BEGIN = WORDS - 1, WORDS
_NAMES = (
    ("encoder.stages.", "stage"),
    (".layers.", ".blocks."),
    ("embedding.convolution_embeddings.projection", "patch_embed.proj"),
    ("embedding.convolution_embeddings.normalization", "patch_embed.norm"),
    ("attention.attention.convolution_projection_query.convolution_projection", "attn.conv_proj_q"),
    ("attention.attention.convolution_projection_key.convolution_projection", "attn.conv_proj_k"),
    ("attention.attention.convolution_projection_value.convolution_projection", "attn.conv_proj_v"),
    ("attention.attention.projection_query", "attn.proj_q"),
    ("attention.attention.projection_key", "attn.proj_k"),
    ("attention.attention.projection_value", "attn.proj_v"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("q.convolution.", "q.conv."), ("k.convolution.", "k.conv."), ("v.convolution.", "v.conv."),
    ("q.normalization.", "q.bn."), ("k.normalization.", "k.bn."), ("v.normalization.", "v.bn."),
)  # fmt: skip


class Encoder(hf.CvtPreTrainedModel):
    def __init__(self, config: Any, out: int) -> None:
        super().__init__(config)
        self.cvt = hf.CvtModel(config, add_pooling_layer=False)
        self.projection = nn.Linear(config.embed_dim[-1], out, bias=False)

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        seen = self.cvt(pixel_values).last_hidden_state
        return hf.modeling_outputs.BaseModelOutput(last_hidden_state=self.projection(seen.flatten(2).transpose(1, 2)))


def random_model(depth: tuple[int, int, int] = (1, 2, 3), layers: int = 2, seed: int = 0) -> Any:
    """CvT's published widths; `depth` (1, 4, 16) and six layers are the published model."""
    full = layers > 2
    vocab, hidden = (50259, 768) if full else (WORDS + 2, 64)
    target = hf.GPT2Config(
        vocab_size=vocab, n_positions=1024 if full else 160, n_embd=hidden, n_layer=layers, n_head=hidden // 64,
        is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    source = hf.CvtConfig(embed_dim=[64, 192, 384], num_heads=[1, 3, 6], depth=list(depth))
    source.hidden_size = hidden
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(source, target)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        decoder = hf.GPT2LMHeadModel(target)
        model = hf.VisionEncoderDecoderModel(config, encoder=Encoder(source, hidden), decoder=decoder).eval()
        small.enliven(model, (8.0 if full else 10.0) * (64 / hidden) ** 0.5)
        decoder.transformer.wpe.weight.mul_(8.0)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def published(name: str) -> str:
    """The name of a weight in the published checkpoint."""
    if name.startswith("decoder."):
        return f"decoder.encoder_decoder.{name}"
    if name.startswith("encoder.projection."):
        return f"encoder_projection.{name.removeprefix('encoder.')}"
    name = name.removeprefix("encoder.cvt.")
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return f"encoder.cvt.{name}"


def save(model: Any, folder: Path) -> Path:
    """``model.ckpt`` as Lightning writes it, and DistilGPT2's tokenizer beside it."""
    folder.mkdir(parents=True)
    state = {published(name): tensor for name, tensor in model.state_dict().items()}
    state |= {"encoder.cvt.norm.weight": torch.ones(384), "encoder.cvt.head.weight": torch.ones(10, 384)}
    torch.save({"epoch": 8, "state_dict": state, "pytorch-lightning_version": "2.0"}, folder / "model.ckpt")
    random_tokenizer(model.config.decoder.vocab_size - 2).save(str(folder / "tokenizer.json"))
    return folder / "model.ckpt"


@torch.no_grad()
def write(model: Any, pixels: Tensor, **options: Any) -> list[list[int]]:
    """Ids behind the begin token, without the end token."""
    vocab = model.config.decoder.vocab_size
    ids = model.generate(
        pixels,
        decoder_start_token_id=vocab - 2,
        eos_token_id=vocab - 3,
        pad_token_id=vocab - 1,
        do_sample=False,
        **options,
    )
    texts = [[int(i) for i in row[1:]] for row in ids]
    return [text[: text.index(vocab - 3)] if vocab - 3 in text else text for text in texts]
