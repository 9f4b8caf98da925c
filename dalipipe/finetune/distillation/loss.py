"""What a student minimises: its labels' cross-entropy, and how far it is from a teacher."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.finetune.distillation.hints import hint_loss
from dalipipe.finetune.objectives import Fields, Objective, Scores, classify, settings_of
from dalipipe.finetune.transfer.penalties import minimised


@dataclasses.dataclass(frozen=True)
class Distill:
    """The objective of a student: (1 − w) · T² · KL(teacher ‖ student) + w · cross-entropy of the labels, means over
    the batch, where both's logits are divided by T in the first (Hinton, Vinyals, Dean, "Distilling the knowledge in a
    neural network", 2015); of a `Hinted` student + h · `hint_loss`.

    It trains on batches of a `Taught` loader, ``(fields, teacher's logits)``; batches of other loaders, as validation
    has, count by their labels alone, and so do the losses that are reported.

    Attributes:
        temperature: T, > 0; the higher, the more the classes that are wrong count beside each other. ``inf``: the
            limit, half the variance of the logits' differences over the classes.
        hard_weight: w, [0, 1]: 1 is ``hard`` alone, to the bit.
        hint_weight: h, >= 0.
        hard: what labels are learnt by.
    """

    temperature: float = 4.0
    hard_weight: float = 0.1
    hint_weight: float = 1.0
    hard: Objective = classify

    def __post_init__(self) -> None:
        for name, value, right, expected in (
            ("temperature", self.temperature, self.temperature > 0, "above 0"),
            ("hard_weight", self.hard_weight, 0 <= self.hard_weight <= 1, "in [0, 1]"),
            ("hint_weight", self.hint_weight, 0 <= self.hint_weight < math.inf, "a number of at least 0"),
        ):
            if not right:
                raise ValueError(f"Distill: {name} must be {expected}, got {value!r}")

    @property
    def settings(self) -> dict[str, Any]:
        """See `settings_of`."""
        own = {name: getattr(self, name) for name in ("temperature", "hard_weight", "hint_weight")}
        return {**own, "hard": settings_of(self.hard)}

    def __call__(self, model: nn.Module, batch: Fields, label_smoothing: float = 0.0) -> Scores:
        """Raises ``ValueError`` where teacher and student have different numbers of classes, or one of them gives hints
        and the other does not.
        """
        taught = not isinstance(batch[0], Tensor)
        fields = batch[0] if taught else batch
        output = model(*fields[:-1])
        logits, features = output if isinstance(output, tuple) else (output, [])
        if model.training and self.hint_weight:
            self._check_hints(features, batch[2] if taught and len(batch) > 2 else ())
        scores = self.hard(lambda *_: logits, fields, label_smoothing)  # type: ignore[arg-type]
        if not taught or (self.hard_weight == 1 and not features):
            return scores
        parts = [self.hard_weight * minimised(scores)] if self.hard_weight else []
        if self.hard_weight < 1:
            teacher = dense_logits(batch[1], logits.shape[1])
            parts += [(1 - self.hard_weight) * distillation_losses(logits, teacher, self.temperature).mean()]
        if features and self.hint_weight:
            parts += [self.hint_weight * hint_loss(features, batch[2])]
        return scores._replace(minimised=torch.stack(parts).sum())

    @staticmethod
    def _check_hints(mine: Fields, its: Fields) -> None:
        if its and not mine:
            raise ValueError(
                f"Distill: the teacher gives features of {len(its)} layers as hints, and the student takes none: wrap "
                "it as Hinted(student, ...), or make the Teacher without layers"
            )
        if mine and not its:
            raise ValueError(
                f"Distill: the student is Hinted, at {len(mine)} layers, and batches have no features of a teacher: "
                "train on Taught(loader, Teacher(..., layers=...)), or the student itself"
            )


def distillation_losses(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) of every row, float32 [N], in nats; the factor keeps the
    gradient's size when T changes.

    Args:
        student, teacher: floating point logits [N, classes].
        temperature: T > 0. ``inf``: what this tends to, half the variance over the classes of student − teacher, so
            that a constant added to either is nothing (Hinton et al. 2015, section 2.1).

    Raises:
        ValueError: the two have other shapes.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"distillation_losses: the student's logits are {list(student.shape)} and the teacher's "
            f"{list(teacher.shape)}, expected [N, classes] of both: the two must have learned the same classes"
        )
    student, teacher = student.float(), teacher.float()
    if math.isinf(temperature):
        apart = student - teacher
        return 0.5 * (apart - apart.mean(1, keepdim=True)).square().mean(1)
    wanted, got = (functional.log_softmax(logits / temperature, 1) for logits in (teacher, student))
    return temperature**2 * functional.kl_div(got, wanted, reduction="none", log_target=True).sum(1)


def dense_logits(fields: Fields, classes: int) -> Tensor:
    """A teacher's logits float32 [N, classes], from those that `sparse_logits` has left.

    Raises ``ValueError`` where the student has another number of classes.
    """
    values = fields[0]
    if len(fields) == 1:
        if values.shape[1] != classes:
            raise ValueError(
                f"the teacher has {values.shape[1]} classes and the student {classes}: they must have the same"
            )
        return values
    where, rest = fields[1:]
    return rest[:, None].expand(-1, classes).scatter(1, where, values)


def sparse_logits(logits: Tensor, top_k: int) -> tuple[Tensor, ...]:
    """The ``top_k`` highest logits of each row: ``(values float32 [N, k], classes int64 [N, k], rest float32 [N])``.

    ``rest`` is the logit that all other classes share, such that every kept class has the probability that it had, at
    T = 1. Where nothing is left out: ``(logits,)`` (Shen, Xing, "A fast knowledge distillation framework for visual
    recognition", ECCV 2022, who keep probabilities and spread the rest likewise).
    """
    logits, others = logits.float(), logits.shape[1] - top_k
    if others <= 0:
        return (logits,)
    values, where = logits.topk(top_k)
    rest = logits.scatter(1, where, -torch.inf).logsumexp(1) - math.log(others)
    return values, where, rest
