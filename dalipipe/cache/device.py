"""Pictures in a CUDA device's memory."""

from __future__ import annotations

import numpy as np
import torch

from dalipipe.cache.arena import CHUNK_BYTES
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
