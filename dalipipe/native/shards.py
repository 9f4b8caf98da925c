"""Indexes of tar and TFRecord shards, and what is in their records."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dalipipe.native.core import _C, check_threads
from dalipipe.native.structs import FEATURE, FEATURE_KINDS


class ShardScanner:
    """Finds what lies where in a shard, by its headers: ``kind`` "tar" or "tfrecord".

    A shard is scanned once: by `scan_file`, or by `feed` and `finish`.
    """

    def __init__(self, kind: str) -> None:
        self._native = {"tar": _C.TarScanner, "tfrecord": _C.RecordScanner}[kind]()

    def scan_file(self, path: str | os.PathLike[str]) -> None:
        """A local file, bodies skipped. Raises ``OSError``."""
        if code := self._native.scan_file(path=os.fsencode(path)):
            raise OSError(code, os.strerror(code), os.fspath(path))

    @property
    def wanted(self) -> int:
        """The byte that `feed` goes on with: behind what was fed, or far behind, where a body is skipped."""
        return int(self._native.wanted)

    @property
    def done(self) -> bool:
        """Whether no more is wanted."""
        return bool(self._native.done)

    def feed(self, data: np.ndarray) -> None:
        """Bytes from `wanted` on: uint8 [n], contiguous."""
        self._native.feed(data=data)

    def finish(self, size_bytes: int) -> None:
        """All was fed that was wanted, and the shard has this size."""
        self._native.finish(size_bytes=size_bytes)

    @property
    def damage(self) -> tuple[int, str] | None:
        """The byte at which the shard makes no sense, and why; what lies before it is in the index."""
        if self._native.damage is None:
            return None
        at, what = self._native.damage
        return at, os.fsdecode(what)

    def tar_index(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """Arrays by the names in `TarIndex` of csrc/shards.h, and the extensions."""
        arrays, extensions = self._native.index()
        return arrays, [os.fsdecode(extension) for extension in extensions]

    def record_index(self) -> dict[str, np.ndarray]:
        """Of TFRecords: ``offsets`` and ``sizes``, int64 [N], bytes, and ``checksums`` as stored, uint32 [N]."""
        return dict(self._native.index())


def parse_integers(arena: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N texts → the whole decimal numbers they are, int64 [N], and whether they are any, bool [N].

    ``arena`` uint8 [bytes], ``starts`` int64 [N+1]; white space around a number is allowed.
    """
    starts = np.ascontiguousarray(starts, np.int64)
    values, valid = np.zeros(len(starts) - 1, np.int64), np.zeros(len(starts) - 1, np.uint8)
    _C.parse_integers(arena=arena, starts=starts, values=values, valid=valid)
    return values, valid.astype(bool)


def read_examples(
    arena: np.ndarray, starts: np.ndarray, names: Sequence[str], *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Finds features in N records of tf.train.Example, each followed by its checksum, which is checked.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; record i and its checksum are arena[starts[i]:starts[i + 1]].
        names: F names of features.
        threads: how many work at a time.

    Returns:
        `FEATURE` [N, F], places counted from the arena's beginning; int32 [N]: 0 good, 1 the checksum does not match, 2
        no Example.
    """
    check_threads("read_examples", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    n = len(starts) - 1
    features, status = np.zeros((n, len(names)), FEATURE), np.zeros(n, np.int32)
    _C.read_examples(
        arena=arena,
        starts=starts,
        names=[os.fsencode(name) for name in names],
        features=features.ctypes.data,
        status=status,
        threads=threads,
    )
    return features, status


def list_features(record: np.ndarray) -> dict[str, tuple[str, int]]:
    """The features of one record, uint8 [n]: name → kind, as in `FEATURE_KINDS`, and number of values.

    Raises:
        ValueError: it is no tf.train.Example.
    """
    found = _C.list_features(record=record)
    if found is None:
        raise ValueError("the record is no tf.train.Example")
    return {os.fsdecode(name): (FEATURE_KINDS[kind], count) for name, kind, count in found}


def feature_numbers(arena: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The values of `FEATURE` [N ≥ 1], all "ints" or all "floats" and of one count: int64 or float32 [N, count]."""
    features = np.ascontiguousarray(features)
    n, kind, count = len(features), FEATURE_KINDS[features["kind"][0]], int(features["count"][0])
    read, dtype = {"ints": (_C.feature_ints, np.int64), "floats": (_C.feature_floats, np.float32)}[kind]
    out = np.empty((n, count), dtype)
    read(arena=arena, features=features.ctypes.data, n=n, count=count, out=out)
    return out


def feature_bytes(arena: np.ndarray, feature: np.void) -> list[bytes]:
    """The values of one "bytes" `FEATURE`."""
    count, at, nbytes = (int(feature[name]) for name in ("count", "list", "list_bytes"))
    return list(_C.feature_bytes(arena=arena, list=at, list_bytes=nbytes, count=count))
