"""What stands before a source and keeps what comes out of it."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.cache import store as stores
from dalipipe.cache.layout import Layout, UnlikeError, join
from dalipipe.cache.settings import CacheSettings
from dalipipe.cache.store import Store, Wanted
from dalipipe.records import Encoded, PartlyEncoded, Pictures, Tiles
from dalipipe.sizes import format_bytes
from dalipipe.sources.base import Source, digest
from dalipipe.sources.contents import content_of, evenly
from dalipipe.transfers import upload

_LOOKED_AT = 64  # samples, to know what they are like, how large, and whose they are
_VERSION = 1  # of how samples are kept: processes of different versions do not share


@dataclass
class Reading:
    """A batch read through a cache. ``columns`` and ``errors`` are as in `Records`, but the pictures may also be
    `PartlyEncoded`. Call `keep` when the whole batch has turned out to be good.
    """

    columns: dict[str, Any]
    errors: dict[int, Exception]
    _store: Store | None = None
    _rows: np.ndarray | None = None
    _read: dict[str, Any] | None = None
    _threads: int = 1

    def keep(self) -> None:
        """Puts what was read into the cache."""
        if self._store is None or self._rows is None or self._read is None:
            return
        column = self._read[self._store.layout.picture]
        if isinstance(column, Encoded) and self._store.decoded:
            return  # they were not decoded after all
        with contextlib.suppress(OSError):  # of locks; it costs no more than the keeping
            self._store.put(self._rows, self._read, threads=self._threads)

    def take(self, pictures: Pictures) -> None:
        """What was read encoded, decoded."""
        assert self._store is not None and self._read is not None
        self._read = {**self._read, self._store.layout.picture: pictures}


class SampleCache:
    """Samples of a source, kept as far as memory goes; opened when first read from.

    ``picture``: the field that the policy applies to, and for which all this is done. ``decoder``: what decodes it, by
    name; ``device``: what its pixels come out on. On a CUDA device, JPEGs of tiles whose pixels are too many are kept
    stripped, where the native decoder is to decode them.
    """

    def __init__(
        self, settings: CacheSettings, source: Source, picture: str, decoder: str, device: torch.device
    ) -> None:
        self._settings, self._source, self._picture = settings, source, picture
        self._decoder, self._device = decoder, device
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._release: Any = None

    @property
    def _on_device(self) -> bool:
        return self._settings.place == "device" and self._device.type == "cuda"

    @property
    def _decodes_tiles(self) -> bool:
        return self._on_device and self._decoder == "native"

    @property
    def useless(self) -> bool:
        """Whether the source's pictures are in the memory in question already."""
        return self._source.in_memory and not self._on_device

    def read(self, rows: np.ndarray, *, threads: int, allocate: Any) -> Reading:
        """Rows int64 [n] of the source: what is kept from the cache, the others from the source."""
        n, source = len(rows), self._source
        store = None if self.useless else self._opened(threads)
        if store is None:
            records = source.read(rows, threads=threads, allocate=allocate)
            return Reading(dict(records.columns), records.errors)
        entries, there = store.find(rows)
        missing = np.flatnonzero(~there)
        columns: dict[str, Any] = {}
        if len(missing) < n:
            entries = entries[there]
            columns = store.rest_of(entries, allocate=allocate, threads=threads)
            columns[self._picture] = store.picture_of(rows[there], entries, allocate=allocate, threads=threads)
            if not len(missing):
                return Reading(columns, {})
        records = source.read(rows[missing], threads=threads, allocate=allocate)
        if records.errors:
            return Reading({}, {int(missing[row]): error for row, error in records.errors.items()})
        try:
            store.layout.check(records.columns)
        except UnlikeError:  # so they cannot be laid beside what is kept
            if columns:
                records = source.read(rows, threads=threads, allocate=allocate)
            return Reading(dict(records.columns), records.errors)
        reading = Reading(dict(records.columns), {})
        if not store.full:
            reading = Reading(reading.columns, {}, store, rows[missing], dict(records.columns), threads)
        reading.columns = self._joined(n, missing, columns, reading, allocate=allocate, threads=threads)
        return reading

    def _joined(
        self, n: int, missing: np.ndarray, kept: dict[str, Any], reading: Reading, *, allocate: Any, threads: int
    ) -> dict[str, Any]:
        """The columns of a whole batch."""
        columns = dict(reading.columns)
        for name, column in kept.items():
            if name != self._picture:
                columns[name] = join(n, columns[name], missing, column, allocate=allocate, threads=threads)
        read, pictures = columns[self._picture], kept.get(self._picture)
        store = reading._store
        decoded = store is not None and store.decoded
        if isinstance(read, Encoded) and (isinstance(pictures, Pictures | Tiles) or decoded):
            columns[self._picture] = PartlyEncoded(pictures, read, missing, reading.take if decoded else None)
        elif pictures is not None:
            if isinstance(read, Pictures) and isinstance(pictures, Pictures) and pictures.on_cuda:
                read = upload(read, self._device, threads=threads)
                torch.cuda.current_stream(self._device).synchronize()  # it is used on another one
            columns[self._picture] = join(n, read, missing, pictures, allocate=allocate, threads=threads)
        return columns

    def describe(self, threads: int = 1) -> str:
        """A line for people."""
        line = f"cache: {self._settings.place}"
        if self.useless:
            return f"{line}, not needed: the pictures are in memory, or mapped, already"
        store = self._opened(threads)
        if store is None:
            return f"{line}, none: there is no memory for it, or no sample to be seen"
        kept, whole = f"{store.kept:,} of {store.rows:,} samples", format_bytes(store.capacity)
        form = "decoded" if store.decoded else "encoded"
        shared = ", shared by this node's processes" if store.shared else ""
        return f"{line}, {form}, {kept}, {format_bytes(store.used_bytes)} of {whole}{shared}"

    @property
    def kept(self) -> tuple[int, int]:
        """Samples and bytes, as far as it has been opened."""
        store = self._store
        return (0, 0) if store is None else (store.kept, store.used_bytes)

    @property
    def share(self) -> float:
        """Of the samples, for how many there is memory, [0, 1]; told from those that are kept."""
        store = self._store
        if store is None or not store.kept:
            return 0.0
        return min(1.0, store.capacity / (store.used_bytes / store.kept * store.rows))

    def close(self) -> None:
        """Frees what nobody else uses; reading again opens it anew."""
        with self._lock:
            release, self._release, self._store = self._release, None, None
        if release is not None:
            release()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_store", "_release")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _store=None, _release=None)

    def _opened(self, threads: int) -> Store | None:
        if self._release is None:
            wanted = self._wanted(threads)  # it reads, so it may hang: no lock is held
            with self._lock:
                if self._release is None:
                    self._open(wanted)
        return self._store

    def _open(self, wanted: Wanted | None) -> None:
        if wanted is None:
            self._release = _nothing
            return
        if self._on_device:
            from dalipipe.cache.device import DeviceMemory

            device = self._device
            key = f"{device}-{wanted.name}"

            def make() -> Store:
                return stores.open_on_device(wanted, DeviceMemory(device, wanted.nbytes))
        else:
            key = wanted.name

            def make() -> Store:
                return stores.open_in_ram(wanted)

        try:
            self._store = stores.acquire(key, make)
        except OSError:  # not even the index can be had: everything is read as without a cache
            self._release = _nothing
            return
        self._release = weakref.finalize(self, stores.release, key)
        self._release.atexit = False

    def _wanted(self, threads: int) -> Wanted | None:
        """From some of the samples. Their bytes are part of the name: data sets that go by one name may differ."""
        source = self._source
        total = len(source) * source.copies
        rows = evenly(total, _LOOKED_AT)
        records = source.read(rows, threads=threads)
        good = np.array([row for row in range(len(rows)) if row not in records.errors], np.int64)
        if not len(good):
            return None
        layout = Layout.of(records.columns, self._picture)
        column: Any = records.columns[self._picture]
        size = column.size_px if isinstance(column, Pictures) else _sizes(column, threads)
        pixels = size.astype(np.int64).prod(axis=1)[good]
        pixels = pixels[pixels > 0]
        settings = self._settings
        parts = [repr((_VERSION, layout, total, settings, self._decoder, self._device.type)), source.fingerprint()]
        parts += [os.path.abspath(source.describe(int(row) % len(source))) for row in (rows[0], rows[-1])]
        content = [content_of(records.columns, int(row)) for row in good.tolist()]
        return Wanted(
            digest([*(part.encode("utf-8", "surrogateescape") for part in parts), *content]),
            layout,
            total,
            settings.nbytes,
            float(pixels.mean()) * layout.channels * total if len(pixels) else None,
            self._decodes_tiles and isinstance(column, Encoded) and _are_tiles(column, good, threads),
        )


def _nothing() -> None:
    """Where nothing is to be given back."""


def _sizes(files: Encoded, threads: int) -> np.ndarray:
    """int64 [n, 2]; 0 where the header is of a kind that is not read natively."""
    headers = native.probe_images(files.arena, files.starts, threads=threads)
    return np.stack([headers["height"], headers["width"]], axis=1).astype(np.int64).clip(0)


def _are_tiles(files: Encoded, rows: np.ndarray, threads: int) -> bool:
    return bool(native.Stripped(files.arena, files.starts, None, threads=threads).nbytes[rows].all())
