# SPDX-License-Identifier: Apache-2.0
"""A straightforward PyTorch model of PromptMRG with random weights, under the names of the published modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_decoder as small
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

FINDINGS, STATES = 18, 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(300)), "the", "heart", ".", "##s"]
SEP, DEC = 3, len(WORDS)
STATE_IDS = [DEC + 1, DEC + 2, DEC + 3, DEC + 4]

SMALL: dict[str, Any] = {
    "widths": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "memory": 16, "memory_mlp": 24,
    "decoder": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128},
}  # fmt: skip
FULL: dict[str, Any] = {
    "widths": (64, 128, 256, 512), "depths": (3, 4, 23, 3), "memory": 512, "memory_mlp": 2048,
    "decoder": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
}  # fmt: skip
"""ResNet-101 and BERT base."""


class Bottleneck(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or before != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def resnet(widths: tuple[int, ...], depths: tuple[int, ...]) -> nn.Sequential:
    stem = widths[0]
    parts: list[nn.Module] = [
        nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    before = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = [
            Bottleneck(before if i == 0 else 4 * width, width, 2 if stage and i == 0 else 1) for i in range(depth)
        ]
        parts.append(nn.Sequential(*blocks))
        before = 4 * width
    return nn.Sequential(*parts)


class Looking(nn.Module):
    """One layer of the transformer over reports; rows are [n, 1, width]."""

    def __init__(self, width: int, mlp: int, cross: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, 8)
        self.multihead_attn = nn.MultiheadAttention(width, 8) if cross else None
        self.linear1, self.linear2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width) if cross else None

    def forward(self, x: Tensor, query: Tensor, reports: Tensor | None) -> Tensor:
        x = self.norm1(x + self.self_attn(x + query, x + query, x)[0])
        if self.multihead_attn is not None:
            x = self.norm2(x + self.multihead_attn(x + query, reports, reports)[0])
        mixed = x + self.linear2(F.relu(self.linear1(x)))
        return self.norm2(mixed) if self.norm3 is None else self.norm3(mixed)


class PromptMRG(nn.Module):
    """`reports`: features [n, width] that the classifier reads beside the picture's; None: it reads the picture's."""

    def __init__(self, shapes: dict[str, Any], reports: Tensor | None) -> None:
        super().__init__()
        self.visual_encoder = nn.Module()
        self.visual_encoder.model = resnet(shapes["widths"], shapes["depths"])
        seen, memory = 4 * shapes["widths"][-1], shapes["memory"]
        config = hf.BlipTextConfig(
            vocab_size=DEC + 5, encoder_hidden_size=seen, num_attention_heads=shapes["decoder"]["hidden_size"] // 64,
            max_position_embeddings=512, is_decoder=True, hidden_act="gelu", bos_token_id=DEC, eos_token_id=SEP,
            pad_token_id=0, sep_token_id=SEP, **shapes["decoder"],
        )  # fmt: skip
        self.text_decoder = hf.BlipTextLMHeadModel(config)
        self.text_decoder.cls.predictions.decoder.weight = self.text_decoder.bert.embeddings.word_embeddings.weight
        self.cls_head = nn.Linear(seen + (0 if reports is None else memory), FINDINGS * STATES)
        self.reports = reports
        if reports is not None:
            self.vision_proj = nn.Linear(seen, memory)
            self.memory = nn.Module()
            self.memory.encoder, self.memory.decoder = nn.Module(), nn.Module()
            layers = [nn.ModuleList(Looking(memory, shapes["memory_mlp"], cross) for _ in range(2)) for cross in (0, 1)]
            self.memory.encoder.layers, self.memory.decoder.layers = layers
            self.memory.decoder.norm = nn.LayerNorm(memory)

    def states(self, mean: Tensor) -> Tensor:
        """The state of every finding [B, findings]."""
        if self.reports is not None:
            reports = self.reports[:, None].expand(-1, len(mean), -1)
            query = self.vision_proj(mean)[None]
            for layer in self.memory.encoder.layers:
                reports = layer(reports, torch.zeros_like(reports), None)
            x = torch.zeros_like(query)
            for layer in self.memory.decoder.layers:
                x = layer(x, query, reports)
            mean = torch.cat([mean, self.memory.decoder.norm(x)[0]], 1)
        return self.cls_head(mean).view(-1, STATES, FINDINGS).argmax(1)

    @torch.no_grad()
    def write(self, pixels: Tensor, **options: Any) -> tuple[list[list[int]], list[list[int]]]:
        """Ids behind the prompt without the end token, and the states, picture by picture."""
        features = self.visual_encoder.model(pixels)
        states = self.states(features.mean((2, 3)))
        prompt = torch.cat([torch.full((len(pixels), 1), DEC), torch.tensor(STATE_IDS)[states]], 1)
        ids = self.text_decoder.generate(
            prompt, encoder_hidden_states=features.flatten(2).transpose(1, 2), attention_mask=torch.ones_like(prompt),
            eos_token_id=SEP, pad_token_id=0, do_sample=False, **options,
        )  # fmt: skip
        texts = [[int(i) for i in row[prompt.shape[1] :]] for row in ids]
        return [text[: text.index(SEP)] if SEP in text else text for text in texts], states.tolist()


def random_model(
    shapes: dict[str, Any] = SMALL, *, retrieved: bool = True, gain: float = 12.0, seed: int = 0
) -> PromptMRG:
    """A model whose texts and states differ from picture to picture."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = PromptMRG(shapes, torch.randn(21, shapes["memory"]) if retrieved else None).eval()
        small.enliven(model.text_decoder, gain * (64 / shapes["decoder"]["hidden_size"]) ** 0.5)
        model.text_decoder.bert.embeddings.position_embeddings.weight.mul_(6.0)
        model.text_decoder.cls.predictions.bias[SEP] += 0.3
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        # The mean of a feature map differs little from picture to picture: the classifier looks at the difference.
        mean = model.visual_encoder.model(small.pictures(8, 224)).mean((2, 3))
        model.cls_head.weight.mul_(8.0)
        model.cls_head.weight[:, : mean.shape[1]] *= 20.0 / mean.std(0).clamp_min(1e-3)
        centre = model.cls_head.weight[:, : mean.shape[1]] @ mean.mean(0)
        model.cls_head.bias.sub_(centre)
    return model


def save(model: PromptMRG, folder: Path) -> Path:
    """``model.pth`` and BERT's ``vocab.txt`` as the code's users have them, ``reports.npy`` beside them."""
    import numpy as np

    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    if model.reports is not None:
        np.save(folder / "reports.npy", model.reports.numpy())
    return folder / "model.pth"
