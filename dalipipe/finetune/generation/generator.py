"""What a generator is, and what it learns from: labelled records, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from dalipipe.loader import DataLoader
from dalipipe.ops.image import Resize
from dalipipe.policy import Policy
from dalipipe.sources import Arrays, Series, Source


class Generator(Protocol):
    """A model of data by class. One of yours, a diffusion model say, takes the place of those here."""

    classes: list[str]
    """What it makes records of; known once it has learnt."""

    def fit(self, source: Source) -> None:
        """Learns from labelled records."""

    def sample(self, count: int, label: int, seed: int) -> Source:
        """``count`` made records of a class, numbered 0 to ``len(classes)`` - 1, with its label: `Arrays` of pictures
        or `Series`. The same come for the same seed, others for another.
        """


def check_labels(source: Source, least: int = 2) -> tuple[np.ndarray, list[str]]:
    """The labels int64 [N] and classes of what is to be learnt from, each there ``least`` times or more.

    Raises ``ValueError`` naming what is missing.
    """
    labels = source.labels
    if labels is None:
        raise ValueError(f"{source!r} has no labels that are known before it is read: what is made is made by class")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"labels must be classes, whole numbers from 0 [N], got {labels.dtype} {list(labels.shape)}")
    classes = source.classes or [str(number) for number in range(int(labels.max()) + 1)]
    if labels.max() >= len(classes):
        raise ValueError(f"labels run up to {labels.max()}, but there are {len(classes)} classes")
    counts = np.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts.tolist(), strict=True):
        if count < least:
            raise ValueError(
                f"class {name!r} has {count} samples to learn from, expected {least} or more: add some, or leave the "
                "class out"
            )
    return labels.astype(np.int64), list(classes)


def pictures(source: Source, size_px: int, *, channels: int | None = None, threads: int = 1) -> Arrays:
    """A source's pictures in memory, ``size_px`` × ``size_px``, uint8 [N, S, S, C], with their labels and classes.

    ``channels``: 3, or 1, which is luma of what is in colour; None: 1 where all of them are grey. Data that are to go
    together, such as what is trained on and tested with, want the same number, whatever is in them.

    Raises:
        ValueError: there are no pictures or labels, or a class without any.
        SampleError: one cannot be read or decoded.
    """
    fields = source.schema.of_kind("image")
    if not fields:
        kinds = ", ".join(sorted({field.kind for field in source.schema.fields}))
        raise ValueError(f"pictures are made from pictures, and {source!r} has {kinds}")
    labels, classes = check_labels(source)
    loader = DataLoader(
        source,
        min(256, len(source)),
        policy=Policy([Resize((size_px, size_px))]),
        dtype=torch.uint8,
        device="cpu",
        num_workers=threads,
        seed=0,
    )
    found = np.concatenate([batch[0].permute(0, 2, 3, 1).numpy() for batch in loader])
    if channels is None:
        channels = 1 if (found == found[..., :1]).all() else 3
    if channels != found.shape[3]:
        found = _luma(found) if channels == 1 else found.repeat(3, 3)
    return Arrays(found, labels, classes=classes)


def _luma(pictures: np.ndarray) -> np.ndarray:
    """Of uint8 [..., 3]: uint8 [..., 1], by ITU-R 601 as Pillow rounds it, which leaves grey as it is."""
    weighted = pictures.astype(np.int32) @ np.array([19595, 38470, 7471], np.int32)
    return ((weighted + (1 << 15)) >> 16).astype(np.uint8)[..., None]


def series_values(source: Source) -> list[np.ndarray]:
    """A source's series, float32 [T, C] each.

    Raises ``ValueError`` where there are none.
    """
    fields = source.schema.of_kind("series")
    if not fields:
        kinds = ", ".join(sorted({field.kind for field in source.schema.fields}))
        raise ValueError(f"series are made from series, and {source!r} has {kinds}")
    signals = source.read(np.arange(len(source))).columns[fields[0].name]
    return [np.array(signals[row], np.float32) for row in range(len(source))]


def values_of(source: Source) -> list[np.ndarray]:
    """Pictures in memory, uint8 [H, W, C] each, or series, float32 [T, C] each."""
    return list(source.images) if isinstance(source, Arrays) and source.images is not None else series_values(source)


def as_source(values: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray, classes: list[str]) -> Source:
    """Made pictures, uint8 [H, W, C] each, or series, float32 [T, C] each, as a source."""
    if values[0].ndim == 3:
        return Arrays(np.stack(list(values)), labels, classes=classes)
    return Series(list(values), labels, classes=classes)
