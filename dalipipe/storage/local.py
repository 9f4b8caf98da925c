"""Local files: batched reads that are tried again where that helps, signatures, listings."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dalipipe import native
from dalipipe.storage.retry import Retry, exhausted, is_transient, pause, unwanted

Allocate = Callable[[int], np.ndarray]


class FileInfo(NamedTuple):
    """A file or object: its path or URL, size in bytes, and what changes when its contents do (mtime, ETag)."""

    path: str
    size_bytes: int
    version: str


def read_files(
    paths: Sequence[str],
    *,
    threads: int,
    offsets: npt.ArrayLike | None,
    lengths: npt.ArrayLike | None,
    allocate: Allocate | None,
    retry: Retry,
) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
    """`native.read_files`, and again for the rows that failed in a way that may pass.

    Nothing is copied where nothing failed; after a retry that helped, the rows are gathered into a second arena.
    """
    arena, starts, errors = native.read_files(
        paths, threads=threads, offsets=offsets, lengths=lengths, allocate=allocate
    )
    failed = [row for row, error in errors.items() if is_transient(error)]
    if not failed:
        return arena, starts, errors
    pieces = [arena[starts[row] : starts[row + 1]] for row in range(len(paths))]
    attempts = 1
    for delay_s in retry.delays_s():
        if not pause(delay_s):
            errors.update((row, unwanted(os.fspath(paths[row]))) for row in failed)
            return *gather(pieces, allocate), errors
        attempts += 1
        again, again_starts, again_errors = native.read_files(
            [paths[row] for row in failed],
            threads=threads,
            offsets=None if offsets is None else np.asarray(offsets)[failed],
            lengths=None if lengths is None else np.asarray(lengths)[failed],
        )
        for i, row in enumerate(failed):
            if i in again_errors:
                errors[row] = again_errors[i]
            else:
                del errors[row]
                pieces[row] = again[again_starts[i] : again_starts[i + 1]]
        failed = [row for row in failed if row in errors and is_transient(errors[row])]
        if not failed:
            break
    errors.update((row, exhausted(errors[row], attempts)) for row in failed)
    return *gather(pieces, allocate), errors


def gather(pieces: Sequence[np.ndarray], allocate: Allocate | None) -> tuple[np.ndarray, np.ndarray]:
    """N byte arrays → one arena, and starts int64 [N+1]."""
    starts = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=starts[1:])
    nbytes = int(starts[-1])
    arena = np.empty(nbytes, np.uint8) if allocate is None else allocate(nbytes)
    np.concatenate([*pieces, np.empty(0, np.uint8)], out=arena[:nbytes])
    return arena, starts


def info(path: str) -> FileInfo:
    return _info(path, os.stat(path))


def _info(path: str, status: os.stat_result) -> FileInfo:
    return FileInfo(path, status.st_size, f"{status.st_mtime_ns:x}")


def list_files(root: str) -> list[FileInfo]:
    """Every regular file under ``root``, links followed, sorted by path.

    A link to nowhere is listed, as empty, so that reading it can say what is wrong with it. Raises
    ``FileNotFoundError`` for a missing or empty root, ``NotADirectoryError``, and ``PermissionError`` for any folder
    under it that cannot be looked into.
    """
    found: list[FileInfo] = []
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while folders:
        folder, above = folders.pop()
        status = os.stat(folder)
        this = (status.st_dev, status.st_ino)
        if this in above:  # a link to a folder that it lies in
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
                    found.append(FileInfo(entry.path, 0, ""))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append((entry.path, above | {this}))
                elif stat.S_ISREG(status.st_mode):
                    found.append(_info(entry.path, status))
    if not found:
        raise FileNotFoundError(errno.ENOENT, "no files in this folder or below it", root)
    return sorted(found)
