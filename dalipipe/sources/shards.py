"""What sources of sharded files share: which shards there are, and their index, made once by scanning headers."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from dalipipe import native
from dalipipe.sources.index import Arrays, cached_index
from dalipipe.storage import FileInfo, Storage, expand, is_remote
from dalipipe.storage.retry import tried

Urls = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
IndexFolder = str | os.PathLike[str] | None

_FORMAT = 1  # of the arrays that are kept
_STREAM_BYTES = 4 << 20  # of a remote shard in one request
_STREAM_REQUESTS = 4  # at a time


class ShardError(ValueError):
    """A shard is damaged. ``path``; ``offset``: bytes into it; ``reason``."""

    def __init__(self, path: str, offset: int, reason: str, others: Sequence[str] = ()) -> None:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        more = f" (and {len(others)} more are damaged: {shown})" if others else ""
        super().__init__(f"{path}, byte {offset}: {reason}; fetch or write this shard again, or leave it out{more}")
        self.path, self.offset, self.reason, self.others = path, offset, reason, tuple(others)

    def and_others(self, others: Sequence[ShardError]) -> ShardError:
        return ShardError(self.path, self.offset, self.reason, [error.path for error in others])

    def __reduce__(self) -> tuple[type, tuple[str, int, str, tuple[str, ...]]]:
        return type(self), (self.path, self.offset, self.reason, self.others)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Files that hold records, and the index of these: ``index["shard_first"]`` int64 [S+1] says where each begins."""

    paths: list[str]
    index: Arrays
    storage: Storage

    def of(self, indices: np.ndarray) -> np.ndarray:
        """Which shards these records are in: int64 [n]."""
        return np.searchsorted(self.index["shard_first"], indices, side="right") - 1

    def describe(self, index: int) -> tuple[str, int]:
        """A record's shard, and its place in that."""
        shard = int(self.of(np.array([index]))[0])
        return self.paths[shard], index - int(self.index["shard_first"][shard])

    def read(
        self, shards: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, *, threads: int, allocate: Any = None
    ) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
        """N ranges, of the shards int64 [N]: what `Storage.read` gives. A remote shard must be the one indexed."""
        numbers = shards.tolist()
        paths = [self.paths[number] for number in numbers]
        versions = self._versions
        return self.storage.read(
            paths,
            threads=threads,
            offsets=offsets,
            lengths=lengths,
            versions=None if versions is None else [versions[number] for number in numbers],
            allocate=allocate,
        )

    @functools.cached_property
    def _versions(self) -> list[str] | None:
        return self.index["shard_versions"].tolist() if any(map(is_remote, self.paths)) else None


def open_shards(
    kind: Literal["tar", "tfrecord"],
    urls: Urls,
    storage: Storage | None,
    index_of: Callable[[native.ShardScanner], Arrays],
    merge: Callable[[list[Arrays]], Arrays],
    *,
    index_dir: IndexFolder | Literal["beside"],
    threads: int | None,
) -> Shards:
    """The shards that ``urls`` names, and what is in them: an index that is kept until one of them changes.

    Each shard is scanned for arrays of its own, ``index_of``, which ``merge`` makes those of all. A remote shard is
    streamed for that, so its arrays are also kept alone: a list that grew costs only what was added.

    Raises ``FileNotFoundError`` or another ``OSError``, ``ValueError`` for no shards, `ShardError` for damaged ones.
    """
    storage = Storage() if storage is None else storage
    threads = threads or min(16, 2 * len(os.sched_getaffinity(0)))
    paths = expand(urls, storage)
    if not paths:
        raise ValueError(f"no shards: {urls!r} names none")
    folder = index_dir
    if index_dir == "beside":
        names, folder = _beside(paths)
    else:
        names = [path if is_remote(path) else os.path.abspath(path) for path in paths]

    def scan(info: FileInfo) -> Arrays | ShardError:
        def build() -> Arrays:
            return {**index_of(_scan(kind, info, storage)), **_signature([info])}

        try:
            if not is_remote(info.path):
                return build()
            return cached_index(f"{kind}-shard", [info.path], build, lambda kept: _is_of(kept, [info]), folder)
        except ShardError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        infos = list(pool.map(storage.info, paths))

        def build() -> Arrays:
            scanned = list(pool.map(scan, infos))
            damaged = [found for found in scanned if isinstance(found, ShardError)]
            if damaged:
                raise damaged[0].and_others(damaged[1:])
            return {**merge([found for found in scanned if not isinstance(found, ShardError)]), **_signature(infos)}

        return Shards(paths, cached_index(kind, names, build, lambda kept: _is_of(kept, infos), folder), storage)


def _beside(paths: Sequence[str]) -> tuple[list[str], str]:
    """The shards' names within their folder, and that folder: both may be moved together with the index."""
    if any(map(is_remote, paths)):
        raise ValueError('index_dir="beside" needs local shards: nothing is written to a remote store')
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(path, folder) for path in paths], folder


def _signature(infos: Sequence[FileInfo]) -> Arrays:
    return {
        "format": np.array(_FORMAT),
        "shard_bytes": np.array([info.size_bytes for info in infos], np.int64),
        "shard_versions": np.array([info.version for info in infos]),
    }


def _is_of(kept: Arrays, infos: Sequence[FileInfo]) -> bool:
    return all(np.array_equal(kept[name], value) for name, value in _signature(infos).items())


def join_starts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Starts int64 [N+1] of several arrays → those of the arrays one after the other."""
    ends = np.cumsum([0, *(part[-1] for part in parts)])
    return np.concatenate([np.zeros(1, np.int64), *(part[1:] + end for part, end in zip(parts, ends, strict=False))])


def _scan(kind: str, info: FileInfo, storage: Storage) -> native.ShardScanner:
    """Raises `ShardError`, and ``OSError`` where trying again does not help."""

    def scan() -> native.ShardScanner:
        scanner = native.ShardScanner(kind)
        scanner.scan_file(info.path)
        return scanner

    scanner = _stream(kind, info, storage) if is_remote(info.path) else tried(scan, storage.retry)
    if scanner.damage is not None:
        raise ShardError(info.path, *scanner.damage)
    return scanner


def _stream(kind: str, info: FileInfo, storage: Storage) -> native.ShardScanner:
    """Several pieces of the shard at a time; where a body is longer than these, it is jumped over."""
    if storage.cache_dir is not None:  # nobody reads these pieces again
        storage = dataclasses.replace(storage, cache_dir=None)
    scanner = native.ShardScanner(kind)
    while not scanner.done and scanner.wanted < info.size_bytes:
        end = min(scanner.wanted + _STREAM_REQUESTS * _STREAM_BYTES, info.size_bytes)
        offsets = np.arange(scanner.wanted, end, _STREAM_BYTES)
        n = len(offsets)
        arena, starts, errors = storage.read(
            [info.path] * n,
            threads=_STREAM_REQUESTS,
            offsets=offsets,
            lengths=np.minimum(_STREAM_BYTES, end - offsets),
            versions=[info.version] * n,
        )
        if errors:
            raise errors[min(errors)]
        scanner.feed(arena[: starts[-1]])
    scanner.finish(info.size_bytes)
    return scanner
