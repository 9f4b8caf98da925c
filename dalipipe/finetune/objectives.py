"""What a model is trained for: an objective takes it through a batch and says how each sample went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Answers(NamedTuple):
    """What a batch's predictions should have been, and were: what confusion matrices count.

    ``truth``, ``predicted``: integers [N, ...], classes 0 to ``classes`` - 1; where ``truth`` is negative, nothing was
    asked.
    """

    truth: Tensor
    predicted: Tensor
    classes: int


class Scores(NamedTuple):
    """How the samples of a batch went.

    ``losses``: float [N], in nats, each summed over what its sample predicts. ``correct`` [N]: how many predictions are
    right. ``predictions`` int64 [N]: how many there are; None: one a sample. ``answers``: where predictions are classes
    that a confusion matrix can be made of. ``minimised``: a scalar with a gradient, where what is minimised is another
    thing than the mean of the losses over predictions: it has penalties in it, say, or other data's losses.
    """

    losses: Tensor
    correct: Tensor
    predictions: Tensor | None = None
    answers: Answers | None = None
    minimised: Tensor | None = None


Fields = Sequence[Any]
"""A batch: its fields, tensors; or several batches' fields, a sequence of sequences, from a loader of more than one."""

Objective = Callable[[nn.Module, Fields, float], Scores]
"""``(model, fields of a batch, label smoothing)`` → `Scores`. The model is called once, with autocast set by the loop.
"""


def classify(model: nn.Module, batch: Fields, label_smoothing: float = 0.0) -> Scores:
    """Cross-entropy of one label a sample. ``batch``: ``(*inputs, labels)``, labels int64 [N] or, as shares that mixing
    gives, float [N, classes], of which the largest counts as the right one; ``model``: inputs → logits [N, classes].
    """
    *inputs, labels = batch
    return score_classes(model(*inputs), labels, label_smoothing)


def score_classes(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Scores:
    """How logits [N, classes] do by labels as in `classify`."""
    losses = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    right, predicted = labels if labels.ndim == 1 else labels.argmax(1), logits.argmax(1)
    return Scores(losses, predicted == right, answers=Answers(right, predicted, logits.shape[1]))


def predict_next(model: nn.Module, batch: Fields, label_smoothing: float = 0.0) -> Scores:
    """Cross-entropy of every number of a text but the first, by those before it, for language models; padding counts
    for nothing, and the exponential of the mean is the perplexity. ``batch``: ``(text, length, ...)``, int64 [N, L] and
    [N], of which the rest is left alone; ``model``: (text, length) → logits [N, L, numbers].
    """
    text, length = batch[:2]
    logits = model(text, length)[:, :-1].float()
    place = torch.arange(1, text.shape[1], device=text.device)
    inside = place < length[:, None]
    losses = functional.cross_entropy(
        logits.transpose(1, 2), text[:, 1:], reduction="none", label_smoothing=label_smoothing
    )
    correct = (logits.argmax(2) == text[:, 1:]) & inside
    return Scores(losses.where(inside, 0).sum(1), correct.sum(1), inside.sum(1))
