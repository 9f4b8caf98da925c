"""A batch's way: indices → bytes → headers → draws → decoding → augmentation → tensors, one thread ahead of the user.

`Lane` is the way itself, built once and used for epoch after epoch; `Prefetcher` walks it in a thread of its own.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dalipipe.buffers import BufferPool
from dalipipe.records import SampleError
from dalipipe.schema import make_batch
from dalipipe.tracks import make_track
from dalipipe.tracks.base import LaneConfig, RowErrors, StageClock


@dataclass
class _Flight:
    """A batch on its way through a lane."""

    indices: np.ndarray
    columns: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


class Lane:
    """Reads batches and sends their fields along their tracks, in the order they were submitted.

    What goes wrong with a batch is kept with it and raised when it is collected, so that the batches before it arrive.
    """

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        self._config, self._clock = config, clock
        self._arenas = BufferPool()
        self._in_flight: deque[_Flight] = deque()
        self._track = make_track(config, clock)
        self._field = config.plan.field.name

    def submit(self, key: np.ndarray, indices: np.ndarray) -> None:
        """Starts samples ``indices`` int64 [N] of the epoch with this `rng.make_key`."""
        flight = _Flight(indices)
        self._in_flight.append(flight)
        try:
            with self._clock.stage("read"):
                records = self._config.source.read(indices, threads=self._config.threads, allocate=self._arenas.take)
            if records.errors:
                raise RowErrors(records.errors)
            flight.columns = records.columns
            self._track.submit(records.columns[self._field], key, indices)
        except Exception as error:  # raised again when this batch is collected
            flight.error = error

    def collect(self) -> tuple[dict[str, Any], np.ndarray]:
        """The oldest batch: its columns, the augmented field a tensor on the device, and its indices."""
        flight = self._in_flight.popleft()
        try:
            if flight.error is not None:
                raise flight.error
            flight.columns[self._field] = self._track.collect()
        except RowErrors as error:
            raise self._name(flight.indices, error.errors) from error.errors[min(error.errors)]
        return flight.columns, flight.indices

    @property
    def buffers_bytes(self) -> int:
        """Host memory kept to be used again."""
        return self._arenas.free_bytes + self._track.buffers_bytes

    def reset(self) -> None:
        """Forgets what is in flight, for the next epoch."""
        self._in_flight.clear()
        self._track.reset()

    def close(self) -> None:
        self._track.close()
        self._arenas.close()

    def _name(self, indices: np.ndarray, errors: dict[int, Exception]) -> SampleError:
        row = min(errors)
        index = int(indices[row])
        more = f" (and {len(errors) - 1} more in this batch)" if len(errors) > 1 else ""
        return SampleError(index, self._config.source.describe(index), f"{errors[row]}{more}")


class _Stopped(Exception):
    """The user is gone."""


class Prefetcher:
    """Batches of one epoch, made by a thread, at most ``ahead`` finished ones waiting.

    ``steps``: the batches to make, each int64 [N] indices. Iterate, then `close`; closing early is fine.
    """

    def __init__(
        self, lane: Lane, key: np.ndarray, steps: Iterable[np.ndarray], config: LaneConfig, ahead: int
    ) -> None:
        self._stop = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        # The thread refers to the channel, not to this object, so that dropping this object ends the thread.
        arguments = (lane, key, iter(steps), config, _Channel(self._queue, self._stop))
        self._thread = threading.Thread(target=_walk, args=arguments, name="dalipipe-prefetch")
        self._thread.start()

    def get(self) -> Any:
        """The next batch; ``None`` at the end. Raises what went wrong with it, after which there are no more."""
        while True:
            try:
                item = self._queue.get(timeout=1.0)
                break
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise RuntimeError("the loader's thread has died without a word; please report this") from None
        if isinstance(item, Exception):
            raise item
        return item

    @property
    def ready(self) -> int:
        """Finished batches waiting."""
        return self._queue.qsize()

    def close(self) -> None:
        """Ends the thread and waits for it; the lane can be used again after."""
        self._stop.set()
        while self._thread.is_alive():
            try:  # it may be waiting for room
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)


@dataclass(frozen=True)
class _Channel:
    queue: queue.Queue[Any]
    stop: threading.Event

    @property
    def open(self) -> bool:
        """Whether anybody wants more. Python waits for this thread at exit, and takes DALI down only after it."""
        return not self.stop.is_set() and threading.main_thread().is_alive()

    def put(self, item: Any) -> None:
        while self.open:
            try:
                return self.queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped


def _walk(lane: Lane, key: np.ndarray, steps: Any, config: LaneConfig, channel: _Channel) -> None:
    """The thread: keeps ``depth`` batches decoding and finishes the oldest."""
    deliver = _deliver_cuda(config) if config.output.device.type == "cuda" else _deliver_host(config)
    try:
        in_flight = 0
        while channel.open:
            while in_flight < config.depth and (indices := next(steps, None)) is not None:
                lane.submit(key, indices)
                in_flight += 1
            if not in_flight:
                return channel.put(None)
            in_flight -= 1
            channel.put(deliver(lane))
    except _Stopped:
        pass
    except Exception as error:  # the user's `next` raises it
        with suppress(_Stopped):
            channel.put(error)
    finally:
        lane.reset()


def _deliver_host(config: LaneConfig) -> Callable[[Lane], Any]:
    names = config.source.schema.names

    def deliver(lane: Lane) -> Any:
        columns, indices = lane.collect()
        return make_batch(names, (_as_tensor(columns[name]) for name in names), indices)

    return deliver


def _deliver_cuda(config: LaneConfig) -> Callable[[Lane], Any]:
    """Works on a stream of its own, and waits for it: what comes out is whole, and what it was made from can be freed.

    The wait costs nothing: the batches behind it are being decoded meanwhile.
    """
    names, device = config.source.schema.names, config.output.device
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream(device)

    def deliver(lane: Lane) -> Any:
        with torch.cuda.stream(stream):
            columns, indices = lane.collect()
            values = [_as_tensor(columns[name]) for name in names]
            values = [v if v.is_cuda else v.pin_memory().to(device, non_blocking=True) for v in values]
            stream.synchronize()
            return make_batch(names, values, indices)

    return deliver


def _as_tensor(column: Any) -> torch.Tensor:
    return column if isinstance(column, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(column))
