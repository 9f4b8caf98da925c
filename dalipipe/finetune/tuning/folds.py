"""Folds for cross-validation: every class in all of them, the same on every machine and in every order of the data."""

from __future__ import annotations

import hashlib

import numpy as np

from dalipipe.sources import Source


def stratified_folds(source: Source, folds: int, *, seed: int = 0) -> np.ndarray:
    """int64 [N]: the fold of each record, 0 to ``folds`` - 1.

    Within each class records are put in an order by a hash of what they are called (their paths within what they have
    in common, or their numbers where they have no names) and of ``seed``, and dealt to the folds in turn, each class
    beginning where the one before it ended: so folds have as many of each class, and as many in all, as the others,
    give or take one.

    Raises ``ValueError`` as `check_folds`.
    """
    labels = check_folds(source, folds)
    names = _names(source)
    salt = str(seed).encode()
    hashes = [
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=salt).digest() for name in names
    ]
    order = np.array(sorted(range(len(source)), key=lambda row: (hashes[row], row)), np.int64)
    found, dealt = np.empty(len(source), np.int64), 0
    for label in range(int(labels.max()) + 1):
        members = order[labels[order] == label]
        found[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return found


def check_folds(source: Source, folds: int) -> np.ndarray:
    """The labels int64 [N] of a source that can be cut into so many folds.

    Raises:
        ValueError: fewer than two folds; a source without classes; a class with fewer samples than there are folds,
            which would be missing in one of them.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise ValueError(f"folds must be a whole number ≥ 2, got {folds!r}")
    labels = source.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"folds need a class for each sample, one number, and {source!r} has none: give it labels")
    if not len(labels):
        raise ValueError(f"folds need samples, and {source!r} is empty")
    classes = source.classes or [str(number) for number in range(int(labels.max()) + 1)]
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{name!r} {count}" for name, count in zip(classes, counts.tolist(), strict=False) if count < folds]
    if few:
        shown = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
        raise ValueError(
            f"{folds} folds need {folds} samples of every class, or one would miss some; there are of {shown}. Give "
            "fewer folds, add samples or remove the class"
        )
    return np.asarray(labels, np.int64)


def _names(source: Source) -> list[str]:
    """What records are called, wherever the data set lies."""
    paths = getattr(source, "paths", None)
    if paths is None:
        return [str(row) for row in range(len(source))]
    return ["/".join(str(path).replace("\\", "/").split("/")[-2:]) for path in paths]
