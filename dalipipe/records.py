"""What travels between the stages of a loader: encoded bytes, pictures, signals and texts by address, and the samples
that went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

_PER_PICTURE = ("address", "row_bytes", "size_px", "origin_px")
_PER_SIGNAL = ("address", "frames", "frame_step", "channel_step")


class SampleError(RuntimeError):
    """A sample could not be read, decoded or augmented. The cause is chained.

    ``index``: its place in the data set. ``where``: a path or another name for people.
    """

    def __init__(self, index: int, where: str, reason: str) -> None:
        super().__init__(f"sample {index} ({where}): {reason}")
        self.index, self.where, self.reason = index, where, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.index, self.where, self.reason)


@dataclass(frozen=True)
class Encoded:
    """N encoded files back to back: ``arena`` uint8 [bytes], ``starts`` int64 [N+1]."""

    arena: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.arena[self.starts[row] : self.starts[row + 1]]

    def of(self, rows: np.ndarray) -> Encoded:
        """Some of them, copied: ``rows`` int64 [A]."""
        starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[rows])])
        return Encoded(np.concatenate([self[row] for row in rows.tolist()]), starts)


@dataclass(frozen=True)
class EncodedAudio(Encoded):
    """N encoded sounds, and the part of each that is meant: ``start_s``, ``duration_s`` float64 [N], seconds; not a
    number: from the beginning, and to the end.
    """

    start_s: np.ndarray
    duration_s: np.ndarray

    def of(self, rows: np.ndarray) -> EncodedAudio:
        files = super().of(rows)
        return EncodedAudio(files.arena, files.starts, self.start_s[rows], self.duration_s[rows])


@dataclass(frozen=True)
class Pictures:
    """N uint8 HWC pictures (or regions of them) by address, on one device.

    ``address`` uint64 [N]; ``row_bytes`` int64 [N]; ``size_px`` int32 [N, 2] as height, width; ``origin_px`` int32 [N,
    2]: where a region's first pixel lies in its picture, as y, x; ``channels``: 1 or 3. ``owner`` keeps the memory
    alive;
    ``on_cuda`` says whether the addresses are a CUDA device's.
    """

    address: np.ndarray
    row_bytes: np.ndarray
    size_px: np.ndarray
    origin_px: np.ndarray
    channels: int
    owner: Any
    on_cuda: bool = False

    def __len__(self) -> int:
        return len(self.address)

    @classmethod
    def from_arrays(cls, arrays: list[np.ndarray], origin_px: np.ndarray | None = None) -> Pictures:
        """N ≥ 1 host pictures: each uint8 [H, W, C] with dense pixels; rows may be strided."""
        n = len(arrays)
        return cls(
            address=np.array([a.ctypes.data for a in arrays], np.uint64),
            row_bytes=np.array([a.strides[0] for a in arrays], np.int64),
            size_px=np.array([a.shape[:2] for a in arrays], np.int32).reshape(n, 2),
            origin_px=np.zeros((n, 2), np.int32) if origin_px is None else origin_px,
            channels=arrays[0].shape[2],
            owner=arrays,
        )

    @classmethod
    def dense(
        cls,
        address: np.ndarray,
        size_px: np.ndarray,
        origin_px: np.ndarray | None,
        channels: int,
        owner: Any,
        *,
        on_cuda: bool = False,
    ) -> Pictures:
        """Pictures whose rows follow each other; ``origin_px``: ``None``: whole ones."""
        origin_px = np.zeros((len(address), 2), np.int32) if origin_px is None else origin_px
        row_bytes = size_px[:, 1].astype(np.int64) * channels
        return cls(address, row_bytes, size_px, origin_px, channels, owner, on_cuda)

    @classmethod
    def join(cls, n: int, parts: Sequence[tuple[np.ndarray, Pictures]]) -> Pictures:
        """n pictures: of each part, the rows int64 [A] that its A pictures take. All of one form and device."""
        first = parts[0][1]
        joined = cls(
            address=np.zeros(n, np.uint64),
            row_bytes=np.zeros(n, np.int64),
            size_px=np.zeros((n, 2), np.int32),
            origin_px=np.zeros((n, 2), np.int32),
            channels=first.channels,
            owner=[part.owner for _, part in parts],
            on_cuda=first.on_cuda,
        )
        for rows, part in parts:
            if (part.channels, part.on_cuda) != (first.channels, first.on_cuda):
                raise ValueError("Pictures.join: pictures must have the same channels and lie on the same device")
            for name in _PER_PICTURE:
                getattr(joined, name)[rows] = getattr(part, name)
        return joined

    def of(self, rows: np.ndarray) -> Pictures:
        """Some of them: ``rows`` int64 [A]."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _PER_PICTURE})

    @property
    def nbytes(self) -> np.ndarray:
        """int64 [N]: of their pixels."""
        return self.size_px.astype(np.int64).prod(axis=1) * self.channels

    def __getitem__(self, row: int) -> np.ndarray:
        """One host picture as an array: uint8 [H, W, C], a view."""
        h, w = (int(v) for v in self.size_px[row])
        row_bytes = int(self.row_bytes[row])
        interface = {
            "data": (int(self.address[row]), True),
            "shape": (h, w, self.channels),
            "strides": (row_bytes, self.channels, 1),
            "typestr": "|u1",
            "version": 3,
        }
        view = type("_View", (), {"__array_interface__": interface, "owner": self.owner})()
        return np.asarray(view)


@dataclass(frozen=True)
class Signals:
    """N float32 signals (audio, other series) by address, on one device; of any lengths, all of as many channels.

    ``address`` uint64 [N]; ``frames`` int32 [N]; ``frame_step``, ``channel_step`` int64 [N]: float32 elements from one
    frame, and one channel, to the next. ``rate_hz`` float64 [N]: frames a second, where that means something. ``owner``
    keeps the memory alive; ``on_cuda`` says whether the addresses are a CUDA device's.
    """

    address: np.ndarray
    frames: np.ndarray
    frame_step: np.ndarray
    channel_step: np.ndarray
    channels: int
    owner: Any
    rate_hz: np.ndarray | None = None
    on_cuda: bool = False

    def __len__(self) -> int:
        return len(self.address)

    @classmethod
    def from_arrays(cls, arrays: Sequence[np.ndarray], rate_hz: np.ndarray | None = None) -> Signals:
        """N ≥ 1 host signals: each float32 [T, C]; strides may be any."""
        return cls(
            address=np.array([a.ctypes.data for a in arrays], np.uint64),
            frames=np.array([a.shape[0] for a in arrays], np.int32),
            frame_step=np.array([a.strides[0] // 4 for a in arrays], np.int64),
            channel_step=np.array([a.strides[1] // 4 for a in arrays], np.int64),
            channels=arrays[0].shape[1],
            owner=arrays,
            rate_hz=rate_hz,
        )

    def of(self, rows: np.ndarray) -> Signals:
        """Some of them: ``rows`` int64 [A]."""
        rate = None if self.rate_hz is None else self.rate_hz[rows]
        taken = {name: getattr(self, name)[rows] for name in _PER_SIGNAL}
        return replace(self, **taken, rate_hz=rate)

    def with_rows(self, rows: np.ndarray, others: Signals) -> Signals:
        """These, but for ``rows`` int64 [A], which are ``others``; of as many channels, on the same device."""
        if (others.channels, others.on_cuda) != (self.channels, self.on_cuda):
            raise ValueError("Signals.with_rows: signals must have the same channels and lie on the same device")
        changed = {name: getattr(self, name).copy() for name in _PER_SIGNAL}
        for name, column in changed.items():
            column[rows] = getattr(others, name)
        return replace(self, **changed, owner=(self.owner, others.owner))

    def __getitem__(self, row: int) -> np.ndarray:
        """One host signal as an array: float32 [T, C], a view."""
        interface = {
            "data": (int(self.address[row]), True),
            "shape": (int(self.frames[row]), self.channels),
            "strides": (4 * int(self.frame_step[row]), 4 * int(self.channel_step[row])),
            "typestr": "<f4",
            "version": 3,
        }
        view = type("_View", (), {"__array_interface__": interface, "owner": self.owner})()
        return np.asarray(view)


@dataclass(frozen=True)
class Tokens:
    """N texts as numbers of words, by address, on one device; of any lengths.

    ``address`` uint64 [N]: of int32 tokens beside each other; ``lengths`` int32 [N]. ``owner`` keeps the memory alive;
    ``on_cuda`` says whether the addresses are a CUDA device's.
    """

    address: np.ndarray
    lengths: np.ndarray
    owner: Any
    on_cuda: bool = False

    def __len__(self) -> int:
        return len(self.address)

    @classmethod
    def ragged(cls, tokens: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> Tokens:
        """Texts ``rows`` int64 [N] of those that lie back to back in ``tokens`` int32, host; ``starts`` int64."""
        begin = starts.take(rows)
        lengths = starts[1:].take(rows) - begin
        return cls((4 * begin + tokens.ctypes.data).view(np.uint64), lengths.astype(np.int32), tokens)

    def __getitem__(self, row: int) -> np.ndarray:
        """One text on the host as an array: int32 [T], a view."""
        if not self.lengths[row]:
            return np.zeros(0, np.int32)
        interface = {
            "data": (int(self.address[row]), True),
            "shape": (int(self.lengths[row]),),
            "typestr": "<i4",
            "version": 3,
        }
        view = type("_View", (), {"__array_interface__": interface, "owner": self.owner})()
        return np.asarray(view)


@dataclass(frozen=True)
class Tiles:
    """N stripped JPEGs of tiles (csrc/jpeg/stripped.h) by address, on one device.

    ``address`` uint64 [N]; ``shape`` `native.JPEG_SHAPE` [N]. ``owner`` keeps the memory alive.
    """

    address: np.ndarray
    shape: np.ndarray
    owner: Any

    def __len__(self) -> int:
        return len(self.address)

    @property
    def size_px(self) -> np.ndarray:
        """int32 [N, 2]: height and width of the whole pictures."""
        return np.stack([self.shape["height"], self.shape["width"]], axis=1)


@dataclass(frozen=True)
class PartlyEncoded:
    """N pictures of which some are ``kept``, as pixels or as stripped JPEGs, and the others are ``encoded`` files.

    ``at``: int64, the rows of the encoded ones, rising; the other rows are those kept; ``None``: there are none.
    ``take`` is given the encoded ones decoded, so they are decoded whole, and not only where a crop lies; ``None``:
    nobody wants them.
    """

    kept: Pictures | Tiles | None
    encoded: Encoded
    at: np.ndarray
    take: Callable[[Pictures], None] | None

    def __len__(self) -> int:
        return len(self.encoded) + (0 if self.kept is None else len(self.kept))


Column = Encoded | Pictures | Signals | Tokens | np.ndarray | list[Any]
"""A field of N records."""


@dataclass(frozen=True)
class Records:
    """What a source read for N samples: a column per field, and what went wrong, by row.

    A row in ``errors`` has placeholder data in its columns; one bad record never costs the others.
    """

    columns: dict[str, Column]
    errors: dict[int, Exception] = field(default_factory=dict)
