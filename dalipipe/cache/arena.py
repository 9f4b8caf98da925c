"""Host memory that only grows: a range of addresses, backed chunk by chunk, which processes may share.

Shared memory is a file without a name (``memfd_create``): the kernel frees it when the last process that has it ends,
in whatever way, so nothing can be left behind; and the size of ``/dev/shm``, 64 MB in many containers, is no bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator

import numpy as np

from dalipipe.cache.available import available_bytes

CHUNK_BYTES = 64 << 20
SPARE_BYTES = 512 << 20
"""Of the memory that is available so much is left to others: an arena counts as full when its next chunk would touch
it.
"""
HEAD = np.dtype(
    [
        ("name", "S32"),
        ("capacity", "<i8"),
        ("tail", "<i8"),
        ("backed", "<i8"),
        ("full", "<i8"),
        ("kept", "<i8"),
        ("decoded", "<i8"),
    ]
)
"""An arena's first bytes. ``tail``: bytes given out; ``backed``: bytes that there is memory for; ``full``: 1 once
something did not fit; ``kept``: samples; ``decoded``: whether pictures are kept as pixels.
"""
HEAD_BYTES = 4096
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python has its name since 3.13
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, of Linux 5.14
_FILE = "dalipipe-cache"  # what it is called in lists of open files


class HostArena:
    """A range of ``capacity`` bytes of which ever more is in use; what is given out stays.

    Any number of threads may use it, and where it is shared, of processes. ``memory``: uint8 [capacity]; whoever holds
    it or a view of it keeps the memory.
    """

    def __init__(self, capacity: int, descriptor: int | None = None) -> None:
        """Of an open file without a name, which then is this object's to close; ``None``: of this process's own memory.
        Raises ``OSError``, and has closed it.
        """
        self._descriptor, self.closed = descriptor, False
        self.renew_lock()
        try:
            if descriptor is None:
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
                mapped = mmap.mmap(-1, capacity, flags=flags)
            else:
                mapped = mmap.mmap(descriptor, capacity, flags=mmap.MAP_SHARED | _NO_RESERVE)
        except BaseException:
            self.close()
            raise
        self._mapped = mapped
        self.memory = np.frombuffer(mapped, np.uint8)
        self.head = self.memory[: HEAD.itemsize].view(HEAD)

    @classmethod
    def new_shared(cls, name: str, capacity: int, first: int) -> HostArena:
        """One that other processes can attach to; its first bytes are given out already. Raises ``OSError``."""
        descriptor = os.memfd_create(_FILE, os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, capacity)
            os.posix_fallocate(descriptor, 0, first)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(capacity, descriptor)._set_up(name, first)

    @classmethod
    def new_private(cls, name: str, capacity: int, first: int) -> HostArena:
        """One of this process alone. Raises ``OSError``."""
        return cls(capacity)._set_up(name, first)

    @classmethod
    def attach(cls, pid: int, number: int, name: str) -> HostArena | None:
        """To what another process has open under this number; ``None`` where that is no arena of this name."""
        path = f"/proc/{pid}/fd/{number}"
        descriptor = -1
        try:
            if not os.readlink(path).startswith(f"/memfd:{_FILE} "):  # what else it may be is better not opened
                return None
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            capacity = os.fstat(descriptor).st_size
            head = np.frombuffer(os.pread(descriptor, HEAD.itemsize, 0).ljust(HEAD.itemsize, b"\0"), HEAD)
            if head["name"][0] == name.encode() and head["capacity"][0] == capacity:
                kept, descriptor = descriptor, -1  # the arena's from now on
                return cls(capacity, kept)
        except OSError:
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _set_up(self, name: str, first: int) -> HostArena:
        self.head["tail"] = self.head["backed"] = first
        self.head["capacity"], self.head["name"] = len(self.memory), name.encode()
        return self

    @property
    def descriptor(self) -> int | None:
        """Of the open file; ``None``: not shared."""
        return self._descriptor

    @property
    def capacity(self) -> int:
        return len(self.memory)

    @property
    def full(self) -> bool:
        return bool(self.head["full"][0])

    @property
    def used_bytes(self) -> int:
        return int(self.head["tail"][0])

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """One thread of one process at a time."""
        with self._lock:
            if self._descriptor is None:
                yield
                return
            # Opened anew: a lock belongs to an opening, and that of the mapping a forked child has in common with us.
            own = os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(own, fcntl.LOCK_EX)
                yield
            finally:
                os.close(own)

    def claim(self, nbytes: np.ndarray) -> np.ndarray:
        """Places int64 [m] for the first m of blocks of ``nbytes`` int64 [k]: as many as fit. While `exclusive`."""
        head = self.head[0]
        ends = int(head["tail"]) + np.cumsum(nbytes)
        fit = int(np.searchsorted(ends, self.capacity, side="right"))
        while fit and ends[fit - 1] > head["backed"]:
            if not self._back_more():
                fit = int(np.searchsorted(ends, int(head["backed"]), side="right"))
        if fit < len(nbytes):
            self.head["full"] = 1
        places = ends[:fit] - nbytes[:fit]
        if fit:
            self.head["tail"] = ends[fit - 1]
        return places

    def address(self, places: np.ndarray) -> np.ndarray:
        """uint64 [k]."""
        return (self.memory.ctypes.data + places).astype(np.uint64)

    def renew_lock(self) -> None:
        """In a forked child, where nobody may be left to let go of it."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Nothing can be claimed from then on. The memory goes when nobody holds it any more."""
        with self._lock:
            self.closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _back_more(self) -> bool:
        """One more chunk of memory, where the machine can spare it."""
        backed = int(self.head["backed"][0])
        nbytes = min(CHUNK_BYTES, self.capacity - backed)
        if nbytes <= 0 or available_bytes() < nbytes + SPARE_BYTES:
            return False
        if self._descriptor is not None:
            try:  # now, rather than by a signal (SIGBUS) when it is written to
                os.posix_fallocate(self._descriptor, backed, nbytes)
            except OSError:
                return False
        first = -(-backed // mmap.PAGESIZE) * mmap.PAGESIZE
        if first < backed + nbytes:
            with contextlib.suppress(OSError):  # an older kernel: page by page then, when they are written to
                self._mapped.madvise(_POPULATE_WRITE, first, backed + nbytes - first)
        self.head["backed"] = backed + nbytes
        return True
