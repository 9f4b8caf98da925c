"""Host memory that is used again: a fresh 38 MB tensor a batch costs page faults that eat a fast operator's gain."""

from __future__ import annotations

import mmap
import threading
import weakref
from contextlib import suppress

import numpy as np

_PAGE_BYTES = 4096
_HUGE_PAGE_BYTES = 2 << 20


class BufferPool:
    """Hands out uint8 arrays; the memory of one comes back when nothing refers to the array any more.

    A tensor made by ``torch.from_numpy`` on such an array holds the array, so memory that a user still sees is never
    handed out again. What is kept, in use and free together, is at most a quarter more than what was ever in use at
    one time, until ``close``.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []  # the one given back last is at the end: it may still be in a cache
        self._in_use_bytes = self._most_in_use_bytes = 0
        self._lock = threading.RLock()  # a collection inside `take` may give a block back on the same thread
        self._closed = False

    def take(self, nbytes: int) -> np.ndarray:
        """An uninitialised uint8 array of ``nbytes``, page-aligned."""
        size = _size_class(nbytes)
        with self._lock:
            block = self._pick(size)
        if block is None:
            # Private, so that a forked child gets copies and not a share in the parent's batches.
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if size >= _HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel built without huge pages: ordinary ones serve as well
                    block.madvise(mmap.MADV_HUGEPAGE)
        with self._lock:
            self._in_use_bytes += len(block)
            self._most_in_use_bytes = max(self._most_in_use_bytes, self._in_use_bytes)
            self._trim()
        array = np.frombuffer(block, np.uint8, nbytes)
        weakref.finalize(array, self._give_back, block).atexit = False
        return array

    def _pick(self, size: int) -> mmap.mmap | None:
        """The smallest free block that holds ``size`` and is not wasted on it."""
        fitting = [i for i, block in enumerate(self._free) if size <= len(block) <= 2 * size]
        if not fitting:
            return None
        return self._free.pop(min(reversed(fitting), key=lambda i: len(self._free[i])))

    def _give_back(self, block: mmap.mmap) -> None:
        with self._lock:
            self._in_use_bytes -= len(block)
            if not self._closed:
                self._free.append(block)
                self._trim()

    def _trim(self) -> None:
        while self._free and self._in_use_bytes + self.free_bytes > 1.25 * self._most_in_use_bytes:
            self._free.pop(0)

    def close(self) -> None:
        """Lets go of the memory, of what is in use as soon as it no longer is."""
        with self._lock:
            self._closed = True
            self._free.clear()

    @property
    def free_bytes(self) -> int:
        with self._lock:
            return sum(len(block) for block in self._free)


def _size_class(nbytes: int) -> int:
    """Rounds up to one of eight sizes per power of two, so that batches of nearly equal size share buffers."""
    nbytes = max(nbytes, _PAGE_BYTES)
    step = max(1 << (nbytes.bit_length() - 4), _PAGE_BYTES)
    return -(-nbytes // step) * step
