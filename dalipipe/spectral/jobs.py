"""Rows go by in chunks, on threads of the host or on a CUDA device."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.records import Signals

_CHUNK_BYTES = 2 << 20  # of frames and spectra on the host: about what a core's cache holds
_CUDA_CHUNK_BYTES = 512 << 20


@dataclass(frozen=True)
class Chunk:
    """Some of a job's rows, whose places are counted from its first."""

    rows: np.ndarray
    device_rows: int
    scratch: Callable[[int], torch.Tensor]

    def place(self, at: str, count: str) -> int:
        """Where the last row's end."""
        return int(self.rows[at][-1]) + int(self.rows[count][-1])

    def memory(self, floats: int) -> torch.Tensor:
        """float32 [floats], uninitialised, another each time until the chunk is done."""
        return self.scratch(floats)


class Job:
    """One call: where it works, and what it needs there."""

    def __init__(self, what: str, on_cuda: bool, threads: int) -> None:
        native.check_threads(what, threads)
        self.on_cuda, self.threads = on_cuda, threads
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
        self.stream = torch.cuda.current_stream(self.device).cuda_stream if on_cuda else None

    def upload(self, array: np.ndarray) -> torch.Tensor:
        """The array's bytes where the job works."""
        tensor = torch.from_numpy(array if array.dtype == np.float32 else array.view(np.uint8))
        return tensor.to(self.device)

    def results(
        self, frames: np.ndarray, channels: int, rate_hz: np.ndarray | None, buffers: BufferPool | None
    ) -> Signals:
        """Memory for signals, planar, each at a multiple of 64 bytes."""
        frames = np.asarray(frames, np.int64)
        sizes = (frames * channels + 15) // 16 * 16
        starts = np.cumsum(sizes) - sizes
        total = int(sizes.sum())
        owner: Any
        if self.on_cuda:
            owner = torch.empty(total, dtype=torch.float32, device=self.device)
            base = owner.data_ptr()
        else:
            owner = np.empty(total, np.float32) if buffers is None else buffers.take(4 * total)
            base = owner.ctypes.data
        return Signals(
            address=(base + 4 * starts).astype(np.uint64),
            frames=frames.astype(np.int32),
            frame_step=np.ones(len(frames), np.int64),
            channel_step=frames,
            channels=channels,
            owner=owner,
            rate_hz=rate_hz,
            on_cuda=self.on_cuda,
        )

    def run(self, step: str, chunk: Chunk, *, threads: int = 1, **params: Any) -> None:
        given: dict[str, Any] = {}
        for name, value in params.items():
            if name == "bands":
                given["bands"], given["device_bands"] = value[0], value[1].data_ptr()
            elif name in ("source", "target", "tables"):
                given[name] = value.data_ptr()
                floats = value.numel() * value.element_size() // 4
                given["table_floats" if name == "tables" else f"{name}_floats"] = floats
            else:
                given[name] = value.data_ptr() if name == "window" else value
        prepared = native.spectral_params(chunk.rows, device_rows=chunk.device_rows, **given)
        native.spectral_step(step, prepared, threads=threads, stream=self.stream)

    def at_once(self, rows: np.ndarray, work: Callable[[Chunk], None]) -> None:
        """A step without transforms: native threads share out the rows."""
        if len(rows):
            on_device = self.upload(rows) if self.on_cuda else None
            work(Chunk(rows, 0 if on_device is None else on_device.data_ptr(), self._no_scratch))

    def in_chunks(self, rows: np.ndarray, work: Callable[[Chunk], None], nbytes: np.ndarray) -> None:
        """Calls work with the rows, as many at a time as ``nbytes`` [rows] allow."""
        if len(rows) == 0:
            return
        nbytes = np.asarray(nbytes, np.int64)
        begins = np.cumsum(nbytes) - nbytes
        number = begins // (_CUDA_CHUNK_BYTES if self.on_cuda else _CHUNK_BYTES)
        first = np.flatnonzero(np.diff(number, prepend=-1))
        bounds = [*first.tolist(), len(rows)]
        for at, count in (("analysed_at", "analysed"), ("made_at", "made"), ("stretched_at", "stretched_frames")):
            before = np.cumsum(rows[count], dtype=np.int64) - rows[count]
            rows[at] = before - np.repeat(before[first], np.diff(bounds))
        on_device = self.upload(rows) if self.on_cuda else None
        size = native.SPECTRAL_ROW.itemsize

        def take(numbers: Iterator[int]) -> None:
            scratch = _Scratch(self.device)
            for i in numbers:
                if i >= len(first):
                    break
                address = 0 if on_device is None else on_device.data_ptr() + bounds[i] * size
                scratch.begin()
                work(Chunk(rows[bounds[i] : bounds[i + 1]], address, scratch.take))

        _share_out(take, 1 if self.on_cuda else min(self.threads, len(first)))

    @staticmethod
    def _no_scratch(floats: int) -> torch.Tensor:
        raise AssertionError("a step without transforms needs no memory")


class _Scratch:
    """A thread's memory on the host, used again from chunk to chunk; on CUDA, torch's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: list[torch.Tensor] = []
        self._taken = 0

    def begin(self) -> None:
        self._taken = 0

    def take(self, floats: int) -> torch.Tensor:
        if self._device.type == "cuda":
            return torch.empty(floats, dtype=torch.float32, device=self._device)
        at = self._taken
        self._taken += 1
        if at == len(self._blocks):
            self._blocks.append(torch.empty(0))
        if self._blocks[at].numel() < floats:
            self._blocks[at] = torch.empty(floats + floats // 4)
        return self._blocks[at][:floats]


def _share_out(take: Callable[[Iterator[int]], None], threads: int) -> None:
    """Calls take in so many threads, this one among them, with numbers that they share."""
    numbers = itertools.count()  # its next() is one step of the interpreter's
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with _one_mkl_thread():
                take(numbers)
        except BaseException as error:
            errors.append(error)

    helpers = [threading.Thread(target=run, name="dalipipe-spectral", daemon=True) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    run()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


@lru_cache(maxsize=1)
def _mkl_threads() -> Callable[[int], int]:
    """MKL's own function for the threads it uses in calls from one thread; nothing where torch comes without it."""
    libraries = list((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    try:
        found = ctypes.PyDLL(str(libraries[0])).MKL_Set_Num_Threads_Local
    except (IndexError, OSError, AttributeError):
        return lambda threads: 0
    found.argtypes, found.restype = [ctypes.c_int], ctypes.c_int
    return found


@contextmanager
def _one_mkl_thread() -> Iterator[None]:
    before = _mkl_threads()(1)
    try:
        yield
    finally:
        _mkl_threads()(before)
