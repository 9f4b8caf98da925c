"""JPEGs that are grids of tiles, cut before they are decoded: a decoder then sees no more than what a crop needs."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.decoders.base import Decoder
from dalipipe.records import Encoded, Pictures

_RESTARTS = native.IMAGE_FLAGS["restarts"]


def kept_shares(encoded: Encoded, roi: np.ndarray, *, threads: int) -> tuple[int, float, float]:
    """Of pictures that are grids of tiles: how many there are, and the share of their tiles (so of their MCUs), and of
    their bytes, that the regions int64 [N, 4] need; 0 where there are none.
    """
    cuts = native.cut_jpegs(encoded.arena, encoded.starts, roi, np.empty_like(encoded.arena), threads=threads)
    tiled = cuts["of_tiles"] > 0
    count = int(tiled.sum())
    if not count:
        return 0, 0.0, 0.0
    nbytes = np.diff(encoded.starts)[tiled]
    return (
        count,
        float(cuts["tiles"][tiled].sum() / cuts["of_tiles"][tiled].sum()),
        float(cuts["bytes"][tiled].sum() / nbytes.sum()),
    )


class TileCutter:
    """A `Decoder` that hands another one what is left of the pictures when the tiles beside their regions are cut off.

    The pixels are the same to the bit; other pictures pass untouched.
    """

    def __init__(self, decoder: Decoder, *, threads: int) -> None:
        self._decoder, self._threads = decoder, threads
        self._buffers = BufferPool()
        self._corners: deque[np.ndarray | None] = deque()  # int32 [N, 2] of what was cut out, in the whole pictures

    def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
        if not (headers["flags"] & _RESTARTS).any():
            self._decoder.submit(encoded, headers, roi)
            self._corners.append(None)
            return
        arena = self._buffers.take(int(encoded.starts[-1]))
        cuts = native.cut_jpegs(encoded.arena, encoded.starts, roi, arena, threads=self._threads)
        starts = native.pack_ranges(arena, encoded.starts[:-1], cuts["bytes"], arena)
        corners = np.stack([cuts["y"], cuts["x"]], axis=1)
        within = np.concatenate([roi[:, :2] - corners, roi[:, 2:]], axis=1)
        self._decoder.submit(Encoded(arena, starts), headers, within)
        self._corners.append(corners)

    def collect(self) -> tuple[Pictures, dict[int, Exception]]:
        corners = self._corners.popleft()
        pictures, errors = self._decoder.collect()
        if corners is not None:
            pictures = replace(pictures, origin_px=pictures.origin_px + corners)
        return pictures, errors

    def reset(self) -> None:
        self._corners.clear()
        self._decoder.reset()

    def close(self) -> None:
        self._corners.clear()
        self._decoder.close()
        self._buffers.close()
