"""A data set parted in two: what is trained on, and what is kept for validation; and two data sets as one."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dalipipe.records import Records
from dalipipe.sources import Arrays, ImageFolder, Series, Source
from dalipipe.sources.base import digest


class Part(Source):
    """Some records of a source, ``rows`` int64 [n], as a source of their own."""

    def __init__(self, whole: Source, rows: np.ndarray) -> None:
        self.whole, self.rows = whole, np.asarray(rows, np.int64)
        self.schema, self.classes, self.transform = whole.schema, whole.classes, whole.transform
        self.front, self.copies, self.in_memory = whole.front, whole.copies, whole.in_memory
        self.repeatable, self.may_have_tiles = whole.repeatable, whole.may_have_tiles
        self.labels = None if whole.labels is None else whole.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        copy, at = np.divmod(indices, len(self))
        return self.whole.read(copy * len(self.whole) + self.rows[at], threads=threads, allocate=allocate)

    def fingerprint(self) -> str:
        return f"part-{len(self)}-{digest([self.whole.fingerprint().encode(), self.rows.tobytes()])}"

    def describe(self, index: int) -> str:
        return self.whole.describe(int(self.rows[index]))

    def __repr__(self) -> str:
        return f"Part({len(self)} of {self.whole!r})"

    def files(self) -> Iterable[str]:
        return self.whole.files()

    def close(self) -> None:
        self.whole.close()


def choose(whole: Source, root: Path, *, val_fraction: float | None, hold_out: str | None) -> np.ndarray:
    """bool [N]: which records are for validation, by their paths within ``root`` alone.

    ``val_fraction``: in each class, or of all pictures with label maps, the share with the lowest hashes
    (rounded, at least one on each side).
    ``hold_out``: those whose path this pattern fits, such as ``george/*``; ``*`` stands for any characters, ``/`` too.

    Raises:
        ValueError: not one of the two is given; the fraction is out of (0, 1) or a class too small to be split; the
            pattern fits no path, or all.
    """
    if hold_out is not None and val_fraction is not None:
        raise ValueError("hold_out and val_fraction both say what validation is on: give one of them")
    paths = getattr(whole, "paths", None) or map(whole.describe, range(len(whole)))
    names = [os.path.relpath(path, root) for path in paths]
    if hold_out is not None:
        chosen = np.array([fnmatch.fnmatchcase(name, hold_out) for name in names])
        if chosen.all() or not chosen.any():
            fits = "all" if chosen.all() else "none"
            raise ValueError(f"hold_out {hold_out!r} fits {fits} of the {len(names)} paths in {root}, as {names[0]!r}")
        return chosen
    if val_fraction is None:
        raise ValueError(f"{root} has no train/ and val/ folders: make them, or split it with a val_fraction, 0.2 say")
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be in (0, 1), got {val_fraction}")
    labels, classes = whole.labels, whole.classes or []
    if labels is None and whole.schema.of_kind("mask"):  # a picture has many classes: all are of one kind
        labels, classes = np.zeros(len(whole), np.int64), ["pictures"]
    if labels is None:
        raise ValueError(f"{root} has labels that are known only when it is read: it cannot be split by class")
    hashes = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    order = np.array(sorted(range(len(whole)), key=hashes.__getitem__))
    chosen = np.zeros(len(whole), bool)
    for label, name in enumerate(classes):
        members = order[labels[order] == label]
        if len(members) < 2:
            raise ValueError(
                f"class {name!r} has {len(members)} sample, too few to split; add some or remove the class"
            )
        chosen[members[: min(max(1, round(val_fraction * len(members))), len(members) - 1)]] = True
    return chosen


def joined(one: Source, other: Source) -> Source:
    """Two data sets of the same classes as one, ``one``'s records first: two folders of pictures, arrays of pictures of
    one size, or series; or parts of such.

    Raises ``ValueError`` where they do not fit together.
    """
    if one.classes != other.classes:
        odd = sorted(set(one.classes or []) ^ set(other.classes or []))
        where = f"only one of them has {odd[0]!r}" if odd else "their order differs"
        raise ValueError(f"data sets to be joined must have the same classes; {where}")
    one, other = _alone(one), _alone(other)
    if isinstance(one, ImageFolder) and isinstance(other, ImageFolder):
        samples = [pair for part in (one, other) for pair in zip(part.paths, part.labels.tolist(), strict=True)]
        return ImageFolder.from_samples(samples, one.classes)
    if one.labels is None or other.labels is None or type(one) is not type(other):
        raise ValueError(
            f"{one!r} and {other!r} cannot be joined: give two folders of pictures, or two files of series, with labels"
        )
    labels = np.concatenate([one.labels, other.labels])
    if isinstance(one, Arrays) and isinstance(other, Arrays) and one.images is not None and other.images is not None:
        if one.images.shape[1:] != other.images.shape[1:]:
            sizes = ("×".join(map(str, images.shape[1:])) for images in (one.images, other.images))
            raise ValueError(f"pictures of {' and '.join(sizes)} cannot be joined: bring them to one size")
        return Arrays(np.concatenate([one.images, other.images]), labels, classes=one.classes)
    if isinstance(one, Series):
        values = [value for part in (one, other) for value in _series_values(part)]
        return Series(values, labels, classes=one.classes, rate_hz=one.rate_hz)
    raise ValueError(f"{one!r} cannot be joined with others: write it as a folder of class folders, or a .ts file")


def _alone(source: Source) -> Source:
    """A part of what can be joined as a source of its kind."""
    if not isinstance(source, Part):
        return source
    whole, rows = _alone(source.whole), source.rows
    if isinstance(whole, ImageFolder) and whole.labels is not None:
        pairs = [(whole.paths[row], int(whole.labels[row])) for row in rows.tolist()]
        return ImageFolder.from_samples(pairs, whole.classes, storage=whole.storage)
    if isinstance(whole, Arrays) and whole.images is not None:
        return Arrays(whole.images[rows], source.labels, classes=whole.classes)
    if isinstance(whole, Series):
        return Series(_series_values(source), source.labels, classes=whole.classes, rate_hz=whole.rate_hz)
    return source


def _series_values(source: Source) -> list[np.ndarray]:
    signals = source.read(np.arange(len(source))).columns["series"]
    return [np.array(signals[row]) for row in range(len(source))]
