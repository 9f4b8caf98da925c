"""Losses for soft labels, one class a sample or several; and mixup of texts, between embedding and what follows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from dalipipe import rng
from dalipipe.quantiles import beta_quantile

_MIXUP = 0x6D69  # what these drawings mix into the seed, so that none sees another's numbers


class Mixed(NamedTuple):
    """What `mixup_embeddings` gives."""

    embeddings: torch.Tensor
    """[N, L, D] or [N, D], dtype and device of what was given."""
    labels: torch.Tensor
    """float32 [N, classes]."""
    mask: torch.Tensor | None
    """bool [N, L]: true where there is a token of either; ``None`` where neither mask nor lengths were given."""
    weights: torch.Tensor
    """float32 [N] in [0, 1]: of a row's own share."""
    partners: torch.Tensor
    """int64 [N]: the rows that the rest is of."""


def mixup_embeddings(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    seed: int,
    step: int,
    alpha: float = 1.0,
    num_classes: int | None = None,
    lengths: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    partners: torch.Tensor | None = None,
) -> Mixed:
    """Mixup of a batch of texts: row i becomes w·(row i) + (1 − w)·(its partner), and so does its label.

    Of words' embeddings [N, L, D] it is the paper's wordMixup: where a text has ended it is zeros, and the other's
    words stay with their share. Of sentences' [N, D], before the last layer, it is its senMixup. (Guo, Mao, Zhang:
    "Augmenting data with mixup for sentence classification: an empirical study", 2019.) Any hidden layer will do. A
    model of Hugging Face's takes them in place of ids::

        words = model.get_input_embeddings()(batch.text)                            # [N, L, D]
        mixed = mixup_embeddings(
            words, batch.label, lengths=batch.length, num_classes=2, seed=rank, step=step
        )
        logits = model(inputs_embeds=mixed.embeddings, attention_mask=mixed.mask.long()).logits
        loss = soft_cross_entropy(logits, mixed.labels)

    Partners are the next on a ring of all rows, and weights come from Beta(alpha, alpha), one a row: functions of
    (seed, step) and the number of rows, so a run that is resumed at ``step`` mixes the same. On several ranks give
    each a ``seed`` of its own. Blends are computed in float32 (float64 of float64) and rounded once; where a row's
    weight is 1 it stays to the bit. Gradients go to both.

    Args:
        embeddings: floating point [N, L, D] or [N, D].
        labels: class indices, integers [N], which want ``num_classes``; or floating point [N, classes].
        seed, step: whole numbers: what is drawn from.
        alpha: > 0, 10⁻⁶..10⁶: 1 is uniform, less leaves more of one of the two.
        lengths: integers [N]: tokens of each text. mask: bool or integers [N, L] instead, nonzero where there is a
            token. One of them, for [N, L, D], or neither: then there is no padding.
        weights: floating point [N] in [0, 1], instead of drawn ones. partners: int64 [N], rows, likewise.

    Raises:
        ValueError: naming what does not fit, what was expected and what came.
    """
    _check(embeddings, labels, alpha, lengths, mask)
    count, device = len(embeddings), embeddings.device
    key = rng.make_key(rng.mix64(seed, _MIXUP), step)
    if partners is None:
        partners = _ring(count, key)
    partners = partners.to(device=device, dtype=torch.int64)
    if partners.shape != (count,):
        raise ValueError(f"mixup_embeddings: partners must be rows [{count}], got {list(partners.shape)}")
    if weights is None:
        weights = _beta(count, alpha, key)
    weights = weights.to(device=device, dtype=torch.float32)
    if weights.shape != (count,):
        raise ValueError(f"mixup_embeddings: weights must be numbers [{count}], got {list(weights.shape)}")

    own_mask = mask
    if lengths is not None:
        own_mask = torch.arange(embeddings.shape[1], device=device) < lengths.to(device)[:, None]
    values, mixed_mask = embeddings, None
    if own_mask is not None:
        own_mask = own_mask.to(device) != 0
        values = embeddings.masked_fill(~own_mask[..., None], 0)
        has_own, has_other = (weights > 0)[:, None], (weights < 1)[:, None]
        mixed_mask = (own_mask & has_own) | (own_mask[partners] & has_other)
    mixed = _blend(values, weights, partners)
    whole = (weights == 1).view(-1, *[1] * (embeddings.ndim - 1))
    mixed = torch.where(whole, embeddings, mixed)
    soft = labels.float() if labels.ndim == 2 else _one_hot(labels, num_classes)
    return Mixed(mixed, _blend(soft, weights, partners), mixed_mask, weights, partners)


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over rows of −Σ labels · log softmax(logits), in float32: a scalar.

    ``logits`` floating point [N, classes]; ``labels`` floating point [N, classes], whose rows sum to 1.

    Raises:
        ValueError: where the two have other shapes.
    """
    if logits.ndim != 2 or logits.shape != labels.shape or not labels.is_floating_point():
        raise ValueError(
            "soft_cross_entropy: logits and labels must be floating point [N, classes], got "
            f"{list(logits.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    return functional.cross_entropy(logits.float(), labels.float())


def soft_binary_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    target_threshold: float | None = None,
    sum_classes: bool = False,
) -> torch.Tensor:
    """Each class as a yes or no question of its own: −[y·log σ(z) + (1 − y)·log(1 − σ(z))], the mean over classes (or
    their sum) and over rows, in float32: a scalar.

    For one class a sample, as in "ResNet strikes back" (Wightman, Touvron, Jégou, 2021), and for shares that mixup and
    cutmix give; timm's ``BinaryCrossEntropy`` in numbers. For labels of which several may hold at a time smoothing is
    another: see :func:`multi_label_targets`.

    Args:
        logits: floating point [N, classes].
        labels: class indices, integers [N]; or shares, floating point or bool [N, classes], in [0, 1].
        label_smoothing: share of each row spread over all classes, [0, 1). (timm leaves rows of shares alone, which
            timm's mixup has smoothed already.)
        target_threshold: in [0, 1): after smoothing, labels above it become 1, others 0; so both parts of a picture
            that mixing made are fully there. It must lie between what smoothing makes of 0 and of 1. None: shares
            stay.
        sum_classes: the sum over classes instead of their mean: gradients do not fade where classes are many.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.
    """
    targets = one_vs_rest_targets(logits, labels, label_smoothing=label_smoothing, target_threshold=target_threshold)
    losses = binary_losses(logits, targets)
    return (losses.sum(1) if sum_classes else losses.mean(1)).mean()


def one_vs_rest_targets(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    target_threshold: float | None = None,
) -> torch.Tensor:
    """What each class's question has for an answer where a sample has one class: float32 [N, classes]; arguments as of
    :func:`soft_binary_cross_entropy`. A row sums to 1 without a threshold, smoothed or not.

    Raises ``ValueError`` for shapes that do not fit, or an argument out of its range.
    """
    _check_share("label_smoothing", label_smoothing)
    classes = logits.shape[-1]
    if labels.ndim == 1 and not labels.is_floating_point() and len(labels) == len(logits) and logits.ndim == 2:
        targets = functional.one_hot(labels.long(), classes).float()
    else:
        targets = _shares(logits, labels, or_indices=True)
    lowest = label_smoothing / classes
    targets = targets * (1 - label_smoothing) + lowest
    return _at_threshold(targets, target_threshold, label_smoothing, lowest, 1 - label_smoothing + lowest)


def multi_label_targets(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    target_threshold: float | None = None,
) -> torch.Tensor:
    """What each class's question has for an answer where several classes may hold: float32 [N, classes].

    ``labels``: 0 or 1, or shares that mixing gives, numbers or bools [N, classes]. ``label_smoothing``: each is moved
    towards ½, its two answers' mean: y·(1 − s) + s/2. ``target_threshold``: as of :func:`soft_binary_cross_entropy`.

    Raises ``ValueError`` for shapes that do not fit, or an argument out of its range.
    """
    _check_share("label_smoothing", label_smoothing)
    lowest = label_smoothing / 2
    targets = _shares(logits, labels, or_indices=False) * (1 - label_smoothing) + lowest
    return _at_threshold(targets, target_threshold, label_smoothing, lowest, 1 - lowest)


def binary_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Every question's loss, float32 [N, classes]."""
    return functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")


def _shares(logits: torch.Tensor, labels: torch.Tensor, *, or_indices: bool) -> torch.Tensor:
    if logits.ndim != 2 or not logits.is_floating_point() or logits.shape != labels.shape:
        alternative = "class indices [N] or " if or_indices else ""
        raise ValueError(
            f"binary cross-entropy: logits must be floating point [N, classes], and labels {alternative}shares "
            f"[N, classes], got {logits.dtype} {list(logits.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    return labels.float()


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"binary cross-entropy: {name} must be in [0, 1), got {value!r}")


def _at_threshold(
    targets: torch.Tensor, threshold: float | None, smoothing: float, lowest: float, highest: float
) -> torch.Tensor:
    """0 and 1, where there is a threshold; ``lowest``, ``highest``: what smoothing has made of these."""
    if threshold is None:
        return targets
    _check_share("target_threshold", threshold)
    if smoothing and not lowest < threshold < highest:
        raise ValueError(
            f"binary cross-entropy: with label smoothing {smoothing:g} of {targets.shape[1]} classes labels are "
            f"{lowest:.3g} to {highest:.3g}, and target_threshold {threshold:g} would make them all "
            f"{int(threshold <= lowest)}: give one between"
        )
    return (targets > threshold).float()


def _check(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    lengths: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> None:
    if embeddings.ndim not in (2, 3) or not embeddings.is_floating_point():
        raise ValueError(
            "mixup_embeddings: embeddings must be floating point [N, L, D] or [N, D], got "
            f"{embeddings.dtype} {list(embeddings.shape)}"
        )
    if labels.ndim not in (1, 2) or len(labels) != len(embeddings) or labels.is_floating_point() != (labels.ndim == 2):
        raise ValueError(
            f"mixup_embeddings: labels must be integers [{len(embeddings)}] or floating point [{len(embeddings)}, "
            f"classes], got {labels.dtype} {list(labels.shape)}"
        )
    if not (math.isfinite(alpha) and 1e-6 <= alpha <= 1e6):
        raise ValueError(f"mixup_embeddings: alpha must be a number in [1e-06, 1e+06], got {alpha!r}")
    if lengths is not None and mask is not None:
        raise ValueError("mixup_embeddings: lengths and mask both say where the padding is: give one of them")
    shape = list(embeddings.shape[:2])
    for name, given, expected in (("lengths", lengths, shape[:1]), ("mask", mask, shape)):
        if given is not None and (embeddings.ndim != 3 or list(given.shape) != expected):
            raise ValueError(
                f"mixup_embeddings: {name} must be {expected} beside embeddings [N, L, D], got {list(given.shape)} "
                f"beside {list(embeddings.shape)}"
            )


def _ring(count: int, key: np.ndarray) -> torch.Tensor:
    """int64 [count]: what follows each row in a drawn order of all rows; so no row has itself, where there are two."""
    order = rng.Permutation(max(count, 1), key)(np.arange(count))
    partners = np.empty(count, np.int64)
    partners[order] = np.roll(order, -1)
    return torch.from_numpy(partners)


def _beta(count: int, alpha: float, key: np.ndarray) -> torch.Tensor:
    """float32 [count], multiples of 2⁻²⁴, so that the rest to 1 is exact, too."""
    zero = np.zeros(1, np.uint32)
    u = rng.uniforms(key, np.arange(count), zero, zero)[:, 0, 0]
    weights = np.rint(beta_quantile(alpha, alpha)(u) * 2.0**24) * 2.0**-24
    return torch.from_numpy(weights.astype(np.float32))


def _blend(values: torch.Tensor, weights: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    own = values.to(torch.promote_types(values.dtype, torch.float32))
    weight = weights.view(-1, *[1] * (values.ndim - 1))
    return (weight * own + (1 - weight) * own[partners]).to(values.dtype)


def _one_hot(labels: torch.Tensor, num_classes: int | None) -> torch.Tensor:
    if num_classes is None:
        raise ValueError("mixup_embeddings: labels are class indices: give num_classes=")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise ValueError(
            f"mixup_embeddings: labels must lie in 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())}"
        )
    return functional.one_hot(labels.long(), num_classes).float()
