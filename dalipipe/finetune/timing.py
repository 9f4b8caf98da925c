"""Where a training step's time goes: waiting for data, or computing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch


class StepTimes(NamedTuple):
    """Seconds spent in the steps of a window."""

    wait_s: float
    compute_s: float

    @property
    def stall(self) -> float:
        """The data stall: the share of the step time spent waiting for data, 0 to 1."""
        total_s = self.wait_s + self.compute_s
        return self.wait_s / total_s if total_s > 0 else 0.0


class StepClock:
    """Splits each step at two marks: the batch is here, the step is done.

    On the CPU the marks are host times, so waiting is the time inside ``next(loader)``. On CUDA the host runs ahead of
    the device and its clock would say nothing: there the marks are events on the current stream, and waiting is the
    time the *device* stood between the end of one step and a batch it could start on. Recording an event does not
    synchronise; :meth:`take` reads them, and is meant to follow a synchronisation that happens anyway.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._spans: list[tuple[Any, Any, Any]] = []  # per step: asked for the batch, got it, step done
        self._open: tuple[Any, Any] | None = None

    def watch(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Iterate over ``loader``, timing the wait for each batch."""
        batches = iter(loader)
        while True:
            asked = self._mark()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._open = asked, self._mark()
            yield batch

    def step_done(self) -> None:
        """The work on the batch last given out is finished (on CUDA: enqueued)."""
        assert self._open is not None, "StepClock: step_done() without a batch"
        self._spans.append((*self._open, self._mark()))
        self._open = None

    def take(self) -> StepTimes:
        """The times since the last call."""
        if self._spans and self._device.type == "cuda":
            self._spans[-1][-1].synchronize()
        wait_s = sum(self._between_s(asked, got) for asked, got, _ in self._spans)
        compute_s = sum(self._between_s(got, done) for _, got, done in self._spans)
        self._spans.clear()
        return StepTimes(wait_s, compute_s)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def _between_s(begin: Any, end: Any) -> float:
        return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1e3
