"""Where GPU benchmarks run: on a CUDA device, or, in a dry run, on the host in its place, so that they do not rot
where there is no GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dalipipe.queues import CudaQueue, Queue


class Device:
    """The current CUDA device. ``rounds``: interleaved ones, of contenders."""

    dry_run = False
    buffer_bytes = 1 << 30
    """Of what copies are timed with."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.device = torch.device("cuda", torch.cuda.current_device())

    def queue(self) -> Queue:
        """A new one for a decoder."""
        return CudaQueue(self.device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def finish(self) -> None:
        """Waits for the current stream alone: others may be at work on what comes next."""
        torch.cuda.current_stream(self.device).synchronize()

    def ms(self, work: Callable[[], Any], repeats: int = 30) -> float:
        """Median milliseconds of device time between two events around ``work``."""
        times = []
        for _ in range(repeats + 5):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        return statistics.median(times[5:])

    def kernels_us(self, work: Callable[[], Any], repeats: int = 20) -> dict[str, float]:
        """Microseconds that a call of ``work`` keeps the device busy, by the name of what it runs there: kernels
        alone, as a profiler sees them. Empty where it sees none.
        """
        from torch.profiler import ProfilerActivity, profile, supported_activities

        work()
        seen = ProfilerActivity.CUDA in supported_activities()
        activity = ProfilerActivity.CUDA if seen else ProfilerActivity.CPU
        with profile(activities=[activity]) as recorded:
            for _ in range(repeats):
                work()
            self.synchronize()
        events = recorded.key_averages()
        return {e.key: e.device_time_total / repeats for e in events if e.device_time_total > 0}

    def copy_gb_per_s(self) -> float:
        """A copy within the device, bytes read and written counted."""
        source = torch.randint(0, 256, (self.buffer_bytes,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / self.ms(lambda: target.copy_(source)) / 1e6

    def upload_gb_per_s(self) -> float:
        """A copy from pinned memory of the host."""
        source = torch.zeros(self.buffer_bytes // 4, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        target = torch.empty_like(source, device=self.device)
        return source.numel() / self.ms(lambda: target.copy_(source, non_blocking=True)) / 1e6


class Host(Device):
    """The host, as if it were one. Its ``queue`` decodes by the kernels of csrc/cuda compiled for it."""

    dry_run = True
    buffer_bytes = 1 << 20

    def __init__(self, queue: Queue) -> None:
        self.rounds, self.device, self._queue = 1, torch.device("cpu"), queue

    def queue(self) -> Queue:
        return self._queue

    def synchronize(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def ms(self, work: Callable[[], Any], repeats: int = 2) -> float:
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def kernels_us(self, work: Callable[[], Any], repeats: int = 2) -> dict[str, float]:
        return super().kernels_us(work, repeats)


def host(folder: Path, patch: pytest.MonkeyPatch) -> Host:
    """From here on loaders on the host decode, and keep pictures, as they do on a CUDA device; what that takes is
    compiled into ``folder``.
    """
    with pytest.MonkeyPatch.context() as tests:
        tests.syspath_prepend(str(Path(__file__).resolve().parent.parent / "tests"))
        from emulation import decode_as_on_device, jpeg_queue

    from dalipipe.decoders.pillow import PillowDecoder

    queue = jpeg_queue(folder)
    decode_as_on_device(patch, queue, lambda threads: PillowDecoder(threads=threads))
    return Host(queue)
