"""What :func:`dalipipe.finetune.finetune` can be told."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "amp": ("auto", "bf16", "off"),
    "channels_last": ("auto", True, False),
    "progress": ("auto", "bar", "plain", "off"),
}
_FREE_ON_RESUME = {
    "out",
    "resume",
    "overwrite",
    "log_every",
    "save_every",
    "progress",
}  # these change no weight


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """Everything :func:`finetune` can be told.

    Attributes:
        out: folder for ``checkpoint.pt`` and ``metrics.jsonl``; created when missing.
        epochs: passes over the training loader.
        lr: peak learning rate.
        optimizer: "adamw" (betas 0.9, 0.999) or "sgd" (Nesterov, momentum 0.9).
        weight_decay: applied to matrices and filters; biases and norms are left free.
        warmup_epochs: length of the linear warm-up; a half cosine to zero follows. Fractions are fine.
        label_smoothing: share of the target spread over all classes, [0, 1).
        clip_norm: largest L2 norm of the whole gradient; None switches clipping off.
        amp: "bf16" autocast, "off", or "auto": bf16 on CUDA.
        channels_last: True, False or "auto": on CUDA.
        seed: for torch's generators at the start (dropout and the like); None leaves them alone.
        resume: continue from ``out/checkpoint.pt``.
        overwrite: a run already in ``out`` may be replaced; without it, that is an error.
        log_every: optimiser steps between two metrics rows, which is also how often the device is waited for.
        save_every: optimiser steps between two checkpoints inside an epoch; None saves at the end of epochs only.
        progress: "bar", "plain" lines, "off", or "auto": a bar when stdout is a terminal.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range; the message names it.
    """

    out: str | os.PathLike[str]
    epochs: int = 10
    lr: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    clip_norm: float | None = 1.0
    amp: str = "auto"
    channels_last: bool | str = "auto"
    seed: int | None = 0
    resume: bool = False
    overwrite: bool = False
    log_every: int = 10
    save_every: int | None = None
    progress: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.out, (str, os.PathLike)):
            raise TypeError(f"FineTuneConfig.out must be a path, got {self.out!r}")
        for field in ("resume", "overwrite"):
            if not isinstance(getattr(self, field), bool):
                raise TypeError(f"FineTuneConfig.{field} must be True or False, got {getattr(self, field)!r}")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"FineTuneConfig.{field} must be one of {expected}, got {getattr(self, field)!r}")
        self._number("epochs", int, 1, math.inf)
        self._number("lr", float, 0, math.inf, exclusive_low=True)
        self._number("weight_decay", float, 0, math.inf)
        self._number("warmup_epochs", float, 0, self.epochs)
        self._number("label_smoothing", float, 0, 1, exclusive_high=True)
        self._number("clip_norm", float, 0, math.inf, optional=True, exclusive_low=True)
        self._number("seed", int, 0, 2**64 - 1, optional=True)
        self._number("log_every", int, 1, math.inf)
        self._number("save_every", int, 1, math.inf, optional=True)
        if self.resume and self.overwrite:
            raise ValueError("FineTuneConfig: resume continues a run and overwrite replaces it; choose one")

    def _number(
        self,
        field: str,
        kind: type,
        low: float,
        high: float,
        *,
        optional: bool = False,
        exclusive_low: bool = False,
        exclusive_high: bool = False,
    ) -> None:
        value = getattr(self, field)
        if value is None and optional:
            return
        accepted = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted):
            what = "an integer" if kind is int else "a number"
            raise TypeError(f"FineTuneConfig.{field} must be {what}{' or None' if optional else ''}, got {value!r}")
        above = value > low if exclusive_low else value >= low
        below = value < high if exclusive_high or high == math.inf else value <= high
        if not (above and below):
            left, right = (
                "(" if exclusive_low else "[",
                ")" if exclusive_high or high == math.inf else "]",
            )
            raise ValueError(f"FineTuneConfig.{field} must be in {left}{low}, {high}{right}, got {value!r}")

    @property
    def checkpoint(self) -> Path:
        return Path(self.out) / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        return Path(self.out) / "metrics.jsonl"

    def fingerprint(self) -> dict[str, object]:
        """The fields that decide the weights, plain values: what a resumed run must share with the one it continues."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if name not in _FREE_ON_RESUME}
