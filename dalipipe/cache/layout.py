"""What is kept of a sample, beside its picture: numbers in the index, all else back to back in a block of bytes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.records import Column, Encoded, Pictures
from dalipipe.transfers import copy_pictures


class UnlikeError(Exception):
    """Columns that are not as those that the layout was made from."""


@dataclass(frozen=True)
class Layout:
    """How a sample's fields are kept.

    ``picture``: the field that the policy applies to; ``channels``: of its pixels; ``encoded``: whether the source
    gives files of it. ``numbers``: field → dtype and shape of a sample's, in the index. ``files``, ``maps`` (arrays
    uint8 [H, W, C] → C) and ``objects`` (pickled together) are the other fields.
    """

    picture: str
    channels: int
    encoded: bool
    numbers: tuple[tuple[str, str, tuple[int, ...]], ...]
    files: tuple[str, ...]
    maps: tuple[tuple[str, int], ...]
    objects: tuple[str, ...]

    @classmethod
    def of(cls, columns: Mapping[str, Column], picture: str) -> Layout:
        """From what a source has read."""
        column = columns[picture]
        others = {name: value for name, value in columns.items() if name != picture}
        return cls(
            picture,
            column.channels if isinstance(column, Pictures) else 3,
            isinstance(column, Encoded),
            tuple((n, c.dtype.str, c.shape[1:]) for n, c in others.items() if isinstance(c, np.ndarray)),
            tuple(n for n, c in others.items() if isinstance(c, Encoded)),
            tuple((n, c.channels) for n, c in others.items() if isinstance(c, Pictures)),
            tuple(n for n, c in others.items() if isinstance(c, list)),
        )

    @property
    def entry(self) -> np.dtype:
        """An index's row. ``state``: 0 nothing, 1 being written, 2 there; ``at``, ``nbytes``, ``height``, ``width``: of
        the picture, no size where it is encoded; ``rest``: where the block of the other fields begins.
        """
        fields: list[Any] = [("state", "u1"), ("at", "<i8"), ("rest", "<i8"), ("nbytes", "<i8"), ("size", "<i4", (2,))]
        fields += [(f"{name}.nbytes", "<i8") for name in self.files]
        fields += [(f"{name}.size", "<i4", (2,)) for name, _ in self.maps]
        fields += [(".nbytes", "<i8")] if self.objects else []
        fields += [(f"{name}.value", dtype, shape) for name, dtype, shape in self.numbers]
        return np.dtype(fields)

    def check(self, columns: Mapping[str, Column]) -> None:
        """Raises `UnlikeError`."""
        if columns.keys() != self._names or Layout.of(columns, self.picture) != self:
            raise UnlikeError

    @property
    def _names(self) -> set[str]:
        numbers, maps = (name for name, _, _ in self.numbers), (name for name, _ in self.maps)
        return {self.picture, *numbers, *self.files, *maps, *self.objects}

    # The other fields, out of the cache and into it -------------------------------------------------------------------

    def rest_of(self, entries: np.ndarray, base: int, memory: np.ndarray, *, allocate: Any, threads: int) -> Any:
        """The columns of ``entries`` [n], without the picture. ``base``: the address that their blocks count from, in
        ``memory``, which they keep.
        """
        columns: dict[str, Any] = {name: entries[f"{name}.value"].copy() for name, _, _ in self.numbers}
        at = base + entries["rest"]
        for name in self.files:
            columns[name] = gather(at, entries[f"{name}.nbytes"], allocate=allocate, threads=threads)
            at = at + entries[f"{name}.nbytes"]
        for name, channels in self.maps:
            size = entries[f"{name}.size"].copy()
            columns[name] = Pictures.dense(at.astype(np.uint64), size, None, channels, memory)
            at = at + columns[name].nbytes
        if self.objects:
            starts = at - base
            samples = [
                pickle.loads(memory[start : start + nbytes].tobytes())
                for start, nbytes in zip(starts.tolist(), entries[".nbytes"].tolist(), strict=True)
            ]
            columns |= {name: [sample[i] for sample in samples] for i, name in enumerate(self.objects)}
        return columns

    def entries_of(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        """`entry` [n] with all but the places filled in, int64 [n] bytes of each sample's block, and its pickled
        objects.

        Raises whatever pickling does.
        """
        column = columns[self.picture]
        n = len(column)
        entries, nbytes, pickled = np.zeros(n, self.entry), np.zeros(n, np.int64), []
        for name, _, _ in self.numbers:
            entries[f"{name}.value"] = columns[name]
        for name in self.files:
            entries[f"{name}.nbytes"] = np.diff(columns[name].starts)
            nbytes += entries[f"{name}.nbytes"]
        for name, _ in self.maps:
            entries[f"{name}.size"] = columns[name].size_px
            nbytes += columns[name].nbytes
        if self.objects:
            samples = zip(*(columns[name] for name in self.objects), strict=True)
            pickled = [pickle.dumps(sample, pickle.HIGHEST_PROTOCOL) for sample in samples]
            entries[".nbytes"] = [len(data) for data in pickled]
            nbytes += entries[".nbytes"]
        return entries, nbytes, pickled

    def write_rest(
        self, columns: Mapping[str, Any], rows: np.ndarray, address: np.ndarray, pickled: list[bytes], *, threads: int
    ) -> None:
        """The blocks of samples ``rows`` int64 [m] of the columns, to ``address`` uint64 [m]."""
        at = address.astype(np.int64)
        for name in self.files:
            file: Encoded = columns[name]
            source, nbytes = file.arena.ctypes.data + file.starts[rows], np.diff(file.starts)[rows]
            native.copy_blocks(source, at, rows=np.ones_like(nbytes), row_bytes=nbytes, threads=threads)
            at = at + nbytes
        for name, _ in self.maps:
            pictures = columns[name].of(rows)
            copy_pictures(pictures, at, threads=threads)
            at = at + pictures.nbytes
        if pickled:
            joined = np.frombuffer(b"".join(pickled[row] for row in rows.tolist()), np.uint8)
            nbytes = np.array([len(pickled[row]) for row in rows.tolist()], np.int64)
            source = joined.ctypes.data + np.cumsum(nbytes) - nbytes
            native.copy_blocks(source, at, rows=np.ones_like(nbytes), row_bytes=nbytes, threads=threads)


def gather(address: np.ndarray, nbytes: np.ndarray, *, allocate: Any, threads: int) -> Encoded:
    """Files of ``nbytes`` int64 [n] at ``address`` → back to back in memory of their own."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(nbytes)])
    arena = (allocate or _empty)(max(int(starts[-1]), 1))
    native.copy_blocks(
        address, arena.ctypes.data + starts[:-1], rows=np.ones_like(nbytes), row_bytes=nbytes, threads=threads
    )
    return Encoded(arena, starts)


def _empty(nbytes: int) -> np.ndarray:
    return np.empty(nbytes, np.uint8)


def join(n: int, one: Column, at: np.ndarray, other: Column, *, allocate: Any, threads: int) -> Column:
    """Columns of one form put together: rows ``at`` int64 of n come from ``one``, the others from ``other``, in
    order.
    """
    rest = np.setdiff1d(np.arange(n), at, assume_unique=True)
    if isinstance(one, list):
        joined: list[Any] = [None] * n
        for rows, values in ((at, one), (rest, other)):
            for row, value in zip(rows.tolist(), values, strict=True):  # type: ignore[arg-type]
                joined[row] = value
        return joined
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        out = np.empty((n, *one.shape[1:]), one.dtype)
        out[at], out[rest] = one, other
        return out
    if isinstance(one, Pictures):
        assert isinstance(other, Pictures)
        return Pictures.join(n, [(at, one), (rest, other)])
    assert isinstance(one, Encoded) and isinstance(other, Encoded)
    address, nbytes = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for rows, files in ((at, one), (rest, other)):
        address[rows], nbytes[rows] = files.arena.ctypes.data + files.starts[:-1], np.diff(files.starts)
    return gather(address, nbytes, allocate=allocate, threads=threads)
