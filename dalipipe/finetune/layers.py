"""Which of a model's layers learn, from when on, and how fast."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn


@dataclasses.dataclass(frozen=True)
class Layers:
    """All layers learn, from the first step on, at the same rate."""

    def groups(self, model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: ``params``; ``weight_decay``, for matrices and filters only; ``lr_scale``,
        what the learning rate is multiplied by. Every parameter that ever learns is in one of them.
        """
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay, "lr_scale": 1.0},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
        ]
        return [group for group in groups if group["params"]]

    def begin_epoch(self, model: nn.Module, epoch: int) -> bool:
        """Sets ``requires_grad`` of every parameter for this epoch, a function of its number alone; returns whether any
        has changed.
        """
        return False

    def train(self, model: nn.Module) -> None:
        """Training mode, where layers learn."""
        model.train()
