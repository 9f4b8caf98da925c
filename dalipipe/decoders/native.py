"""Decoding with dalipipe's own JPEG decoder, on the host: libjpeg-turbo's pixels to the bit, in less time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.decoders.base import DecodeError, Decoder
from dalipipe.decoders.pillow import decode_rgb
from dalipipe.records import Encoded, Pictures

_JPEG = native.IMAGE_KINDS.index("jpeg")
_OTHERS = sum(
    native.IMAGE_FLAGS[name] for name in "progressive lossless arithmetic hierarchical cmyk rgb unusual".split()
)


@dataclass
class _Flight:
    """A batch on its way: its regions' pixels at ``address`` uint64 [N] of ``memory``, but for the rows ``left`` to
    another decoder.
    """

    encoded: Encoded
    roi: np.ndarray
    memory: np.ndarray
    address: np.ndarray
    why_not: Future[list[str | None]]
    left: np.ndarray


class NativeDecoder:
    """A `Decoder` of baseline JPEGs, whole or in tiles, of which only those are read that a region needs. Its pictures
    are in host memory.

    ``make_other`` makes the decoder for all other kinds of picture, once one comes. What turns out to be damaged gets a
    second look by Pillow, which decodes what libjpeg would, or says what is wrong.
    """

    def __init__(self, make_other: Callable[[], Decoder], *, threads: int) -> None:
        self._make_other, self._threads = make_other, threads
        self._other: Decoder | None = None
        self._buffers = BufferPool()
        # One batch at a time, on native threads; this one waits for them meanwhile.
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="dalipipe-decode")
        self._in_flight: deque[_Flight] = deque()

    def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
        own = (headers["kind"] == _JPEG) & ((headers["flags"] & _OTHERS) == 0)
        left = np.flatnonzero(~own)
        if len(left):
            if self._other is None:
                self._other = self._make_other()
            self._other.submit(encoded.of(left), headers[left], roi[left])
        nbytes = np.where(own, roi[:, 2] * roi[:, 3] * 3, 0)
        starts = np.cumsum(nbytes) - nbytes
        memory = self._buffers.take(int(nbytes.sum()))
        address = np.where(own, memory.ctypes.data + starts, 0).astype(np.uint64)
        why_not = self._runner.submit(
            native.read_jpegs, encoded.arena, encoded.starts, roi, address, threads=self._threads
        )
        self._in_flight.append(_Flight(encoded, roi, memory, address, why_not, left))

    def collect(self) -> tuple[Pictures, dict[int, Exception]]:
        flight = self._in_flight.popleft()
        errors: dict[int, Exception] = {}
        address, row_bytes = flight.address.copy(), flight.roi[:, 3].astype(np.int64) * 3
        owners: list[object] = [flight.memory]
        if len(flight.left):
            assert self._other is not None
            pictures, found = self._other.collect()
            address[flight.left], row_bytes[flight.left] = pictures.address, pictures.row_bytes
            errors |= {int(flight.left[row]): error for row, error in found.items()}
            owners.append(pictures.owner)
        for row, reason in enumerate(flight.why_not.result()):
            if reason is None or not flight.address[row]:
                continue
            try:
                pixels = decode_rgb(flight.encoded[row], flight.roi[row])
            except DecodeError as error:
                errors[row] = error
                pixels = np.zeros((*flight.roi[row, 2:].tolist(), 3), np.uint8)
            address[row] = pixels.ctypes.data
            owners.append(pixels)
        pictures = Pictures(
            address=address,
            row_bytes=row_bytes,
            size_px=flight.roi[:, 2:].astype(np.int32),
            origin_px=flight.roi[:, :2].astype(np.int32),
            channels=3,
            owner=owners,
        )
        return pictures, errors

    def reset(self) -> None:
        while self._in_flight:
            flight = self._in_flight.popleft()
            if not flight.why_not.cancel():
                flight.why_not.result()  # it writes into memory that is given back
        if self._other is not None:
            self._other.reset()

    def close(self) -> None:
        self.reset()
        if self._other is not None:
            self._other.close()
        self._runner.shutdown(wait=True)
        self._buffers.close()
