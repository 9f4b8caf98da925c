"""The learning rate range test: a short training whose learning rate grows from batch to batch."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dalipipe.finetune.layers import Layers
from dalipipe.finetune.loop import placed
from dalipipe.finetune.objectives import Objective, classify

_MEMORY = 10  # steps that the smoothed loss looks back


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What it found.

    Attributes:
        rates: the learning rates that were gone through, rising.
        losses: of each batch, in nats; ``smoothed``: their mean with weights that fall by a tenth a step.
        suggested: a tenth of the rate of the lowest smoothed loss: safely below where training begins to diverge.
        steepest: the rate at which the smoothed loss falls fastest, over ten steps; where it has been smoothed over
            ten, too.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float
    steepest: float

    def draw(self, path: str | os.PathLike[str], *, title: str = "") -> Path:
        """As a PNG. Raises ``ModuleNotFoundError`` where matplotlib is missing."""
        from dalipipe.figures import draw_lr_range

        return draw_lr_range(
            self.rates, self.losses, path, smoothed=self.smoothed, suggested=self.suggested, title=title
        )


def lr_range_test(
    model: nn.Module,
    loader: Any,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    weight_decay: float = 0.05,
    optimizer: str = "adamw",
    objective: Objective = classify,
    label_smoothing: float = 0.1,
    clip_norm: float | None = 1.0,
) -> RangeTest:
    """Trains a copy of ``model`` for at most ``steps`` batches, the learning rate growing from ``low`` to ``high`` by
    the same factor each, until the smoothed loss is four times the lowest or no number. The model is left as it is;
    of ``loader``, which is begun anew where it ends, an epoch or more is used up.

    Smith, "Cyclical learning rates for training neural networks" (WACV 2017), section 3.3; the tenth of the rate of
    lowest loss is fastai's rule (Howard, Gugger, "fastai: a layered API for deep learning", Information 11, 2020).

    Raises:
        ValueError: rates or steps that make no sense, a loader without batches, a loss that falls nowhere.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"lr_range_test: expected 0 < low < high, got {low!r} and {high!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise ValueError(f"lr_range_test: steps must be a whole number ≥ 10, got {steps!r}")
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"lr_range_test: optimizer must be adamw or sgd, got {optimizer!r}")
    if len(loader) == 0:
        raise ValueError("lr_range_test: the loader has no batch")
    device = torch.device(getattr(loader, "device", None) or next(model.parameters()).device)
    trained = copy.deepcopy(model).to(device).train()
    groups = Layers().groups(trained, weight_decay=weight_decay)
    made: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, lr=low)
        if optimizer == "adamw"
        else torch.optim.SGD(groups, lr=low, momentum=0.9, nesterov=True)
    )
    rates, losses, smoothed, mean = [], [], [], 0.0
    batches = _endless(loader)
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        for group in made.param_groups:
            group["lr"] = rate * group["lr_scale"]
        scores = objective(trained, placed(next(batches), device), label_smoothing)
        count = len(scores.losses) if scores.predictions is None else scores.predictions.sum().clamp(min=1)
        loss = scores.losses.sum() / count if scores.minimised is None else scores.minimised
        value = float(loss.detach())
        if not math.isfinite(value):
            break
        mean += (value - mean) / _MEMORY
        rates.append(rate)
        losses.append(value)
        smoothed.append(mean / (1 - (1 - 1 / _MEMORY) ** (step + 1)))
        if smoothed[-1] > 4 * min(smoothed):
            break
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(trained.parameters(), clip_norm)
        made.step()
        made.zero_grad(set_to_none=True)
    batches.close()
    lowest = int(np.argmin(smoothed)) if smoothed else 0
    if lowest < 2:
        raise ValueError(
            f"lr_range_test: the loss falls at no learning rate from {low:g} on: begin lower, or look at the labels"
        )
    steepest = rates[_steepest(np.array(smoothed[: lowest + 1]))]
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), rates[lowest] / 10, steepest)


def _steepest(smoothed: np.ndarray) -> int:
    """The step around which a loss that is lowest at its end falls fastest. The first ones, means of a few batches, go
    up and down by chance, and are left out where there are others.
    """
    half, begin = _MEMORY // 2, _MEMORY
    if len(smoothed) <= begin + 2 * half:
        begin, half = 0, min(half, (len(smoothed) - 1) // 2)
    falls = smoothed[begin + 2 * half :] - smoothed[begin : len(smoothed) - 2 * half]
    return begin + half + int(np.argmin(falls))


def _endless(loader: Any) -> Any:
    while True:
        yield from loader
