"""What every source reads through: byte ranges in batches, listings, signatures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dalipipe.storage import local
from dalipipe.storage.cache import HEADER_BYTES, Cache
from dalipipe.storage.local import Allocate, FileInfo
from dalipipe.storage.remote import Range, Remote, is_remote
from dalipipe.storage.retry import Retry, tried

Read = tuple[np.ndarray, np.ndarray, dict[int, OSError]]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Local files and remote objects by byte range. A value: picklable, equal where its settings are.

    Paths are local ones, or URLs: ``s3://bucket/key``, ``gs://bucket/key``, ``az://container/key``, ``http(s)://…``
    (a server that knows byte ranges, unless whole files are read). Remote ones need ``pip install 'dalipipe[remote]'``.
    Safe to use from several threads. A process forked from one that has read remote objects cannot read any: spawn it.

    Args:
        options: for stores and their connections, as `obstore` names them: ``endpoint``, ``region``,
            ``access_key_id``, ``skip_signature`` (public buckets), ``account_name``, ``proxy_url``, ``allow_http``, …;
            what is not given comes from the environment (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``). Plain HTTP is allowed
            where the endpoint says ``http://``.
        retry: how failed reads are tried again, local and remote.
        cache_dir: a local folder to keep remote ranges in, which several processes may share; None: they are not kept.
            An object that changes under its URL is noticed only where ``read`` is given ``versions``.
        cache_bytes: what that folder may hold, about; what has not been read for longest goes first.
        concurrency: how many remote requests are under way at a time.

    Raises ``ValueError`` for numbers that make no sense, and at the first use of a store for options it does not know.
    """

    options: Mapping[str, Any] | None = field(default=None, repr=False)  # has keys in it
    retry: Retry = field(default_factory=Retry)
    cache_dir: str | os.PathLike[str] | None = None
    cache_bytes: int = 10 << 30
    concurrency: int = 32

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"Storage: concurrency must be at least 1, got {self.concurrency}")
        if self.cache_bytes < 0:
            raise ValueError(f"Storage: cache_bytes must be at least 0, got {self.cache_bytes}")

    def read(
        self,
        paths: Sequence[str],
        *,
        threads: int,
        offsets: npt.ArrayLike | None = None,
        lengths: npt.ArrayLike | None = None,
        versions: Sequence[str] | None = None,
        allocate: Allocate | None = None,
    ) -> Read:
        """N files or objects, or ranges of them, into one arena.

        Args:
            paths: N paths or URLs; mixed as it comes.
            threads: how many read local files at a time.
            offsets: int64 [N], bytes; None: from the start.
            lengths: int64 [N], bytes; None, or -1 for one of them: to the end. A range of none is not looked for.
            versions: N texts, what `info` said of the objects; one that has changed since is an error. None, or an
                empty text: whatever is there.
            allocate: called with a number of bytes, returns a contiguous uint8 array of at least that size; called
                again where not every row came from this machine at the first attempt.

        Returns:
            arena: uint8 [≥ starts[-1]], as ``allocate`` returned it.
            starts: int64 [N+1], bytes; range i is arena[starts[i]:starts[i + 1]], empty where it failed.
            errors: row → OSError (errno, filename) of every range that failed for good; the others are not touched by
                it.

        Raises:
            ValueError: sizes that do not match, an offset below 0, a length below -1, options that a store refuses.
            ImportError: a URL, and no obstore.
            RuntimeError: a URL, in a process forked from one that has read some.
        """
        if not any(is_remote(os.fspath(path)) for path in set(paths)):
            return local.read_files(
                paths, threads=threads, offsets=offsets, lengths=lengths, allocate=allocate, retry=self.retry
            )
        n = len(paths)
        begins, counts = _int64("offsets", offsets, n, 0), _int64("lengths", lengths, n, -1)
        if versions is not None and len(versions) != n:
            raise ValueError(f"Storage.read: versions must be {n} texts, one a path, got {len(versions)}")
        names = [os.fspath(path) for path in paths]
        wanted = {
            row: Range(name, int(begins[row]), int(counts[row]), versions[row] if versions is not None else "")
            for row, name in enumerate(names)
            if is_remote(name)
        }
        arena, starts, errors, missing = self._read_here(names, begins, counts, wanted, threads, allocate)
        if not missing:
            return arena, starts, errors
        bodies = dict(zip(missing, self._remote.fetch([wanted[row] for row in missing]), strict=True))
        pieces = [arena[starts[row] : starts[row + 1]] for row in range(n)]
        for row, body in bodies.items():
            if isinstance(body, OSError):
                errors[row] = body
                pieces[row] = pieces[row][:0]
            else:
                pieces[row] = body
        if self._cache is not None:
            self._cache.put((wanted[row], pieces[row]) for row in missing if row not in errors and wanted[row].length)
        return *local.gather(pieces, allocate), errors

    def _read_here(
        self,
        names: list[str],
        begins: np.ndarray,
        counts: np.ndarray,
        wanted: dict[int, Range],
        threads: int,
        allocate: Allocate | None,
    ) -> tuple[np.ndarray, np.ndarray, dict[int, OSError], list[int]]:
        """Local rows, and remote ones that the cache has; last: the rows that it has not."""
        n, rows = len(names), list(wanted)
        # Each entry's header is read as one more row behind all others, so that with every row at hand the arena is
        # what the caller gets. Without a cache a remote row is the file "", which is none.
        entries = [] if self._cache is None else [self._cache.entry(range_) for range_ in wanted.values()]
        paths = [*names, *entries]
        for row, entry in zip(rows, entries or [""] * len(rows), strict=True):
            paths[row] = entry
        begins = np.concatenate([begins, np.zeros(len(entries), np.int64)])
        counts = np.concatenate([counts, np.full(len(entries), HEADER_BYTES, np.int64)])
        begins[rows], counts[rows] = HEADER_BYTES, -1
        arena, starts, found = local.read_files(
            paths, threads=threads, offsets=begins, lengths=counts, allocate=allocate, retry=self.retry
        )
        missing = rows
        if self._cache is not None:
            at = {row: n + i for i, row in enumerate(rows)}
            missing = [
                row
                for row, range_ in wanted.items()
                if row in found
                or not self._cache.holds(
                    range_, arena[starts[at[row]] : starts[at[row] + 1]], arena[starts[row] : starts[row + 1]]
                )
            ]
        errors = {row: error for row, error in found.items() if row < n and row not in wanted}
        return arena, starts[: n + 1], errors, missing

    def info(self, path: str) -> FileInfo:
        """Size and version of a file or object. Raises ``FileNotFoundError`` or another ``OSError``."""
        path = os.fspath(path)
        return self._remote.info(path) if is_remote(path) else tried(lambda: local.info(path), self.retry)

    def list(self, root: str) -> list[FileInfo]:
        """Every file under a local folder, or object under a prefix, at any depth, sorted by path.

        A prefix ends at a ``/``: ``s3://b/train`` does not list ``s3://b/train-more/…``. Links are followed; one to
        nowhere is listed with 0 bytes, so that reading it says what is wrong. Web servers (``http(s)://``) do not list.

        Raises ``FileNotFoundError`` where there is nothing, or another ``OSError``.
        """
        root = os.fspath(root)
        return self._remote.list_objects(root) if is_remote(root) else tried(lambda: local.list_files(root), self.retry)

    def close(self) -> None:
        """Lets go of connections; reading again opens them again."""
        self.__dict__.pop("_remote", None)

    @cached_property
    def _remote(self) -> Remote:
        return Remote(self.options or {}, self.retry, self.concurrency)

    @cached_property
    def _cache(self) -> Cache | None:
        return None if self.cache_dir is None else Cache(os.fspath(self.cache_dir), self.cache_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _int64(name: str, values: npt.ArrayLike | None, n: int, default: int) -> np.ndarray:
    """What `native.read_files` takes, checked as it is there."""
    array = np.full(n, default, np.int64) if values is None else np.asarray(values, np.int64)
    if array.shape != (n,):
        raise ValueError(f"Storage.read: {name} must be int64 [{n}], one a path, got shape {array.shape}")
    if array.min() < min(default, 0):
        raise ValueError(f"Storage.read: {name} must be at least {default}, got {array.min()} at {array.argmin()}")
    return array
