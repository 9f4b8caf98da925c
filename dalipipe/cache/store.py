"""Where samples lie that are kept: an index with a row for each, and the memory that its places are in."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, Protocol

import numpy as np

from dalipipe.cache import meeting
from dalipipe.cache.arena import HEAD_BYTES, HostArena
from dalipipe.cache.available import available_bytes
from dalipipe.cache.layout import Layout, gather
from dalipipe.native import JPEG_SHAPE, Stripped, copy_blocks
from dalipipe.records import Encoded, Pictures, Tiles
from dalipipe.transfers import copy_pictures, download

_BEING_WRITTEN, _THERE = 1, 2
RAM_SHARE = 0.5
"""Of the memory that is available when a cache is opened: what it may take by default."""
_ESTIMATE = 1.02  # times the estimate must fit, for pixels to be kept


class PictureMemory(Protocol):
    """Memory of pictures that is not the host's."""

    def claim(self, nbytes: np.ndarray) -> np.ndarray:
        """Addresses int64 [m] for the first m of pictures of ``nbytes`` int64 [k]: as many as fit."""
        ...

    def write(self, pictures: Pictures, address: np.ndarray) -> None:
        """Pixels to addresses; they are there when this returns."""
        ...

    def write_tiles(self, files: Stripped, rows: np.ndarray, address: np.ndarray, *, threads: int) -> np.ndarray:
        """Stripped JPEGs ``rows`` int64 [m] to addresses, where they are when this returns. bool [m]: which are
        sound.
        """
        ...

    @property
    def owner(self) -> Any:
        """What keeps the memory."""
        ...

    @property
    def used_bytes(self) -> int: ...

    @property
    def capacity(self) -> int: ...


@dataclass(frozen=True)
class Wanted:
    """``name``: of the data set, and of how it is kept; ``rows``: of the index; ``nbytes``: ``None``: a share of what
    there is; ``decoded_bytes``: an estimate of all pictures', ``None``: unknown; ``tiles``: whether files of them can
    be kept stripped.
    """

    name: str
    layout: Layout
    rows: int
    nbytes: int | None
    decoded_bytes: float | None
    tiles: bool = False


class Store:
    """Samples by row. Many threads and processes may put and find; what has been put stays as it is.

    Who puts a sample first claims its row and its place under a lock, writes it, and then marks the row as there;
    finding takes no lock.
    """

    def __init__(self, wanted: Wanted, arena: HostArena, pictures: PictureMemory | None = None) -> None:
        """``pictures``: where these lie, if not in the arena."""
        self.layout, self.rows, self.name = wanted.layout, wanted.rows, wanted.name
        self._arena, self._pictures = arena, pictures
        entry = wanted.layout.entry
        self._first = HEAD_BYTES + wanted.rows * entry.itemsize
        self._index = arena.memory[HEAD_BYTES : self._first].view(entry)
        # Of stripped JPEGs; they are in no other process's store.
        self._shapes = None if pictures is None or self.decoded else np.zeros(wanted.rows, JPEG_SHAPE)
        self._fence = threading.Lock()

    @property
    def shared(self) -> bool:
        """Whether other processes may use it."""
        return self._arena.descriptor is not None

    @property
    def decoded(self) -> bool:
        """Whether pictures are kept as pixels."""
        return bool(self._arena.head["decoded"][0])

    @property
    def full(self) -> bool:
        """Whether something did not fit: nothing more is put then."""
        return self._arena.full

    @property
    def kept(self) -> int:
        """Samples."""
        return int(self._arena.head["kept"][0])

    @property
    def used_bytes(self) -> int:
        """Of `capacity`; the index comes on top of it."""
        return self._arena.used_bytes - self._first if self._pictures is None else self._pictures.used_bytes

    @property
    def capacity(self) -> int:
        return self._arena.capacity - self._first if self._pictures is None else self._pictures.capacity

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`Layout.entry` [n] of rows int64 [n], and which of them are there, bool [n]."""
        there = self._index["state"][rows] == _THERE
        with self._fence:  # what was written before the state is read after it, on every processor
            pass
        return self._index[rows], there

    def picture_of(
        self, rows: np.ndarray, entries: np.ndarray, *, allocate: Any, threads: int
    ) -> Pictures | Tiles | Encoded:
        """Of entries [n] that are there, of rows int64 [n]: pixels or stripped JPEGs, where they lie, or copies of the
        files.
        """
        size, channels = entries["size"].copy(), self.layout.channels
        if self._pictures is not None and self._shapes is not None:
            return Tiles(entries["at"].astype(np.uint64), self._shapes[rows], self._pictures.owner)
        if self._pictures is not None:
            return Pictures.dense(
                entries["at"].astype(np.uint64), size, None, channels, self._pictures.owner, on_cuda=True
            )
        address = self._arena.address(entries["at"])
        if self.decoded:
            return Pictures.dense(address, size, None, channels, self._arena.memory)
        return gather(address, entries["nbytes"], allocate=allocate, threads=threads)

    def rest_of(self, entries: np.ndarray, *, allocate: Any, threads: int) -> dict[str, Any]:
        """The other columns of entries [n] that are there."""
        memory = self._arena.memory
        return self.layout.rest_of(entries, memory.ctypes.data, memory, allocate=allocate, threads=threads)

    def put(self, rows: np.ndarray, columns: dict[str, Any], *, threads: int) -> None:
        """Keeps samples ``rows`` int64 [n], as many as fit; those that are there already stay.

        ``columns``: what was read, the picture as pixels where they are kept (`decoded`). Files that are to be kept
        stripped, but cannot be, are left out.
        """
        layout, column = self.layout, columns[self.layout.picture]
        try:
            entries, rest_bytes, pickled = layout.entries_of(columns)
        except Exception:  # an object that cannot be pickled: these samples are read as before
            return
        if isinstance(column, Pictures):
            entries["size"], entries["nbytes"] = column.size_px, column.nbytes
        else:
            entries["nbytes"] = np.diff(column.starts)
        first = np.sort(np.unique(rows, return_index=True)[1])  # of a sample that comes twice
        if self._shapes is not None:
            assert isinstance(column, Encoded)
            column = Stripped(column.arena, column.starts, None, threads=threads)
            entries["nbytes"] = column.nbytes
            first = first[column.nbytes[first] > 0]
        index = self._index
        with self._arena.exclusive():
            if self._arena.closed:  # while this batch was under way
                return
            new = first[index["state"][rows[first]] == 0]
            sizes = entries["nbytes"][new] + rest_bytes[new]
            if self._pictures is None:
                places = self._arena.claim(sizes)
                entries["at"][new[: len(places)]] = places
                entries["rest"][new[: len(places)]] = places + entries["nbytes"][new[: len(places)]]
            else:
                places = self._pictures.claim(entries["nbytes"][new])
                self._arena.head["full"] |= len(places) < len(new)
                entries["at"][new[: len(places)]] = places
                places = self._arena.claim(rest_bytes[new[: len(places)]])
                entries["rest"][new[: len(places)]] = places
            new = new[: len(places)]
            index["state"][rows[new]] = _BEING_WRITTEN
        if not len(new):
            return
        sound = self._write_pictures(column, rows, new, entries["at"][new], threads)
        layout.write_rest(columns, new, self._arena.address(entries["rest"][new]), pickled, threads=threads)
        entries["state"] = _BEING_WRITTEN
        index[rows[new]] = entries[new]
        with self._arena.exclusive():  # no write before it is seen after it
            index["state"][rows[new[sound]]] = _THERE
            self._arena.head["kept"] += int(sound.sum())

    def _write_pictures(
        self, column: Pictures | Encoded | Stripped, rows: np.ndarray, new: np.ndarray, at: np.ndarray, threads: int
    ) -> np.ndarray:
        """``new`` int64 [m] of the column to their places; bool [m]: which of them may be used."""
        sound = np.ones(len(new), bool)
        if isinstance(column, Stripped):
            assert self._pictures is not None and self._shapes is not None
            self._shapes[rows[new]] = column.shapes[new]
            sound = self._pictures.write_tiles(column, new, at, threads=threads)
        elif isinstance(column, Encoded):
            nbytes = np.diff(column.starts)[new]
            copy_blocks(
                column.arena.ctypes.data + column.starts[new],
                self._arena.address(at),
                rows=np.ones_like(nbytes),
                row_bytes=nbytes,
                threads=threads,
            )
        elif self._pictures is not None:
            self._pictures.write(column.of(new), at)
        else:
            pictures = column.of(new)
            if pictures.on_cuda:
                pictures = download(pictures)
            copy_pictures(pictures, self._arena.address(at), threads=threads)
        return sound

    def close(self) -> None:
        if self.shared:
            meeting.leave(self.name)
        self._arena.close()

    def renew_locks(self) -> None:
        """In a forked child."""
        self._fence = threading.Lock()
        self._arena.renew_lock()


# A process has each store once, however many loaders use it ----------------------------------------------------------

_stores: dict[str, tuple[Store, int]] = {}
_lock = threading.Lock()
_given_back: deque[str] = deque()


def acquire(key: str, make: Callable[[], Store]) -> Store:
    """This process's store of that key; to be given back by `release`. Raises ``OSError``."""
    with _lock:
        store, users = _stores.get(key) or (make(), 0)
        _stores[key] = store, users + 1
    _settle()
    return store


def release(key: str) -> None:
    """The last one frees it. A collection of garbage may call this anywhere, so in `acquire`, too."""
    _given_back.append(key)
    _settle()


def _settle() -> None:
    """Who holds the lock does it, when done."""
    while _given_back and _lock.acquire(blocking=False):
        last = None
        try:
            with contextlib.suppress(IndexError):
                key = _given_back.popleft()
                store, users = _stores.pop(key)
                if users > 1:
                    _stores[key] = store, users - 1
                else:
                    last = store
        finally:
            _lock.release()
        if last is not None:
            last.close()


def _leave() -> None:
    """At exit: the memory goes by itself; nobody shall look for it here."""
    for store, _ in list(_stores.values()):
        if store.shared:
            meeting.leave(store.name)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for store, _ in _stores.values():
        store.renew_locks()


Finalize(None, _leave, exitpriority=0)  # in processes of multiprocessing, too, which have no atexit
os.register_at_fork(after_in_child=_after_fork)


def open_in_ram(wanted: Wanted) -> Store:
    """Of this node's processes, who find it by its name; where they cannot, this process's own. Raises ``OSError``."""
    meeting.tidy()
    with contextlib.suppress(OSError):
        return Store(wanted, meeting.join(wanted.name, lambda: _new_arena(wanted, shared=True)))
    return Store(wanted, _new_arena(wanted, shared=False))


def open_on_device(wanted: Wanted, pictures: PictureMemory) -> Store:
    """Pictures on the device, all else in this process's own memory. Raises ``OSError``."""
    arena = _new_arena(wanted, shared=False, only_rest=True)
    estimate = wanted.decoded_bytes
    fits = estimate is not None and estimate * _ESTIMATE <= pictures.capacity
    arena.head["decoded"] = fits or not wanted.tiles
    return Store(wanted, arena, pictures)


def _new_arena(wanted: Wanted, *, shared: bool, only_rest: bool = False) -> HostArena:
    nbytes = wanted.nbytes
    if nbytes is None or only_rest:
        nbytes = int(available_bytes() * RAM_SHARE)
    if not shared:  # each process of this node has one
        nbytes //= max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    first = HEAD_BYTES + wanted.rows * wanted.layout.entry.itemsize
    arena = (HostArena.new_shared if shared else HostArena.new_private)(wanted.name, first + nbytes, first)
    estimate = wanted.decoded_bytes
    fits = estimate is not None and estimate * _ESTIMATE <= nbytes
    arena.head["decoded"] = fits or not wanted.layout.encoded
    return arena
