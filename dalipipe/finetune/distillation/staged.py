"""A small model on a drawn subset, then a larger one, which begins with its weights, on everything."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dalipipe.finetune.checkpoint import read_weights
from dalipipe.finetune.classifier import read_classes
from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.loop import Result, finetune
from dalipipe.finetune.objectives import Objective, classify
from dalipipe.finetune.transfer.subset import draw_rows
from dalipipe.finetune.transfer.weights import Carried, carry_weights
from dalipipe.orders import Shuffled, Subset


@dataclasses.dataclass(frozen=True)
class Staged:
    """What `subset_then_transfer` came to: both runs, how many samples the first one drew, and what was carried."""

    subset: Result
    whole: Result
    drawn: int
    carried: Carried


def subset_then_transfer(
    small: nn.Module,
    target: nn.Module,
    train: Any,
    val: Any,
    config: FineTuneConfig,
    *,
    count: float,
    subset_epochs: int | None = None,
    objective: Objective = classify,
) -> Staged:
    """Trains ``small`` on a class-balanced subset, carries its weights to ``target`` (`carry_weights`), and trains that
    on everything: most steps are then the small model's, or begin from what it knows.

    The first run is in ``config.out/subset``, the second in ``config.out``. With ``config.resume`` each goes on where
    it was, however this was stopped.

    Args:
        small, target: models of one kind, such as ResNet-18 and ResNet-34; trained in place.
        train: a `dalipipe.DataLoader` of a data set with labels.
        val, config, objective: as `finetune` takes them, of both runs.
        count: samples of each class, a whole number; or a share of each class, a fraction in (0, 1].
        subset_epochs: passes over the subset; as many as over everything by default.

    Raises:
        ValueError: there is no such subset, its labels are not known, or no weight fits; before anything is trained.
    """
    labels = getattr(train.dataset, "labels", None)
    if labels is None:
        raise ValueError("subset_then_transfer: the data set does not know its labels before it is read")
    rows = draw_rows(labels, count, seed=train.seed)
    carry_weights(small, target)  # says now what does not fit
    drawn = train.again(
        batch_size=min(train.batch_size, len(rows)), shuffle=False, batch_sampler=None, sampler=Subset(rows, Shuffled())
    )
    epochs = subset_epochs or config.epochs
    first = dataclasses.replace(
        config, out=Path(config.out) / "subset", epochs=epochs, warmup_epochs=min(config.warmup_epochs, epochs)
    )
    subset = finetune(small, drawn, val, _continued(first), objective=objective)
    drawn.close()
    carried = carry_weights(small, target)
    whole = finetune(target, train, val, _continued(config), objective=objective)
    return Staged(subset, whole, len(rows), carried)


def carry_checkpoint(path: str | os.PathLike[str], target: nn.Module, classes: Sequence[str]) -> Carried:
    """`carry_weights` from a smaller model's checkpoint, or a file of weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was trained on other classes than ``classes``, or nothing fits.
    """
    weights, own = read_weights(path), read_classes(path)
    if own is not None and own != list(classes):
        odd = sorted(set(own) ^ set(classes))
        where = f"only one of them has {odd[0]!r}" if odd else "their order differs"
        raise ValueError(
            f"{path} was trained on other classes than these; {where}. Give weights that were learnt on these "
            "classes, of a part of these data, say"
        )
    return carry_weights(weights, target)


def _continued(config: FineTuneConfig) -> FineTuneConfig:
    return dataclasses.replace(config, resume=config.resume and config.checkpoint.is_file())
