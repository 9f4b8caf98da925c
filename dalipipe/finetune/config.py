"""What :func:`dalipipe.finetune.finetune` can be told."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

from dalipipe.finetune.precision import AMP

_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "amp": AMP,
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
    "tensorboard",
    "shard",
}  # these change no weight


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """Everything :func:`finetune` can be told.

    Attributes:
        out: folder for ``checkpoint.safetensors`` and ``metrics.jsonl``; created when missing.
        epochs: passes over the training loader.
        lr: peak learning rate.
        optimizer: "adamw" (betas 0.9, 0.999) or "sgd" (Nesterov, momentum 0.9).
        weight_decay: applied to matrices and filters; biases and norms are left free.
        warmup_epochs: length of the linear warm-up; a half cosine to zero follows. Fractions are fine.
        label_smoothing: share of the target spread over all classes, [0, 1).
        clip_norm: largest L2 norm of the whole gradient; None switches clipping off.
        amp: "bf16" or "fp16" autocast, "off", or "auto": bf16 on CUDA, fp16 on GPUs that are too old for it. With fp16
            goes a scale of the loss, which is part of the checkpoint.
        accumulate: batches a step: their gradients are added up to that of one batch as large as all of them; an
            epoch's last step has those that are left. All that is counted in steps is counted in these.
        ema: decay of an exponential moving average of the weights, [0, 1), 0.999 say, see
            :class:`~dalipipe.finetune.averaging.Average`: it is what is evaluated, what the model has at the end, and
            in the checkpoint, beside the weights that are trained. None: no average.
        compile: by ``torch.compile``, which takes a minute at the start and needs a C++ compiler or Triton.
        cuda_graphs: compiled, and each shape of batch's kernels launched all at once, by torch's CUDA graphs
            (``mode="reduce-overhead"``): for models so small that a GPU waits for its host. Not with ``accumulate``.
        shard: on several processes, deal out weights, gradients and the optimiser's states among them (FSDP2), for
            models that one GPU cannot hold with all of these; the model stays dealt out in the end. Checkpoints are
            whole: another number of processes may continue, dealt out or not.
        channels_last: True, False or "auto": on CUDA.
        seed: for the generators of torch, NumPy and Python at the start (dropout and the like); None leaves them alone.
        resume: continue from ``out/checkpoint.safetensors``, or from a ``checkpoint.pt`` of an earlier version.
        overwrite: a run already in ``out`` may be replaced; without it, that is an error.
        log_every: optimiser steps between two metrics rows, which is also how often the device is waited for.
        save_every: optimiser steps between two checkpoints inside an epoch; None saves at the end of epochs only.
        tensorboard: write metrics for it, too, into ``out/tensorboard``.
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
    accumulate: int = 1
    ema: float | None = None
    compile: bool = False
    cuda_graphs: bool = False
    shard: bool = False
    channels_last: bool | str = "auto"
    seed: int | None = 0
    resume: bool = False
    overwrite: bool = False
    log_every: int = 10
    save_every: int | None = None
    tensorboard: bool = False
    progress: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.out, (str, os.PathLike)):
            raise TypeError(f"FineTuneConfig.out must be a path, got {self.out!r}")
        for field in ("resume", "overwrite", "compile", "cuda_graphs", "shard", "tensorboard"):
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
        self._number("accumulate", int, 1, math.inf)
        self._number("ema", float, 0, 1, optional=True, exclusive_high=True)
        self._number("seed", int, 0, 2**64 - 1, optional=True)
        self._number("log_every", int, 1, math.inf)
        self._number("save_every", int, 1, math.inf, optional=True)
        if self.resume and self.overwrite:
            raise ValueError("FineTuneConfig: resume continues a run and overwrite replaces it; choose one")
        if self.cuda_graphs and self.accumulate > 1:
            raise ValueError(
                "FineTuneConfig: cuda_graphs keeps gradients where the next batch puts its own, so accumulate must be "
                f"1, got {self.accumulate}; a model that cuda_graphs helps is small enough for a larger batch"
            )

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
        return Path(self.out) / "checkpoint.safetensors"

    @property
    def checkpoints(self) -> tuple[Path, Path]:
        """Where one may be found: :attr:`checkpoint`, or one of before they were of safetensors."""
        return self.checkpoint, Path(self.out) / "checkpoint.pt"

    @property
    def found(self) -> Path | None:
        """The checkpoint of the run in ``out``; None: there is none."""
        return next((path for path in self.checkpoints if path.is_file()), None)

    @property
    def metrics(self) -> Path:
        return Path(self.out) / "metrics.jsonl"

    @property
    def confusion(self) -> Path:
        return Path(self.out) / "confusion.csv"

    def fingerprint(self) -> dict[str, object]:
        """The fields that decide the weights, plain values: what a resumed run must share with the one it continues."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if name not in _FREE_ON_RESUME}
