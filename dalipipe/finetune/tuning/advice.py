"""What to begin with: learning rate, weight decay, batch size and epochs for a policy, a data set and a model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from torch import nn

from dalipipe import rng
from dalipipe.ops.mix import MixOp
from dalipipe.plan import Plan, lower
from dalipipe.policy import Op, Policy
from dalipipe.sources import Source

_SAMPLES = 512
_SIZES = {"image": (375, 500), "audio": (16000, 1, 16000, 1), "series": (200, 1, 0, 1), "text": (20,)}


@dataclasses.dataclass(frozen=True)
class Advice:
    """Numbers to begin with, for AdamW with a warm-up and a cosine, as `finetune` has it.

    Attributes:
        lr, weight_decay, batch_size, epochs: as `FineTuneConfig` and `DataLoader` take them.
        reasons: for each of these, why, and who says so.
    """

    lr: float
    weight_decay: float
    batch_size: int
    epochs: int
    reasons: dict[str, str]


def suggest(policy: Policy, dataset: Source, model: nn.Module, *, pretrained: bool = False) -> Advice:
    """Learning rate, weight decay, batch size and epochs for training ``model`` on ``dataset`` with ``policy``.

    Rules of thumb from the literature, each with its reason; what they cannot know, `lr_range_test` measures, and
    `tune` compares. ``pretrained``: the model begins with weights that were trained on other data.

    How much a policy changes is taken as its operators per sample: how many of them, in the mean, do something by
    chance to a sample (crops and sizes that are drawn count as one, mixing two).

    Raises ``ValueError`` for a data set without samples, or a policy that does not fit it.
    """
    n = len(dataset)
    if n == 0:
        raise ValueError("suggest: the data set is empty")
    changes = changes_per_sample(policy, dataset)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    reasons: dict[str, str] = {}

    batch_size = 2 ** max(3, min(6, round(math.log2(max(n, 1) / 16))))
    batch_size = min(batch_size, max(1, n))
    reasons["batch_size"] = (
        f"{n:,} samples give {max(1, n // batch_size):,} steps an epoch; small batches generalise best, 64 is enough "
        "for a device (Masters, Luschi, 2018)"
    )

    base = 1e-4 if pretrained else 1e-3
    lr = base * math.sqrt(batch_size / 64)
    whose = "pretrained weights are only to be adjusted" if pretrained else "training from scratch"
    reasons["lr"] = (
        f"{base:g} at a batch of 64 for AdamW, {whose}; with the batch's square root, as Adam's noise scales "
        "(Malladi et al., NeurIPS 2022); augmentation leaves it as it is"
    )

    wanted = (400.0 if pretrained else 2000.0) * (1.0 + 0.5 * min(changes, 4.0))
    per_epoch = max(1, n // batch_size)
    epochs = int(min(max(math.ceil(wanted / per_epoch), 3 if pretrained else 10), 300))
    reasons["epochs"] = (
        f"about {wanted:,.0f} steps: few data want steps more than epochs (Hoffer et al., NeurIPS 2017), and "
        f"{changes:.1f} changes a sample half as many more for each, since what is seen is new each time (Steiner et "
        "al., TMLR 2022)"
    )

    total = epochs * per_epoch
    weight_decay = min(max(1.0 / (lr * total), 1e-4), 0.01 if pretrained else 0.1)
    if changes >= 2.0:
        weight_decay = max(weight_decay / 2.0, 1e-4)
    reasons["weight_decay"] = (
        f"1 / (lr · steps), so that weights forget as slowly as the run is long (Wang, Aitchison, 2024), at most "
        f"{0.01 if pretrained else 0.1:g}"
        + (f"; half of it, as {changes:.1f} changes a sample regularise, too (Steiner et al.)" if changes >= 2 else "")
        + f"; {parameters / 1e6:.1f} M parameters, {parameters / n:,.0f} a sample"
    )
    return Advice(_two_digits(lr), _two_digits(weight_decay), batch_size, epochs, reasons)


def changes_per_sample(policy: Policy, dataset: Source) -> float:
    """How many operators change a sample by chance, in the mean, as `suggest` counts."""
    plan = lower(policy, dataset.schema)
    if plan.field is None or not policy.leaves:
        return 0.0
    assert isinstance(plan, Plan)
    size = np.tile(np.array(_SIZES[plan.field.kind]), (_SAMPLES, 1))
    if plan.field.kind in ("audio", "series"):
        size[:, 1] = plan.field.channels or 1
        size[:, 2] = int(plan.field.rate_hz or 0)
    found = 0.0
    for drawn in policy.draw(rng.make_key(0, 0), np.arange(_SAMPLES), size):
        if drawn.op.stays and drawn.op.at_strength(0.0) == drawn.op:
            continue
        found += _weight(drawn.op) * len(drawn.rows) / _SAMPLES
    return found


def _weight(op: Op) -> float:
    return 2.0 if isinstance(op, MixOp) else 1.0


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def advice_table(advice: Advice) -> list[tuple[str, Any, str]]:
    """(name, value, reason), in order."""
    names = ("lr", "weight_decay", "batch_size", "epochs")
    return [(name, getattr(advice, name), advice.reasons[name]) for name in names]
