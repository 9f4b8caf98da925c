"""A million names without a million Python objects."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

_CHUNK = 4096  # names made into str at a time when all are walked through


class Names(Sequence[str]):
    """N paths or other names, made into ``str`` when they are asked for.

    ``arena`` uint8 [bytes]: the names back to back, in the file system's encoding, each ended by a zero byte;
    ``starts`` int64 [N+1]. Every name begins with ``prefix``, which is kept apart: a folder may move.
    """

    def __init__(self, arena: np.ndarray, starts: np.ndarray, prefix: str = "") -> None:
        self.arena, self.starts, self.prefix = arena, starts, prefix

    @classmethod
    def of(cls, names: Iterable[str], prefix: str = "") -> Names:
        """Raises ``ValueError`` for a name with a zero byte in it."""
        names = names if isinstance(names, list) else list(names)
        arena = np.frombuffer(os.fsencode("\0".join(names) + "\0" * bool(names)), np.uint8)
        starts = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(arena == 0) + 1])
        if len(starts) != len(names) + 1:
            raise ValueError(f"{next(name for name in names if chr(0) in name)!r} holds a zero byte: no file has it")
        return cls(arena, starts, prefix)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step != 1:
                return self.take(np.array(range(first, end, step), np.int64))  # a step may be of any size
            if first >= end:
                return []
            text = os.fsdecode(self.arena[self.starts[first] : self.starts[end] - 1].tobytes())
            return [self.prefix + name for name in text.split("\0")] if self.prefix else text.split("\0")
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"name {row} of {len(self)}")
        return self.take(np.array([row % len(self)]))[0]

    def take(self, rows: np.ndarray) -> list[str]:
        """The names of ``rows`` int64 [n], each in 0..N-1."""
        begins, ends, arena = self.starts[rows].tolist(), (self.starts[rows + 1] - 1).tolist(), self.arena
        return [self.prefix + os.fsdecode(arena[begin:end].tobytes()) for begin, end in zip(begins, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _CHUNK):
            yield from self[first : first + _CHUNK]

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, Names) and other.prefix == self.prefix:
            return np.array_equal(self.starts, other.starts) and np.array_equal(self.arena, other.arena)
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(name) for name in self[:3])
        return f"Names([{shown}{', …' if len(self) > 3 else ''}], {len(self)} in all)"


def common_folder(names: Sequence[str]) -> str:
    """The folder, with its slash, that all names lie under; empty where there is none."""
    # What the first and the last in order share, all between them share too.
    shared = os.path.commonprefix([min(names), max(names)]) if names else ""  # noqa: RUF071
    return shared[: shared.rfind("/") + 1]
