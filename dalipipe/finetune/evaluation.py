"""How well a model does on the whole of a data set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from dalipipe.finetune.interrupts import StopSignals
from dalipipe.finetune.objectives import Answers, Objective, classify, ious
from dalipipe.finetune.precision import autocast
from dalipipe.finetune.ranks import Ranks

_MOST_CLASSES = 4096  # of a confusion matrix: 128 MiB


class Evaluation(NamedTuple):
    """Means over every prediction for the samples of a loader, and how many samples there were.

    ``confusion``: int64 [classes, classes], on the CPU: how often samples of a row's class were taken for a column's;
    ``None`` where predictions are no classes, or more than 4096 of them. ``of_pixels``: whether each sample has a class
    for every pixel.
    """

    loss: float
    accuracy: float
    images: int
    confusion: torch.Tensor | None = None
    of_pixels: bool = False

    @property
    def ious(self) -> torch.Tensor | None:
        """Intersection over union of each class, float64 [classes]; see :func:`~dalipipe.finetune.ious`."""
        return None if self.confusion is None else ious(self.confusion)

    @property
    def mean_iou(self) -> float | None:
        """The mean of ``ious`` over the classes that occur or are predicted: what segmentation is judged by."""
        return None if self.ious is None else float(self.ious.nanmean())

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return perplexity_of(self.loss)


def perplexity_of(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    amp: str = "off",
    stop: StopSignals | None = None,
    ranks: Ranks | None = None,
    objective: Objective = classify,
) -> Evaluation:
    """Cross-entropy (nats) and top-1 accuracy of ``model`` over the whole of ``loader``.

    Sums are kept on the device in double precision and read once, so the means are exact with any last batch.

    Args:
        model: maps a batch's inputs, such as images ``[N,C,H,W]``, to logits, as ``objective`` wants them,
            ``[N,classes]``; left in evaluation mode.
        loader: yields ``(*inputs, labels)``, labels int64 ``[N]``, or ``(*inputs, labels, valid)``, where only rows
            with ``valid`` bool ``[N]`` count, as ``dalipipe.DataLoader`` does with ``shards="exact"``.
        amp: autocast to "bf16" or "fp16", or "off".
        stop: where given, a signal it received ends the evaluation with :class:`KeyboardInterrupt`.
        ranks: where given, the loader holds this rank's share, and the result is that of all shares together.
        objective: what the model is to do.

    Raises:
        ValueError: the loader gave no batch, or none with anything to predict.
    """
    ranks = ranks or Ranks()
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, correct, predictions, samples
    confusion: torch.Tensor | None = None
    of_pixels = False
    model.eval()
    with torch.no_grad():  # what is made here, such as weights put together, may be used in training, too
        for batch in loader:
            fields = placed(batch, device)
            marked = fields[-1].dtype == torch.bool  # no label is
            if not marked and ranks.world_size > 1:
                raise ValueError('evaluate: several ranks need batches that say which rows count: shards="exact"')
            counts = fields.pop() if marked else torch.ones(len(fields[0]), dtype=torch.bool, device=device)
            with ranks.during("the broadcast of buffers"), autocast(amp, device):
                scores = objective(model, fields, 0.0)
            predicted = counts if scores.predictions is None else scores.predictions.where(counts, 0)
            parts = scores.losses.double().where(counts, 0), scores.correct.where(counts, 0), predicted, counts
            sums += torch.stack([part.sum() for part in parts])
            of_pixels |= scores.answers is not None and scores.answers.truth.ndim > 2
            if scores.answers is not None and scores.answers.classes <= _MOST_CLASSES:
                confusion = _counted(scores.answers, counts, confusion)
            if stop is not None and stop.poll() is not None:
                raise KeyboardInterrupt
    loss, hits, predictions_made, samples = ranks.sum(sums.tolist())
    if predictions_made == 0:
        nothing = "nothing to predict" if samples else "no batch"
        raise ValueError(f"evaluate: the loader gave {nothing}; is its data set empty?")
    if confusion is not None:
        confusion = confusion.cpu()
        if ranks.world_size > 1:
            confusion = torch.tensor(ranks.sum(confusion.flatten().tolist())).long().view(confusion.shape)
    return Evaluation(loss / predictions_made, hits / predictions_made, int(samples), confusion, of_pixels)


def placed(batch: Iterable[Any], device: torch.device, memory_format: Any = torch.preserve_format) -> list[Any]:
    """A batch's fields on ``device``, pictures in ``memory_format``; or several batches' fields, as lists of them."""
    return [
        value.to(device, non_blocking=True, memory_format=memory_format if value.ndim == 4 else torch.preserve_format)
        if isinstance(value, torch.Tensor)
        else placed(value, device, memory_format)
        for value in batch
    ]


def _counted(answers: Answers, counts: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """int64 [classes, classes]: of samples that count, rows what was right, columns what was predicted, added to those
    of ``before``.
    """
    truth, classes = answers.truth, answers.classes
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=truth.device) if before is None else before
    asked = (truth >= 0) & counts.view(-1, *[1] * (truth.ndim - 1))
    pairs = (truth * classes + answers.predicted).where(asked, 0)
    matrix.view(-1).index_add_(0, pairs.flatten(), asked.flatten().long())  # never waits for the device
    return matrix
