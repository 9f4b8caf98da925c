"""Host memory that is used again: a fresh 38 MB tensor a batch costs page faults that eat a fast operator's gain."""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import defaultdict
from contextlib import suppress

import numpy as np

_PAGE_BYTES = 4096
_HUGE_PAGE_BYTES = 2 << 20


class BufferPool:
    """Hands out uint8 arrays; the memory of one comes back when nothing refers to the array any more.

    A tensor made by ``torch.from_numpy`` on such an array holds the array, so memory that a user still sees is never
    handed out again. What the pool keeps is bounded by the most that was in use at one time, until ``close``.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = defaultdict(list)
        self._lock = threading.RLock()  # a collection inside `take` may give a block back on the same thread
        self._closed = False

    def take(self, nbytes: int) -> np.ndarray:
        """An uninitialised uint8 array of ``nbytes``, page-aligned."""
        size = _size_class(nbytes)
        with self._lock:
            free = self._free[size]
            block = free.pop() if free else None
        if block is None:
            # Private, so that a forked child gets copies and not a share in the parent's batches.
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if size >= _HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):  # a kernel built without huge pages: ordinary ones serve as well
                    block.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(block, np.uint8, nbytes)
        weakref.finalize(array, self._give_back, size, block).atexit = False
        return array

    def _give_back(self, size: int, block: mmap.mmap) -> None:
        with self._lock:
            if not self._closed:
                self._free[size].append(block)

    def close(self) -> None:
        """Lets go of the memory, of what is in use as soon as it no longer is."""
        with self._lock:
            self._closed = True
            self._free.clear()

    @property
    def free_bytes(self) -> int:
        with self._lock:
            return sum(size * len(blocks) for size, blocks in self._free.items())


def _size_class(nbytes: int) -> int:
    """Rounds up to one of eight sizes per power of two, so that batches of nearly equal size share buffers."""
    nbytes = max(nbytes, _PAGE_BYTES)
    step = max(1 << (nbytes.bit_length() - 4), _PAGE_BYTES)
    return -(-nbytes // step) * step
