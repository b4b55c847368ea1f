# SPDX-License-Identifier: Apache-2.0
"""Training in resumable stages, each with an optimizer, an exponential average of its weights, and checkpoints."""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class StageOptions:
    """Length and pace of one stage; the learning rate decays linearly over the last ``decay`` share of the steps."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 150
    decay: float = 0.35
    patch_loss: float = 0.0
    average: bool = True
    """Keep an exponential average of the weights; a short stage that ends at pace 0 is better without."""


class StagedTrainer(ABC):
    """What the trainers of all families share.

    Parameters
    ----------
    out : Path
        Folder of the checkpoints.
    device : str
        Where PyTorch computes.
    """

    def __init__(self, out: Path, device: str = "cpu") -> None:
        self.out, self.device = out, torch.device(device)

    @abstractmethod
    def modules(self, stage: str) -> list[nn.Module]:
        """What a stage trains."""

    @abstractmethod
    def loss(self, stage: str, step: int, options: StageOptions) -> dict[str, Tensor]:
        """The losses of one step; ``loss`` is minimised, the others are shown."""

    def before(self, stage: str, log: Callable[[str], None]) -> None:  # noqa: B027  # most stages need nothing
        """What a stage computes once."""

    def checkpoint(self, stage: str) -> Path:
        """Where a stage keeps its state."""
        return self.out / f"{stage}.pt"

    def put(self, rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def run(self, stage: str, options: StageOptions, log: Callable[[str], None]) -> None:
        """Train one stage to its end, from its last checkpoint if there is one."""
        modules = self.modules(stage)
        parameters = [p for m in modules for p in m.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
        average = [p.detach().clone() for p in parameters]
        path = self.checkpoint(stage)
        start = 0
        if path.exists():
            saved = torch.load(path, map_location="cpu", weights_only=True)
            start = saved["step"]
            optimizer.load_state_dict(saved["optimizer"])
            _copy(parameters, saved["weights"])
            average = [value.to(self.device) for value in saved["average"]]
        if start < options.steps:
            self.before(stage, log)
        for module in modules:
            module.train()
        shown, since = {}, time.monotonic()
        stop = _StopAsked()
        for step in range(start, options.steps):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _pace(step, options)
            losses = self.loss(stage, step, options)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            keep = min(0.998, (step + 1) / (step + 10)) if options.average else 0.0
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - keep)
            for name, value in losses.items():
                shown[name] = 0.95 * shown.get(name, value.item()) + 0.05 * value.item()
            if (step + 1) % 25 == 0:
                rate = 25 * options.batch / (time.monotonic() - since)
                since = time.monotonic()
                numbers = " ".join(f"{k} {v:.4f}" for k, v in shown.items())
                log(f"{stage} {step + 1}/{options.steps} {numbers} {rate:.1f} films/s")
            if (step + 1) % 100 == 0 or step + 1 == options.steps or stop.asked:
                state = {
                    "step": step + 1,
                    "optimizer": optimizer.state_dict(),
                    "weights": [p.detach() for p in parameters],
                    "average": average,
                }
                partial = path.with_suffix(".tmp")
                torch.save(state, partial)
                partial.replace(path)
            if stop.asked:
                log(f"{stage}: stopped behind step {step + 1}; the same command goes on from there")
                raise KeyboardInterrupt
        stop.over()
        _copy(parameters, average)
        for module in modules:
            module.eval()

    def load_average(self, stage: str) -> bool:
        """Put a stage's averaged weights into the model; False where the stage has no checkpoint."""
        path = self.checkpoint(stage)
        if not path.exists():
            return False
        saved = torch.load(path, map_location="cpu", weights_only=True)
        _copy([p for m in self.modules(stage) for p in m.parameters()], saved["average"])
        return True


class _StopAsked:
    """Ctrl-C, or a request to end, is kept until a step is done, so that nothing trained is lost."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True
        self.over()  # a second request ends at once

    def over(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _pace(step: int, options: StageOptions) -> float:
    rising = min(1.0, (step + 1) / options.warmup)
    left = (options.steps - step) / max(1.0, options.decay * options.steps)
    return rising * min(1.0, left)


def _copy(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
