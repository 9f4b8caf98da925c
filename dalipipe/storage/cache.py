"""Ranges of remote objects kept on a local disk, within a bound that all processes on the folder share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import struct
import tempfile
import time
from collections.abc import Iterable

import numpy as np

from dalipipe.storage.remote import Range

_HEADER = struct.Struct("<8sQQ")  # magic, bytes of data, their sum
HEADER_BYTES = _HEADER.size
_MAGIC = b"dalirng1"
_BLOCK_BYTES = 4096  # what a file takes of a disk is a multiple of this
_KEPT = 0.9  # of the bound, after what is oldest went: so that it is not looked for at every write
_STALE_PART_S = 3600.0


class Cache:
    """A folder of ranges, a file each. Nothing that goes wrong with it is an error: what cannot be had is a miss.

    The bound holds over all processes that share the folder. What is about to be written is added to a sum in the file
    ``used``, under a lock; where that exceeds ``max_bytes``, the lock's holder counts what is really there and removes
    what has not been read for longest. So the folder exceeds its bound by no more than what other processes are just
    writing while one counts: a batch each. The sum may be too large, after a process was killed between counting and
    writing; then the next count comes sooner. Who finds the lock taken keeps that batch another time.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        self._folder = os.path.join(folder, "dalipipe-ranges")  # of our own: what is in it may be removed
        self._max_bytes = max_bytes

    def entry(self, range_: Range) -> str:
        """The file that keeps this range, if any does."""
        key = "\0".join(map(str, range_))
        name = hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()
        return os.path.join(self._folder, name[:2], name[2:])

    def holds(self, range_: Range, header: np.ndarray, data: np.ndarray) -> bool:
        """Whether what was read from a range's entry is whole; then it counts as used just now."""
        if len(header) != HEADER_BYTES or 0 <= range_.length != len(data):
            return False
        if _HEADER.unpack(header.tobytes()) != (_MAGIC, len(data), _sum(data)):
            return False
        with contextlib.suppress(OSError):
            os.utime(self.entry(range_))
        return True

    def put(self, ranges: Iterable[tuple[Range, np.ndarray]]) -> None:
        """Keeps these data, as many as may be."""
        chosen, total = [], 0
        for range_, data in ranges:
            size = _size_on_disk(HEADER_BYTES + len(data))
            if total + size <= self._max_bytes * _KEPT:
                chosen.append((self.entry(range_), data))
                total += size
        with contextlib.suppress(OSError):  # a full or read-only disk costs only the keeping
            os.makedirs(self._folder, exist_ok=True)
            if chosen and self._make_room(total):
                for entry, data in chosen:
                    _write(entry, data)

    def _make_room(self, nbytes: int) -> bool:
        """Counts so many bytes as used, and removes what is too much. False: another process is doing that."""
        with open(os.open(os.path.join(self._folder, "used"), os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of by closing
            except BlockingIOError:
                return False
            text = file.read(32)
            used = int(text) if text.isdecimal() else self._max_bytes  # unknown: count
            if used + nbytes > self._max_bytes:
                used = self._shrink(max(int(self._max_bytes * _KEPT) - nbytes, 0))
            file.seek(0)
            file.truncate()
            file.write(str(used + nbytes))
        return True

    def _shrink(self, to_bytes: int) -> int:
        """Removes what has not been used for longest; the bytes that are left."""
        files, total = [], 0
        for folder in os.scandir(self._folder):
            if not re.fullmatch("[0-9a-f]{2}", folder.name):
                continue
            for file in os.scandir(folder.path):
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat(follow_symlinks=False)
                    if file.name.endswith(".part") and status.st_mtime < time.time() - _STALE_PART_S:
                        os.unlink(file.path)  # whoever wrote it was killed
                        continue
                    files.append((status.st_mtime, _size_on_disk(status.st_size), file.path))
                    total += files[-1][1]
        for _, size, path in sorted(files):
            if total <= to_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total


def _write(entry: str, data: np.ndarray) -> None:
    """Whole or not at all, whoever else writes or reads it. Raises ``OSError``."""
    os.makedirs(os.path.dirname(entry), exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=os.path.dirname(entry), suffix=".part")
    try:
        with open(descriptor, "wb", buffering=0) as file:
            header = _HEADER.pack(_MAGIC, len(data), _sum(data))
            if file.write(header) != len(header):
                raise OSError("a short write")
            rest = memoryview(data)  # type: ignore[arg-type]
            while rest:
                rest = rest[file.write(rest) :]
        os.replace(part, entry)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _sum(data: np.ndarray) -> int:
    """Tells what befalls files: missing ends, blocks of zeros, flipped bits. A checksum proper is five times slower."""
    whole = len(data) & ~7
    words = int(data[:whole].view(np.uint64).sum(dtype=np.uint64))
    return (words + int.from_bytes(data[whole:].tobytes(), "little")) & (2**64 - 1)


def _size_on_disk(nbytes: int) -> int:
    return -(-nbytes // _BLOCK_BYTES) * _BLOCK_BYTES
