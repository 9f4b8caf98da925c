"""Operators that mix samples of a batch with each other, and their labels: MixUp, CutMix, TimeCutMix, TextCutMix.

Every sample has a partner, and each of the two takes something of the other. A policy's mix operators stand at its end,
after normalising and erasing; at most one of them is applied to a sample, so several go into `OneOf`.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops import pixels
from dalipipe.policy import Node, Op, Params, set_field
from dalipipe.quantiles import beta_quantile

MAX_GROUP = 4096


@dataclass(frozen=True, repr=False)
class MixOp(Op):
    """A sample becomes ``weight`` · itself + (1 − ``weight``) · its partner, and inside ``box`` its partner alone; its
    label becomes ``label_weight`` · its own + (1 − ``label_weight``) · its partner's.

    ``weight``, ``label_weight`` float64 [A] in [0, 1], multiples of 2⁻²⁴, so that they and the rest to 1 are exact in
    float32; ``box`` int64 [A, 4] as y, x, h, w inside the picture, h or w 0: none.

    Labels become float32 [N, classes], in every batch and for every sample, mixed or not. They may be class indices
    (integers [N]), one-hot or multi-label (numbers or bools [N, classes]).

    Partners are drawn inside groups of ``group`` successive positions of an epoch's order, from (seed, epoch,
    positions) alone. A sample whose partner is in another batch (where a rank's batch is no multiple of ``group``), was
    left out, or only fills up a batch, stays as it is.

    Args:
        alpha: of the Beta(alpha, alpha) distribution that weights are drawn from, one for each sample; > 0.
        num_classes: where labels are indices; by default as many as the data set has classes.
        labels: name of the field that holds them.
        group: an even number; the same in all mix operators of a policy, as are the fields about labels.
        smoothing: share of a label that is spread over all classes (Szegedy et al., "Rethinking the Inception
            architecture", CVPR 2016), in [0, 1).
        p: probability that a sample takes something of its partner.

    Raises:
        ValueError: a field out of its range.
    """

    alpha: float = 1.0
    num_classes: int | None = None
    labels: str = "label"
    group: int = 8
    smoothing: float = 0.0

    modality: ClassVar[str] = "mix"

    def at_strength(self, strength: float) -> Node:
        """Applied less often, and labels less smooth."""
        other = super().at_strength(strength)
        if other is not self:
            set_field(other, "smoothing", self.smoothing * min(strength, 1.0))
        return other

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("alpha", _is_number(self.alpha) and 1e-6 <= self.alpha <= 1e6, "a number in [1e-06, 1e+06]")
        self._check(
            "num_classes",
            self.num_classes is None or (_is_whole(self.num_classes) and self.num_classes >= 1),
            "a whole number ≥ 1, or None for as many as the data set has classes",
        )
        self._check("labels", isinstance(self.labels, str) and self.labels, "the name of a field")
        even = _is_whole(self.group) and 2 <= self.group <= MAX_GROUP and self.group % 2 == 0
        self._check("group", even, f"an even number of samples in [2, {MAX_GROUP}]")
        self._check("smoothing", _is_number(self.smoothing) and 0 <= self.smoothing < 1, "a number in [0, 1)")
        set_field(self, "alpha", float(self.alpha))
        set_field(self, "smoothing", float(self.smoothing))

    def _check(self, field: str, good: Any, expected: str) -> None:
        if not good:
            raise ValueError(f"{type(self).__name__}: {field} must be {expected}, got {getattr(self, field)!r}")


@dataclass(frozen=True, repr=False)
class MixUp(MixOp):
    """Blends a sample with its partner, all pixels by the same weight.

    ``alpha``: weights come from Beta(alpha, alpha), 10⁻⁶..10⁶: 1 is uniform, less leaves more of one of the two. Other
    fields (``num_classes labels group smoothing p``) and what becomes of labels: `MixOp`.

    Zhang, Cisse, Dauphin, Lopez-Paz: "mixup: beyond empirical risk minimization" (ICLR 2018). With the weight of
    torchvision's ``MixUp`` float32 pictures equal its own to the bit.
    """

    draws: ClassVar[int] = 1

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        weight = _exact(beta_quantile(self.alpha, self.alpha)(u[:, 0]))
        return {"weight": weight, "box": np.zeros((len(u), 4), np.int64), "label_weight": weight}


@dataclass(frozen=True, repr=False)
class CutMix(MixOp):
    """Shows a box of a picture's partner, its sides in proportion to the picture's; labels by the share of the area.

    ``alpha``: the share of the sample itself comes from Beta(alpha, alpha), 10⁻⁶..10⁶. Other fields (``num_classes
    labels group smoothing p``) and what becomes of labels: `MixOp`.

    Yun, Han, Oh, Chun, Choe, Yoo: "CutMix: regularization strategy to train strong classifiers with localizable
    features" (ICCV 2019). The box is drawn as torchvision's ``CutMix`` draws it: centred anywhere, and clipped.
    """

    draws: ClassVar[int] = 3

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        share = 1.0 - beta_quantile(self.alpha, self.alpha)(u[:, 0])
        half = (0.5 * np.sqrt(share)[:, None] * size).astype(np.int64)
        centre = np.minimum((u[:, 1:3] * size).astype(np.int64), size - 1)
        first, end = np.maximum(centre - half, 0), np.minimum(centre + half, size)
        box = np.concatenate([first, end - first], axis=1)
        label_weight = _exact(1.0 - box[:, 2:].prod(axis=1) / size.prod(axis=1))
        return {"weight": np.ones(len(u)), "box": box, "label_weight": label_weight}


@dataclass(frozen=True, repr=False)
class TimeCutMix(MixOp):
    """Shows a part of a signal's partner, of all its channels; labels by the share of the length. Of a longer signal:
    the frames at the same place.

    ``alpha``: the share of the sample itself comes from Beta(alpha, alpha), 10⁻⁶..10⁶. Other fields (``num_classes
    labels group smoothing p``) and what becomes of labels: `MixOp`. `CutMix` along time: centred anywhere, and clipped.
    """

    draws: ClassVar[int] = 2

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        share, frames = 1.0 - beta_quantile(self.alpha, self.alpha)(u[:, 0]), size[:, 0]
        half = (0.5 * share * frames).astype(np.int64)
        centre = np.minimum((u[:, 1] * frames).astype(np.int64), frames - 1)
        first, end = np.maximum(centre - half, 0), np.minimum(centre + half, frames)
        box = np.stack([first, np.zeros_like(first), end - first, size[:, 1]], axis=1)
        label_weight = _exact(1.0 - (end - first) / frames)
        return {"weight": np.ones(len(u)), "box": box, "label_weight": label_weight}


@dataclass(frozen=True, repr=False)
class TextCutMix(MixOp):
    """Puts a part of a text's partner in the place of a part of its own; labels by the share of the words. Both parts
    are at the same place of their texts, and as large a share of them, as they are after all edits; a text whose
    partner has no word there stays as it is.

    ``alpha``: the share of the sample itself comes from Beta(alpha, alpha), 10⁻⁶..10⁶. Other fields (``num_classes
    labels group smoothing p``) and what becomes of labels: `MixOp`. `CutMix` along the words: centred anywhere, and
    clipped. Yoon, Kim, Park: "SSMix: saliency-based span mixup for text classification" (Findings of ACL 2021) have
    spans replaced likewise, where a model finds them to matter.
    """

    draws: ClassVar[int] = 2

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        half = 0.5 * (1.0 - beta_quantile(self.alpha, self.alpha)(u[:, 0]))
        centre, parts = u[:, 1], float(PARTS)
        first = np.rint(np.maximum(centre - half, 0.0) * parts).astype(np.int64)
        end = np.rint(np.minimum(centre + half, 1.0) * parts).astype(np.int64)
        box = np.stack([np.zeros_like(first), first, np.ones_like(first), end - first], axis=1)
        # How many words that is, and so what labels weigh, is known when the texts are edited: `cut_texts`.
        return {"weight": np.ones(len(u)), "box": box, "label_weight": np.ones(len(u))}


PARTS = 1 << 24
"""What the boxes of `TextCutMix` count a text's length as."""


def cut_texts(partner: np.ndarray, box: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What N texts of ``lengths`` integers [N] are made of: int64 [N, 3, 2] as first word and number of words of their
    own, of their partner's, and of their own again; and float32 [N]: which share of the words is their own.

    ``partner`` int64 [N]: rows; ``box`` integers [N, 4] as `TextCutMix` draws them, without a height: none.
    """
    lengths, box = lengths.astype(np.int64), box.astype(np.int64)
    both = np.stack([lengths, lengths[partner]], axis=1)
    first = (box[:, 1, None] * both + PARTS // 2) // PARTS
    end = ((box[:, 1] + box[:, 3])[:, None] * both + PARTS // 2) // PARTS
    taken = np.where(box[:, 2] > 0, end[:, 1] - first[:, 1], 0)
    cut = taken > 0
    spans = np.zeros((len(lengths), 3, 2), np.int64)
    spans[:, 0, 1] = np.where(cut, first[:, 0], lengths)
    spans[:, 1, 0], spans[:, 1, 1] = np.where(cut, first[:, 1], 0), taken
    spans[:, 2, 0], spans[:, 2, 1] = np.where(cut, end[:, 0], lengths), np.where(cut, lengths - end[:, 0], 0)
    kept = spans[:, 0, 1] + spans[:, 2, 1]
    weight = np.where(cut, kept / np.maximum(kept + taken, 1), 1.0)
    return spans, _exact(weight).astype(np.float32)


def mix(x: np.ndarray, partner: np.ndarray, weight: np.ndarray, box: np.ndarray, *, layout: str = "nchw") -> np.ndarray:
    """The specification of ``csrc/mix.h``: a batch's pictures mixed.

    ``x``: float32, float16 or uint8, [N, C, H, W] ("nchw") or [N, H, W, C] ("nhwc"); the same comes out. ``partner``
    int64 [N]: rows; ``weight`` float32 [N], 1: the row's own pixels stay to the bit; ``box`` integers [N, 4], its
    partner's pixels to the bit. Blends are computed in float32 and rounded once: float16 to nearest, ties to even;
    uint8 to nearest, halves up. (bfloat16 as float32 that is rounded afterwards, to nearest, ties to even.)
    """
    out = x.copy()
    for row, (other, w, (top, left, height, width)) in enumerate(
        zip(partner, weight.astype(np.float32), box, strict=True)
    ):
        if w != 1:
            blend = w * x[row].astype(np.float32) + (np.float32(1) - w) * x[other].astype(np.float32)
            out[row] = pixels.round_to_uint8(blend) if x.dtype == np.uint8 else blend
        y, across = slice(top, top + height), slice(left, left + width)
        where = (slice(None), y, across) if layout == "nchw" else (y, across)
        out[row][where] = x[other][where]
    return out


def soft_labels(op: MixOp, labels: Any, classes: int | None, partner: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A batch's labels, smoothed and mixed: float32 [N, classes].

    ``labels``: integers [N], or numbers or bools [N, classes]; ``classes``: how many the data set knows of; ``partner``
    int64 [N]: rows; ``weight`` float32 [N]: of each row's own label.

    Raises:
        ValueError: labels that do not fit, naming the operator, its field, what was expected and what came.
    """
    kind = labels.dtype.kind if isinstance(labels, np.ndarray) else None
    indices = kind in ("i", "u") and labels.ndim == 1
    if not indices and not (kind in ("b", "i", "u", "f") and labels.ndim == 2):
        raise _misfit(op, "class indices (integers [N]) or one label a class (numbers or bools [N, classes])", labels)
    rows = np.arange(len(labels))
    if not indices:
        if op.num_classes not in (None, labels.shape[1]):
            raise _misfit(op, f"num_classes={op.num_classes} columns", labels)
        own = np.float32(1 - op.smoothing) * labels.astype(np.float32) + np.float32(op.smoothing / labels.shape[1])
        rows = rows[weight != 1]
        share = weight[rows, None].astype(np.float32)
        own[rows] = share * own[rows] + (1 - share) * own[partner[rows]]
        return own
    count = op.num_classes or classes
    if count is None:
        raise ValueError(
            f"{type(op).__name__}: labels={op.labels!r} holds class indices, and the data set does not say how many "
            "classes there are: give num_classes="
        )
    outside = (labels < 0) | (labels >= count)
    if outside.any():
        raise ValueError(
            f"{type(op).__name__}: labels={op.labels!r} must hold indices of {count} classes, 0 to {count - 1}, got "
            f"{labels[outside][0]}" + ("" if op.num_classes else "; num_classes= says that there are more")
        )
    soft = np.full((len(labels), count), op.smoothing / count, np.float32)
    share = weight.astype(np.float32)
    soft[rows, labels] += share * np.float32(1 - op.smoothing)
    soft[rows, labels[partner]] += (1 - share) * np.float32(1 - op.smoothing)
    return soft


def _misfit(op: MixOp, expected: str, labels: Any) -> ValueError:
    got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, np.ndarray) else f"a {type(labels).__name__}"
    return ValueError(f"{type(op).__name__}: labels={op.labels!r} must hold {expected}, got {got}")


def _exact(weight: np.ndarray) -> np.ndarray:
    """Rounded to a multiple of 2⁻²⁴."""
    return np.rint(weight * 2.0**24) * 2.0**-24


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
