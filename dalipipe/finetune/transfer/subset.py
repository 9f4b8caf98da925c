"""A part of a data set, drawn so that classes stay balanced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dalipipe import rng
from dalipipe.finetune.parts import Part
from dalipipe.sources import Source, Text

_SUBSET = 0x7375  # what these drawings mix into the seed, so that none sees another's numbers


def draw_rows(labels: np.ndarray, count: float, *, seed: int = 0, classes: Sequence[str] | None = None) -> np.ndarray:
    """Rows int64 [n], rising: of each class as many as ``count`` says, see :func:`draw_subset`. ``labels``: int [N].
    ``classes``: their names, for messages.
    """
    labels = np.asarray(labels)
    share = isinstance(count, float)
    if isinstance(count, bool) or not isinstance(count, (int, float)) or not (0 < count <= 1 if share else count >= 1):
        raise ValueError(
            f"draw_subset: count must be a whole number of samples a class, from 1, or a share of each in (0, 1], got "
            f"{count!r}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0:
        raise ValueError(f"draw_subset: labels must be classes, integers [N], got {labels.dtype} {list(labels.shape)}")
    drawn = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = max(1, round(count * len(members))) if share else int(count)
        if wanted > len(members):
            name = repr(classes[label]) if classes else label
            raise ValueError(f"draw_subset: class {name} has {len(members)} samples, fewer than the {wanted} wanted")
        order = rng.Permutation(len(members), rng.make_key(rng.mix64(seed, _SUBSET), int(label)))
        drawn.append(members[order(np.arange(wanted))])
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def draw_subset(source: Source, count: float, *, seed: int = 0) -> Source:
    """A part of a source, drawn class by class: which samples is a function of the seed, the labels and ``count``, and
    a smaller part lies within a larger one of the same seed.

    Args:
        source: with labels that are classes, one a sample.
        count: samples of each class, a whole number; or a share of each class, a fraction in (0, 1], at least one.
        seed: what is drawn from.

    Raises:
        ValueError: a count out of range; a class with fewer samples; labels that are known only when it is read, or
            are no classes.
    """
    if source.labels is None:
        raise ValueError("draw_subset: the labels are known only when the source is read: it cannot be drawn by class")
    rows = draw_rows(source.labels, count, seed=seed, classes=source.classes)
    if not isinstance(source, Text):
        return Part(source, rows)
    if source.strings is None or source.split is None:
        raise ValueError("draw_subset: of a pack of token ids no part can be drawn: draw it of the texts and pack that")
    return Text(
        [source.strings[row] for row in rows],
        split=source.split[0],
        lower=source.split[1],
        vocabulary=source.vocabulary,
        tokenizer=source.encoding,
        classes=source.classes,
        labels=source.labels[rows],
        **{name: column[rows] for name, column in source.columns.items() if name != "label"},
    )
