"""Pictures in a CUDA device's memory, as pixels or as stripped JPEGs."""

from __future__ import annotations

import numpy as np
import torch

from dalipipe.cache.arena import CHUNK_BYTES
from dalipipe.native import Stripped
from dalipipe.queues import Queue, queue_of
from dalipipe.records import Pictures
from dalipipe.transfers import as_tensor, on_cuda

DEVICE_SHARE = 0.25
"""Of the memory that is free on the device when a cache is opened: what it may take by default. The model and its
optimizer may yet come.
"""


class DeviceMemory:
    """A `store.PictureMemory` of chunks that torch allocates. ``nbytes``: ``None``: a share of what is free."""

    def __init__(self, device: torch.device, nbytes: int | None) -> None:
        self._device = device
        self.capacity = int(torch.cuda.mem_get_info(device)[0] * DEVICE_SHARE) if nbytes is None else nbytes
        self.owner: list[torch.Tensor] = []
        self.used_bytes = self._chunks_bytes = 0
        self._free_from = self._free_to = 0  # in the last chunk, as addresses
        self._queue: Queue | None = None

    def claim(self, nbytes: np.ndarray) -> np.ndarray:
        addresses = []
        for size in nbytes.tolist():
            if self._free_to - self._free_from < size and not self._add_chunk(size):
                break
            addresses.append(self._free_from)
            self._free_from += size
            self.used_bytes += size
        return np.array(addresses, np.int64)

    def write(self, pictures: Pictures, address: np.ndarray) -> None:
        with torch.cuda.device(self._device):
            for row, to in enumerate(address.tolist()):
                h, w = pictures.size_px[row].tolist()
                place = on_cuda(to, (h, w, pictures.channels), self.owner)
                place.copy_(as_tensor(pictures, row), non_blocking=True)
            torch.cuda.current_stream().synchronize()  # other lanes read on streams of their own

    def write_tiles(self, files: Stripped, rows: np.ndarray, address: np.ndarray, *, threads: int) -> np.ndarray:
        if self._queue is None:
            self._queue = queue_of(self._device)
        queue, n = self._queue, len(rows)
        nbytes = files.nbytes[rows]
        starts = np.cumsum(nbytes) - nbytes
        staged = queue.pinned(int(nbytes.sum()))
        to = np.zeros(len(files.nbytes), np.uint64)
        to[rows] = staged.data_ptr() + starts
        files.write(to, threads=threads)
        queue.follow()  # who had the memory before may be at work there
        # What was claimed together lies together, but for the end of a chunk.
        first = np.flatnonzero(np.concatenate([[True], address[1:] != address[:-1] + nbytes[:-1]]))
        for begin, end in zip(first.tolist(), [*first[1:].tolist(), n], strict=True):
            size = int(nbytes[begin:end].sum())
            queue.copy(staged[starts[begin] : starts[begin] + size], int(address[begin]))
        # All of it is looked through once, as the file it came from will not be at hand when a crop meets damage.
        shapes = files.shapes[rows]
        whole = np.zeros((n, 4), np.int32)
        whole[:, 2], whole[:, 3] = shapes["height"], shapes["width"]
        size = queue.upload_bytes(n)
        uploaded, pinned = queue.empty(size), queue.pinned(size)
        queue.decode_tiles(address.astype(np.uint64), shapes, whole, None, upload=uploaded, pinned=pinned)
        queue.mark()()
        return pinned[: 4 * n].numpy().view(np.int32) == 0

    def _add_chunk(self, least: int) -> bool:
        size = min(max(CHUNK_BYTES, least), self.capacity - self._chunks_bytes)
        if size < least:
            return False
        try:
            chunk = torch.empty(size, dtype=torch.uint8, device=self._device)
        except torch.cuda.OutOfMemoryError:
            return False
        self.owner.append(chunk)
        self._chunks_bytes += size
        self._free_from, self._free_to = chunk.data_ptr(), chunk.data_ptr() + size
        return True
