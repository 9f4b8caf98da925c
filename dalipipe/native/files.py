"""Byte ranges of files, image headers, checksums, and blocks of memory that are copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, check_files, check_threads
from dalipipe.native.structs import IMAGE_HEADER

MAX_FILE_BYTES = 2**31 - 1  # what decoders take; a larger file among images is a mistake


def read_files(
    paths: Sequence[str | os.PathLike[str]],
    *,
    threads: int,
    offsets: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    allocate: Callable[[int], np.ndarray] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> tuple[np.ndarray, np.ndarray, dict[int, OSError]]:
    """Reads N files, or byte ranges of files, in parallel into one arena.

    Args:
        paths: N paths; several ranges of one file share one descriptor.
        threads: how many read at a time, the caller's own included.
        offsets: int64 [N], bytes; None: from the start.
        lengths: int64 [N], bytes; None, or -1 for one of them: to the end of the file.
        allocate: called once with the number of bytes; returns a contiguous uint8 array of at least that size.
        max_file_bytes: a longer range fails with EFBIG.

    Returns:
        arena: uint8 [≥ starts[-1]], as `allocate` returned it.
        starts: int64 [N+1], bytes; range i is arena[starts[i]:starts[i + 1]], empty where it failed.
        errors: position → OSError (errno, filename) of every range that failed; the others are not touched by it.

    Raises:
        ValueError: threads below 1, sizes that do not match, an offset below 0 or a length below -1.
    """
    n = len(paths)
    check_threads("read_files", threads)
    names = {path: os.fsencode(path) for path in set(paths)}  # many ranges may be of few files
    batch = _C.FileBatch(
        paths=[names[path] for path in paths],
        offsets=_ranges("offsets", offsets, n, 0),
        lengths=_ranges("lengths", lengths, n, -1),
        max_bytes=max_file_bytes,
        threads=threads,
    )
    nbytes = batch.total_bytes
    arena = np.empty(nbytes, np.uint8) if allocate is None else allocate(nbytes)
    if arena.dtype != np.uint8 or arena.ndim != 1 or arena.size < nbytes or not arena.flags.carray:
        raise ValueError(
            f"read_files: allocate({nbytes}) must return a writable contiguous uint8 array of at least {nbytes} bytes, "
            f"got {arena.dtype} {arena.shape}"
        )
    batch.read(arena=arena, threads=threads)
    errors = {i: OSError(code, cause or os.strerror(code), os.fspath(paths[i])) for i, code, cause in batch.errors}
    return arena, batch.starts, errors


def _ranges(name: str, values: npt.ArrayLike | None, n: int, default: int) -> np.ndarray:
    if values is None:
        return np.full(n, default, np.int64)
    array = np.asarray(values, np.int64)
    if array.shape != (n,):
        raise ValueError(f"read_files: {name} must be int64 [{n}], one a path, got shape {array.shape}")
    if n and array.min() < min(default, 0):
        raise ValueError(f"read_files: {name} must be at least {default}, got {array.min()} at {array.argmin()}")
    return np.ascontiguousarray(array)


def probe_images(arena: np.ndarray, starts: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """Reads the headers of N encoded images: size, channels, orientation, and what makes a file unusual.

    Nothing is decoded, and no bytes make it raise: what cannot be made out has kind 0, or zeros.

    Args:
        arena: uint8 [≥ starts[-1]], contiguous.
        starts: int64 [N+1]; image i is arena[starts[i]:starts[i + 1]].
        threads: how many work at a time.

    Returns:
        `IMAGE_HEADER` [N]; `kind` indexes `IMAGE_KINDS`, `flags` holds bits of `IMAGE_FLAGS`.

    Raises:
        ValueError: another dtype or shape, or starts that do not rise within the arena.
    """
    starts = check_files("probe_images", arena, starts, threads)
    out = np.zeros(starts.size - 1, IMAGE_HEADER)
    _C.probe_images(arena=arena, starts=starts, out=out.ctypes.data, threads=threads)
    return out


def crc32c(data: np.ndarray, *, portable: bool = False) -> int:
    """CRC-32C (Castagnoli) of uint8 [n]; ``portable``: without the CPU's instruction for it."""
    return int(_C.crc32c(data=data, portable=portable))


def checksums(arena: np.ndarray, starts: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """The CRC-32C of each of N ranges, uint32 [N]: ``arena`` uint8 [bytes], ``starts`` int64 [N+1]."""
    check_threads("checksums", threads)
    starts = np.ascontiguousarray(starts, np.int64)
    out = np.zeros(len(starts) - 1, np.uint32)
    _C.checksums(arena=arena, starts=starts, out=out, threads=threads)
    return out


def pack_ranges(arena: np.ndarray, at: np.ndarray, nbytes: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Moves N ranges of an arena together, to the beginning of ``out``; returns their starts there, int64 [N+1].

    ``at``, ``nbytes``: int64 [N]. ``out`` may be the arena itself if the ranges follow each other in it.
    """
    at, nbytes = np.ascontiguousarray(at, np.int64), np.ascontiguousarray(nbytes, np.int64)
    _C.pack_ranges(arena=arena, at=at, nbytes=nbytes, out=out)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(nbytes)])


def copy_blocks(
    source: np.ndarray,
    to: np.ndarray,
    *,
    rows: np.ndarray,
    row_bytes: np.ndarray,
    stride: np.ndarray | None = None,
    threads: int = 1,
) -> None:
    """Copies N blocks of host memory: block i is ``rows[i]`` runs of ``row_bytes[i]`` bytes, ``stride[i]`` bytes apart
    (``None``: dense) from address ``source[i]`` on, back to back from ``to[i]`` on.

    ``source``, ``to``: uint64 [N]; the others int64 [N]. Nobody can check that the memory is there.
    """
    check_threads("copy_blocks", threads)
    row_bytes = np.ascontiguousarray(row_bytes, np.int64)
    _C.copy_blocks(
        from_=np.ascontiguousarray(source, np.uint64),
        stride=row_bytes if stride is None else np.ascontiguousarray(stride, np.int64),
        rows=np.ascontiguousarray(rows, np.int64),
        row_bytes=row_bytes,
        to=np.ascontiguousarray(to, np.uint64),
        threads=threads,
    )
