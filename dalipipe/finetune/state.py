"""How far a run has come, in plain numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass
class Tally:
    """Sums over the steps of a window, an epoch or the whole run, and over the ranks; times are the ranks' mean."""

    images: int = 0
    predictions: float = 0.0  # of images: one each; of texts, the words
    loss: float = 0.0  # summed over predictions
    correct: float = 0.0
    wait_s: float = 0.0
    compute_s: float = 0.0

    def add(self, other: Tally) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def means(self) -> dict[str, Any]:
        step_s = max(self.wait_s + self.compute_s, 1e-9)
        return {
            "loss": self.loss / max(self.predictions, 1),
            "accuracy": self.correct / max(self.predictions, 1),
            "images_per_s": self.images / step_s,
            "stall": self.wait_s / step_s,
            "wait_s": self.wait_s,
            "compute_s": self.compute_s,
        }


@dataclasses.dataclass
class State:
    """What a checkpoint carries besides tensors: plain numbers."""

    step: int = 0  # optimiser steps done
    epoch: int = 0  # epochs trained and evaluated
    epoch_end: int | None = None  # the step after which the epoch under way is trained; None: none is
    val_loss: float = math.nan
    val_accuracy: float = math.nan
    eval_s: float = 0.0
    metrics_bytes: int = 0  # length of metrics.jsonl; a resumed run cuts off what a killed one wrote after it
    since_log: Tally = dataclasses.field(default_factory=Tally)
    in_epoch: Tally = dataclasses.field(default_factory=Tally)
    in_run: Tally = dataclasses.field(default_factory=Tally)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> State:
        values: dict[str, Any] = {
            # Checkpoints from before there were objectives have a prediction an image.
            k: Tally(**{"predictions": v["images"], **v}) if isinstance(v, dict) else v
            for k, v in saved.items()
        }
        return cls(**values)
