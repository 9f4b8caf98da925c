"""A CUDA device as decoding sees it: memory, and work that is queued and done in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from dalipipe import native
from dalipipe.records import Pictures
from dalipipe.transfers import on_cuda, stream_for, upload


class Queue(Protocol):
    """A device, and what has been queued on it."""

    on_cuda: bool

    def empty(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes] on the device; from a multiple of 16 on."""
        ...

    def pinned(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes] on the host, which the device copies from and to."""
        ...

    def upload_bytes(self, n: int) -> int:
        """`native.decode_tiles_upload_bytes`."""
        ...

    def decode_tiles(
        self,
        jpegs: np.ndarray,
        shapes: np.ndarray,
        regions: np.ndarray,
        out: np.ndarray | None,
        *,
        upload: torch.Tensor,
        pinned: torch.Tensor,
    ) -> None:
        """Queues `native.decode_tiles`."""
        ...

    def copy(self, pinned: torch.Tensor, address: int) -> None:
        """Queues a copy of all of ``pinned`` to the device."""
        ...

    def mark(self) -> Callable[[], Any]:
        """What waits until all that has been queued so far is done."""
        ...

    def follow(self) -> None:
        """What is queued from now on waits for what the stream that is current here has been given."""
        ...

    def lend(self, memory: torch.Tensor) -> None:
        """``memory`` is about to be read on the stream that is current here."""
        ...

    def upload(self, pictures: Pictures, threads: int) -> Pictures:
        """Host pictures → the device, on the stream that is current here."""
        ...


class CudaQueue:
    """A `Queue` on a stream of its own."""

    on_cuda = True

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, stream_for(self, device)

    def empty(self, nbytes: int) -> torch.Tensor:
        with torch.cuda.stream(self._stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def pinned(self, nbytes: int) -> torch.Tensor:
        with torch.cuda.device(self._device):  # in another thread it would be the first device's
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def upload_bytes(self, n: int) -> int:
        return native.decode_tiles_upload_bytes(n)

    def decode_tiles(self, *arguments: Any, **options: Any) -> None:
        native.decode_tiles(*arguments, **options, stream=self._stream.cuda_stream)

    def copy(self, pinned: torch.Tensor, address: int) -> None:
        with torch.cuda.stream(self._stream):
            on_cuda(address, (pinned.numel(),), None).copy_(pinned, non_blocking=True)

    def mark(self) -> Callable[[], Any]:
        event = torch.cuda.Event()
        event.record(self._stream)
        return event.synchronize

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def lend(self, memory: torch.Tensor) -> None:
        memory.record_stream(torch.cuda.current_stream(self._device))

    def upload(self, pictures: Pictures, threads: int) -> Pictures:
        return upload(pictures, self._device, threads=threads)


def queue_of(device: torch.device) -> Queue:
    """A new one."""
    return CudaQueue(device)
