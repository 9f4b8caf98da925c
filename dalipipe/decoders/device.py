"""Decoding on a CUDA device with dalipipe's own decoder: JPEGs of tiles, a thread for each tile.

Only the tiles under a region, and those beside it that its chroma needs, are uploaded, a batch's in one copy; or all
lie there already (`records.Tiles`). Pixels are libjpeg-turbo's to the bit, as on the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.decoders.base import DecodeError, Decoder
from dalipipe.decoders.pillow import decode_rgb
from dalipipe.queues import Queue
from dalipipe.records import Encoded, Pictures, Tiles


@dataclass
class _Queued:
    """What `TileDecoder` has on the device: N pictures there, and what must stay until ``wait`` returns."""

    pictures: Pictures
    pixels: torch.Tensor
    pinned: torch.Tensor
    wait: Callable[[], Any]
    held: Any


class TileDecoder:
    """Decodes regions of stripped JPEGs, batches in the order they were submitted."""

    def __init__(self, queue: Queue, *, threads: int) -> None:
        self._queue, self._threads = queue, threads
        # What is written for the device, on native threads, while the caller reads and draws the next batch.
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="dalipipe-decode")
        self._in_flight: deque[Future[_Queued]] = deque()

    def submit(self, tiles: Tiles, roi: np.ndarray) -> None:
        """JPEGs that lie on the device, and their regions int64 [N, 4] as y, x, h, w."""
        regions = np.ascontiguousarray(roi, np.int32)
        self._in_flight.append(self._runner.submit(self._start, tiles, regions, None))

    def submit_stripped(self, stripped: native.Stripped, rows: np.ndarray, roi: np.ndarray) -> None:
        """``rows`` int64 [N ≥ 1] of files in host memory, such as can be stripped, and their regions int64 [N, 4]."""
        nbytes = stripped.nbytes[rows]
        starts = self._queue.upload_bytes(len(rows)) + np.cumsum(nbytes) - nbytes

        def write(pinned: torch.Tensor) -> None:
            where = np.zeros(len(stripped.nbytes), np.uint64)
            where[rows] = pinned.data_ptr() + starts
            stripped.write(where, threads=self._threads)

        tiles = Tiles(starts.astype(np.uint64), stripped.shapes[rows], stripped)
        regions, size = np.ascontiguousarray(roi, np.int32), int(starts[-1] + nbytes[-1])
        self._in_flight.append(self._runner.submit(self._start, tiles, regions, (size, write)))

    def collect(self) -> tuple[Pictures, np.ndarray]:
        """The oldest batch: N regions, RGB, and int64: the rows that are damaged, whose pixels mean nothing."""
        queued = self._in_flight.popleft().result()
        queued.wait()
        damaged = np.flatnonzero(queued.pinned[: 4 * len(queued.pictures)].numpy().view(np.int32))
        self._queue.lend(queued.pixels)
        return queued.pictures, damaged

    def reset(self) -> None:
        """Forgets what is in flight, when it is done: the device reads from its memory."""
        while self._in_flight:
            future = self._in_flight.popleft()
            if not future.cancel() and future.exception() is None:
                future.result().wait()

    def close(self) -> None:
        self.reset()
        self._runner.shutdown(wait=True)

    def _start(
        self, tiles: Tiles, regions: np.ndarray, write: tuple[int, Callable[[torch.Tensor], None]] | None
    ) -> _Queued:
        """``write``: bytes of the upload, and what puts the JPEGs in it; their addresses count from its beginning."""
        queue, n = self._queue, len(tiles)
        size = queue.upload_bytes(n) if write is None else write[0]
        pinned, uploaded = queue.pinned(size), queue.empty(size)
        address = tiles.address
        if write is not None:
            write[1](pinned)
            address = address + np.uint64(uploaded.data_ptr())
        sizes = regions[:, 2:].copy()
        row_bytes = native.rgb_row_bytes(sizes[:, 1])
        nbytes = sizes[:, 0] * row_bytes
        pixels = queue.empty(int(nbytes.sum()))
        out = (pixels.data_ptr() + np.cumsum(nbytes) - nbytes).astype(np.uint64)
        queue.decode_tiles(address, tiles.shape, regions, out, upload=uploaded, pinned=pinned)
        pictures = Pictures(out, row_bytes, sizes, regions[:, :2].copy(), 3, pixels, queue.on_cuda)
        return _Queued(pictures, pixels, pinned, queue.mark(), (uploaded, tiles))


@dataclass
class _Flight:
    """A batch on its way: the rows that are decoded here, those ``left`` to another decoder, and the ``odd`` ones, of
    tiles that cannot be stripped.
    """

    encoded: Encoded
    roi: np.ndarray
    own: np.ndarray
    left: np.ndarray
    odd: list[int]


class DeviceDecoder:
    """A `Decoder` of JPEGs of tiles whose pictures are on the device.

    ``make_other`` makes the decoder for all other pictures, once one comes. What turns out to be damaged gets a second
    look by Pillow, which decodes what libjpeg would, or says what is wrong.
    """

    def __init__(self, queue: Queue, make_other: Callable[[], Decoder], *, threads: int) -> None:
        self._queue, self._make_other, self._threads = queue, make_other, threads
        self._tiles = TileDecoder(queue, threads=threads)
        self._other: Decoder | None = None
        self._in_flight: deque[_Flight] = deque()

    def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
        n = len(encoded)
        stripped = native.Stripped(encoded.arena, encoded.starts, roi, threads=self._threads)
        mine = np.ones(n, bool)
        others = np.zeros(n, bool)
        for row, tiled, _reason in stripped.refused:  # Pillow says what is wrong with damaged tiles
            mine[row], others[row] = False, not tiled
        own, left = np.flatnonzero(mine), np.flatnonzero(others)
        odd = np.flatnonzero(~mine & ~others).tolist()
        if len(left):
            if self._other is None:
                self._other = self._make_other()
            self._other.submit(encoded if len(left) == n else encoded.of(left), headers[left], roi[left])
        if len(own):
            self._tiles.submit_stripped(stripped, own, roi[own])
        self._in_flight.append(_Flight(encoded, roi, own, left, odd))

    def collect(self) -> tuple[Pictures, dict[int, Exception]]:
        flight = self._in_flight.popleft()
        n, errors = len(flight.encoded), {}
        parts: list[tuple[np.ndarray, Pictures]] = []
        again = list(flight.odd)
        if len(flight.left):
            assert self._other is not None
            pictures, found = self._other.collect()
            parts.append((flight.left, self._here(pictures)))
            errors = {int(flight.left[row]): error for row, error in found.items()}
        if len(flight.own):
            pictures, damaged = self._tiles.collect()
            parts.append((flight.own, pictures))
            again += flight.own[damaged].tolist()
        if again:
            parts.append((np.array(again), self._by_pillow(flight, again, errors)))
        return (parts[0][1] if len(parts) == 1 else Pictures.join(n, parts)), errors

    def reset(self) -> None:
        self._in_flight.clear()
        self._tiles.reset()
        if self._other is not None:
            self._other.reset()

    def close(self) -> None:
        self._in_flight.clear()
        self._tiles.close()
        if self._other is not None:
            self._other.close()

    def _here(self, pictures: Pictures) -> Pictures:
        if pictures.on_cuda == self._queue.on_cuda:
            return pictures
        return self._queue.upload(pictures, self._threads)

    def _by_pillow(self, flight: _Flight, rows: list[int], errors: dict[int, Exception]) -> Pictures:
        regions = []
        for row in rows:
            try:
                regions.append(decode_rgb(flight.encoded[row], flight.roi[row]))
            except DecodeError as error:
                errors[row] = error
                regions.append(np.zeros((*flight.roi[row, 2:].tolist(), 3), np.uint8))
        return self._here(Pictures.from_arrays(regions, flight.roi[rows, :2].astype(np.int32)))
