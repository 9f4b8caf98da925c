"""What a model is trained for: an objective takes it through a batch and says how each sample went."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.finetune.losses import binary_losses, multi_label_targets, one_vs_rest_targets


class Answers(NamedTuple):
    """What a batch's predictions should have been, and were: what confusion matrices count.

    ``truth``, ``predicted``: integers [N], [N, labels] or, of pixels, [N, H, W], classes 0 to ``classes`` - 1; where
    ``truth`` is negative, nothing was asked.
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
One with numbers of its own may have ``settings``, a dict of plain values: a run is resumed only with the same.
"""


def classify(model: nn.Module, batch: Fields, label_smoothing: float = 0.0) -> Scores:
    """Cross-entropy of one label a sample. ``batch``: ``(*inputs, labels)``, labels int64 [N] or, as shares that mixing
    gives, float [N, classes], of which the largest counts as the right one; ``model``: inputs → logits [N, classes].

    Raises:
        ValueError: labels of classes that the model has no output for; on a GPU, which would have to be waited for,
            only where they are shares. Batches of several sequences, and models that give something else.
    """
    logits, labels = _asked("classify", model, batch)
    try:
        losses = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    except (IndexError, RuntimeError):  # on the CPU torch notices; looking first would cost every batch
        _check_labels(labels, logits.shape[1])
        raise
    right, predicted = labels if labels.ndim == 1 else labels.argmax(1), logits.argmax(1)
    return Scores(losses, predicted == right, answers=Answers(right, predicted, logits.shape[1]))


def _asked(name: str, model: nn.Module, batch: Fields) -> tuple[Tensor, Tensor]:
    """Logits and labels of a batch. Raises ``ValueError`` for batches and models of another objective."""
    *inputs, labels = batch
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"{name}: a batch of this loader is several sequences of fields, expected (*inputs, labels): give an "
            "objective for what it holds, Distill for that of Taught, Joint for that of SideBySide"
        )
    logits = model(*inputs)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"{name}: the model gives a {type(logits).__name__}, expected logits, a tensor [N, classes]: give an "
            "objective for what it gives; a Hinted student is trained by Distill"
        )
    return logits, labels


def _check_labels(labels: Tensor, outputs: int) -> None:
    if labels.ndim == 2:
        classes = labels.shape[1]
        fits = classes == outputs
    else:
        classes = 1 + int(labels.max()) if labels.device.type == "cpu" and len(labels) else 0
        fits = classes <= outputs
    if not fits:
        raise ValueError(
            f"classify: the model has {outputs} outputs, and there are labels of {classes} classes: give it a head for "
            "them, such as by transfer.replace_head"
        )


def classify_one_vs_rest(
    model: nn.Module,
    batch: Fields,
    label_smoothing: float = 0.0,
    *,
    target_threshold: float | None = None,
    sum_classes: bool = False,
) -> Scores:
    """As :func:`classify`, each class learnt as a yes or no question for itself; a sample's loss is the mean over
    classes, or their sum. The prediction is still the highest logit, so accuracies compare. The options, and where they
    come from: `soft_binary_cross_entropy`; `functools.partial` sets them.

    Raises ``ValueError`` for labels that do not fit the logits.
    """
    logits, labels = _asked("classify_one_vs_rest", model, batch)
    targets = one_vs_rest_targets(logits, labels, label_smoothing=label_smoothing, target_threshold=target_threshold)
    each = binary_losses(logits, targets)
    losses = each.sum(1) if sum_classes else each.mean(1)
    right, predicted = labels if labels.ndim == 1 else labels.float().argmax(1), logits.argmax(1)
    return Scores(losses, predicted == right, answers=Answers(right, predicted, logits.shape[1]))


def classify_labels(
    model: nn.Module, batch: Fields, label_smoothing: float = 0.0, *, target_threshold: float | None = None
) -> Scores:
    """Binary cross-entropy of labels of which several may hold at a time. ``batch``: ``(*inputs, labels)``, labels 0 or
    1, or shares that mixing gives, numbers [N, classes]; ``model``: inputs → logits [N, classes].

    Every label is a prediction: what is minimised is the mean over them all, as Hugging Face's models do for
    ``multi_label_classification``, and the accuracy is the share of labels told right at a probability of ½. In the
    answers class 1 is yes. Smoothing moves labels towards ½; both options: `multi_label_targets`.

    Raises ``ValueError`` for labels that do not fit the logits.
    """
    logits, labels = _asked("classify_labels", model, batch)
    if labels.dtype == torch.bool:
        raise ValueError(
            "classify_labels: labels must be numbers, got torch.bool, which in a batch says which rows count: give the "
            "data set's labels as float32 or uint8"
        )
    targets = multi_label_targets(logits, labels, label_smoothing=label_smoothing, target_threshold=target_threshold)
    losses = binary_losses(logits, targets).sum(1)
    right, predicted = (labels > 0.5).long(), (logits > 0).long()
    every = torch.full_like(losses, logits.shape[1], dtype=torch.int64)
    return Scores(losses, (right == predicted).sum(1), every, Answers(right, predicted, 2))


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


def settings_of(objective: Objective) -> dict[str, Any]:
    """What a run that is resumed must share with the one it continues: the objective's name, and what it was told, its
    ``settings`` where it has any. JSON-ready.
    """
    if isinstance(objective, functools.partial):
        return {**settings_of(objective.func), **objective.keywords}
    name = getattr(objective, "__qualname__", type(objective).__name__)
    return {"name": name, **getattr(objective, "settings", {})}


def classification(loss: str = "ce", *, target_threshold: float | None = None, sum_classes: bool = False) -> Objective:
    """The objective for one class a sample by the name of its loss: "ce", cross-entropy (:func:`classify`), or "bce",
    binary (:func:`classify_one_vs_rest`), whose options the others are.

    Raises ``ValueError`` for another name, an option that "ce" does not have, or one out of its range.
    """
    if loss not in ("ce", "bce"):
        raise ValueError(f"loss must be ce or bce, got {loss!r}")
    if target_threshold is not None and not 0 <= target_threshold < 1:
        raise ValueError(f"target_threshold must be in [0, 1), got {target_threshold!r}")
    if loss == "bce":
        return functools.partial(classify_one_vs_rest, target_threshold=target_threshold, sum_classes=sum_classes)
    if target_threshold is not None or sum_classes:
        raise ValueError("target_threshold and sum_classes are of binary cross-entropy: give loss bce, or leave them")
    return classify


def ious(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, float64 [classes]: pixels that are it and are taken for it, over those
    that are either; NaN for classes that neither occur nor are predicted (the Jaccard index; as cityscapesScripts).

    ``confusion``: integers [classes, classes], rows what was right, columns what was predicted.
    """
    counts = confusion.double()
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    return both / either  # 0 / 0 is NaN
