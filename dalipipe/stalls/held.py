"""A source whose records are in memory, and what the page cache knows of a source's files forgotten."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dalipipe.records import Encoded, Pictures, Records, Signals
from dalipipe.sources import Arrays
from dalipipe.sources.base import Source
from dalipipe.sources.npy import Mapped

_MOST_FILES = 4096  # of a source whose records do not say which of them they are in
_SAME = ("schema", "classes", "labels", "transform", "front", "copies", "repeatable", "in_memory")


def like(stand_in: Source, source: Source) -> None:
    """Has a source that stands in for another look like it."""
    for name in _SAME:
        setattr(stand_in, name, getattr(source, name))


class Held(Source):
    """Another source, of which some batches have been read before and are given from memory: as fast as reading can be.

    What it has not kept it reads from the source.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: dict[bytes, Records] = {}
        self.nbytes = 0
        like(self, source)

    def keep(self, indices: np.ndarray, records: Records) -> None:
        """Keeps a batch, copied where its memory may be used again."""
        columns = {
            name: replace(column, arena=column.arena[: column.starts[-1]].copy())
            if isinstance(column, Encoded)
            else column
            for name, column in records.columns.items()
        }
        self._kept[indices.tobytes()] = Records(columns)
        if not self.in_memory:
            self.nbytes += sum(bytes_of(column) for column in records.columns.values())

    def changed(self, change: Callable[[dict[str, Any]], dict[str, Any]], batches: int, *, in_memory: bool) -> Held:
        """Only the first ``batches``, with other columns: as if the data set were stored in another form."""
        other = Held(self._source)
        other.in_memory = in_memory
        for key, records in islice(self._kept.items(), batches):
            other._kept[key] = Records(change(dict(records.columns)))
        return other

    def __iter__(self) -> Iterator[Records]:
        """The batches kept."""
        return iter(self._kept.values())

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        records = self._kept.get(indices.tobytes())
        if records is None:
            return self._source.read(indices, threads=threads, allocate=allocate)
        # Arrays and lists end in the user's batches, who may change them.
        columns: dict[str, Any] = {
            name: column.copy() if isinstance(column, np.ndarray | list) else column
            for name, column in records.columns.items()
        }
        return Records(columns, dict(records.errors))

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def describe(self, index: int) -> str:
        return self._source.describe(index)

    def files(self) -> Iterable[str]:
        return self._source.files()


def bytes_of(column: Any) -> int:
    """How much memory a batch's field takes, about."""
    if isinstance(column, Encoded):
        return int(column.starts[-1] - column.starts[0])  # fields may share an arena
    if isinstance(column, Pictures):
        return int(column.nbytes.sum())
    if isinstance(column, Signals):
        return 4 * column.channels * int(column.frames.sum())
    return column.nbytes if isinstance(column, np.ndarray) else 0


def files_of(source: Source, indices: np.ndarray) -> list[str]:
    """The local files that these records are read from, where that is known."""
    if isinstance(source, Arrays):
        arrays = [array for array in (source.images, *source.columns.values()) if array is not None]
        return list(dict.fromkeys(mapped.path for array in arrays if (mapped := Mapped.of(array)) is not None))
    if not source.schema.of_kind("mask"):  # which lie in files of their own that records do not name
        named = list(dict.fromkeys(source.describe(int(index)) for index in indices))
        named = [path for path in named if os.path.isfile(path)]
        if named:
            return named
    files = list(islice(source.files(), _MOST_FILES + 1))
    return files if len(files) <= _MOST_FILES else []


def forget(paths: Iterable[str]) -> None:
    """Has the system forget these files, so that they are read anew."""
    paths = list(paths)
    _let_go({os.path.realpath(path) for path in paths})
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with suppress(OSError):
                    os.fdatasync(descriptor)  # what has not been written yet is not forgotten
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _let_go(paths: set[str]) -> None:
    """Of what this process has mapped of these files to read: as long as it holds that, it is not forgotten."""
    madvise = ctypes.CDLL(None).madvise
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            at, rights, *_, path = line.split(maxsplit=5)
            if path in paths and rights.startswith("r-"):  # what is written to a private map would be lost
                begin, end = (int(each, 16) for each in at.split("-"))
                madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
