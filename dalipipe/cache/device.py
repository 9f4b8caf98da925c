"""Pictures in a CUDA device's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dalipipe.cache.arena import CHUNK_BYTES
from dalipipe.cache.layout import dense_pictures, picture_bytes
from dalipipe.records import Pictures

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
                shape = (h, w, pictures.channels)
                _on_cuda(to, shape, self.owner).copy_(_as_tensor(pictures, row), non_blocking=True)
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


def download(pictures: Pictures) -> Pictures:
    """A device's pictures in host memory."""
    nbytes = picture_bytes(pictures)
    starts = np.cumsum(nbytes) - nbytes
    memory = np.empty(int(nbytes.sum()), np.uint8)
    host = torch.from_numpy(memory)
    for row, (start, size) in enumerate(zip(starts.tolist(), nbytes.tolist(), strict=True)):
        host[start : start + size] = _as_tensor(pictures, row).reshape(-1).cpu()
    address = (memory.ctypes.data + starts).astype(np.uint64)
    return dense_pictures(address, pictures.size_px, pictures.channels, memory)


def _as_tensor(pictures: Pictures, row: int) -> torch.Tensor:
    """One picture, uint8 [H, W, C], where it is; on a device its rows must be dense."""
    if not pictures.on_cuda:
        return torch.from_numpy(np.array(pictures[row]))
    h, w = pictures.size_px[row].tolist()
    return _on_cuda(int(pictures.address[row]), (h, w, pictures.channels), pictures.owner)


def _on_cuda(address: int, shape: tuple[int, ...], owner: Any) -> torch.Tensor:
    """A view of a device's memory."""
    interface = {"data": (address, False), "shape": shape, "typestr": "|u1", "version": 3, "strides": None}
    view = type("_View", (), {"__cuda_array_interface__": interface, "owner": owner})()
    return torch.as_tensor(view, device="cuda")
