"""Indexes that are made once: arrays kept on disk until what they were made from changes."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dalipipe.sources.base import digest

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """``$DALIPIPE_CACHE``, else ``$XDG_CACHE_HOME/dalipipe``, else ``~/.cache/dalipipe``."""
    if given := os.environ.get("DALIPIPE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dalipipe"


def cached_index(
    kind: str,
    of: Sequence[str],
    build: Callable[[], Arrays],
    is_current: Callable[[Arrays], bool],
    folder: str | os.PathLike[str] | None = None,
    *,
    keep: Callable[[Arrays], bool] = lambda arrays: True,
) -> Arrays:
    """The index of ``of`` (paths, URLs), from ``folder`` (None: `cache_folder`) or built and kept there.

    ``is_current`` says whether a kept one still describes what is there, ``keep`` whether a new one is worth a file.
    An unreadable file counts as none, and a folder that cannot be written to costs only the time of building again.
    """
    folder = cache_folder() / "index" if folder is None else Path(folder)
    file = folder / f"{kind}-{digest(os.fsencode(name) for name in of)}.npz"
    kept = _load(file)
    if kept is not None:
        with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
            if is_current(kept):
                return kept
    arrays = build()
    if keep(arrays):
        with contextlib.suppress(OSError):
            _save(file, arrays)
    return arrays


def _load(file: Path) -> Arrays | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except Exception:  # none there, or damaged bytes, on which zipfile and numpy raise what they like
        return None


def _save(file: Path, arrays: Arrays) -> None:
    """Whole or not at all: ranks that start together may all write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]  # a name is never "allow_pickle"
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
