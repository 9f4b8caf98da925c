"""A batch's way: indices → bytes → headers → draws → decoding → augmentation → tensors, ahead of the user.

`Lane` is the way itself, built once and used for epoch after epoch; `Prefetcher` walks it in a thread of its own, and
reads for it in another.
"""

from __future__ import annotations

import atexit
import math
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dalipipe import rng
from dalipipe.autotune import LEAST_BATCHES, MOST_BATCHES, Section, Settings, Tuner
from dalipipe.buffers import BufferPool
from dalipipe.cache import Reading, SampleCache
from dalipipe.clock import StageClock
from dalipipe.faults import Quarantine
from dalipipe.records import Encoded, PartlyEncoded, Records
from dalipipe.sampler import Sampler, Step
from dalipipe.schema import make_batch
from dalipipe.storage import wait, wanted_while
from dalipipe.tracks import make_track
from dalipipe.tracks.base import LaneConfig, RowErrors
from dalipipe.transfers import stream_for

_READ_S = 0.3  # how long an epoch that is broken off waits for a read under way
_DROP_S = 2.0  # and one that is dropped, for the batch under way
_LET_USER_GO_S = 5e-4
_ROOM_BYTES = 512 << 20  # that finished batches may take while settings are tried, and
_ROOM_SHARE = 1 / 16  # on CUDA of the memory that is free


@dataclass(frozen=True)
class Epoch:
    """What a lane needs to know of the epoch that it runs."""

    number: int
    key: np.ndarray
    """`rng.make_key` of ``draws``."""
    sampler: Sampler
    draws: int
    """The epoch whose draws its samples take: this one, or an earlier one's again."""


@dataclass(frozen=True)
class _Read:
    """What was read of a batch, and what keeps it in the cache if there is one."""

    columns: dict[str, Any]
    reading: Reading | None


@dataclass
class Flight:
    """A batch on its way through a lane: the step as dealt, and as it is without its bad samples; what is being read of
    it, and what has been.
    """

    epoch: Epoch
    dealt: Step
    step: Step
    pending: Future[_Read] | None = None
    read: _Read | None = None
    error: Exception | None = None


class Reader(threading.Thread):
    """Does what it is given, one thing after the other, while ``wanted()``. Tensors are made on ``device``."""

    def __init__(self, wanted: Callable[[], bool], device: torch.device) -> None:
        super().__init__(name="dalipipe-read", daemon=True)
        self._wanted, self._device = wanted, device
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def give(self, work: Callable[[], _Read]) -> Future[_Read]:
        future: Future[_Read] = Future()
        self._todo.put((future, work))
        return future

    def run(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        with wanted_while(self._wanted):
            while (todo := self._todo.get()) is not None:
                future, work = todo
                if not self._wanted():
                    future.cancel()
                    continue
                try:
                    future.set_result(work())
                except BaseException as error:  # raised again where it is waited for
                    future.set_exception(error)
                del todo, future, work  # memory is used again when nobody refers to it

    def end(self) -> None:
        """Waits for what it is at."""
        self._todo.put(None)
        self.join()


class Lane:
    """Reads batches and sends their fields along their tracks, in the order they were submitted.

    Bad samples go into quarantine and the batch goes again without them. What else goes wrong with a batch is kept with
    it and raised when it is collected, so that the batches before it arrive.
    """

    def __init__(
        self, config: LaneConfig, quarantine: Quarantine, clock: StageClock, cache: SampleCache | None = None
    ) -> None:
        self._config, self._quarantine, self.clock, self._cache = config, quarantine, clock, cache
        self._arenas = BufferPool()
        self._in_flight: deque[Flight] = deque()
        self._track = make_track(config, clock)
        self.reader: Reader | None = None
        """What reads for it; ``None``: it does so itself."""
        self.reading = False
        """Whether it is in the source's hands, which may be for long."""

    def begin(self, epoch: Epoch, step: Step) -> Flight:
        """A batch that is to be submitted. Where there is a reader, it is read from now on."""
        flight = Flight(epoch, step, step)
        if self.reader is not None:
            try:
                if self._quarantine.indices:
                    self._leave_out_bad(flight)
                flight.pending = self.reader.give(partial(self._read, epoch, flight.step))
            except Exception as error:
                flight.error = error
        return flight

    def submit(self, flight: Flight) -> None:
        """Sends a batch on its way."""
        self._in_flight.append(flight)
        self._quarantine.saw(len(flight.dealt))
        if flight.error is None:
            self._start(flight)

    def collect(self) -> tuple[dict[str, Any], Step]:
        """The oldest batch: its columns, the augmented fields tensors on the device, and which samples they are."""
        flight = self._in_flight[0]
        try:
            while flight.error is None:
                try:
                    assert flight.read is not None
                    tensors = {} if self._track is None else self._track.collect()
                    if flight.read.reading is not None:  # all of its samples are good
                        with self.clock.stage("cache", len(flight.step)):
                            flight.read.reading.keep()
                    return {**flight.read.columns, **tensors}, flight.step
                except RowErrors as error:
                    self._report(flight, error.errors)
                    self._start_again()
            raise flight.error
        finally:
            self._in_flight.popleft()

    @property
    def reads_ahead(self) -> bool:
        """Whether reading deserves a thread of its own. What is in memory is read sooner than a thread wakes up."""
        return self._cache is None and not self._config.source.in_memory

    def serves(self, config: LaneConfig) -> bool:
        """Whether it does what this asks for, with batches of that size at least."""
        mine = self._config
        return (
            mine.plan is config.plan
            and mine.batch_size >= config.batch_size
            and (mine.threads, mine.tiles_on) == (config.threads, config.tiles_on)
        )

    @property
    def buffers_bytes(self) -> int:
        """Host memory kept to be used again."""
        return self._arenas.free_bytes + (0 if self._track is None else self._track.buffers_bytes)

    def reset(self) -> None:
        """Forgets what is in flight, for the next epoch."""
        self._in_flight.clear()
        if self._track is not None:
            self._track.reset()

    def close(self) -> None:
        if self._track is not None:
            self._track.close()
        self._arenas.close()

    def _start(self, flight: Flight) -> None:
        """Reads a batch, where it has not been read, and sends it on its way; without its bad samples."""
        try:
            if self._quarantine.indices:
                self._leave_out_bad(flight)
            while True:
                try:
                    if flight.read is None:
                        flight.read = self._fetch(flight)
                    if self._track is not None:
                        self._track.submit(flight.read.columns, flight.epoch.key, flight.step)
                    return
                except RowErrors as error:
                    self._report(flight, error.errors)
                    self._leave_out_bad(flight)
        except Exception as error:  # raised again when this batch is collected
            flight.error = error

    def _start_again(self) -> None:
        """A batch goes again from the start, and must still come out before those behind it: all go again."""
        if self._track is not None:
            self._track.reset()
        for flight in self._in_flight:
            if flight.error is None:
                self._start(flight)

    def _fetch(self, flight: Flight) -> _Read:
        if self.reader is None:
            return self._read(flight.epoch, flight.step)
        pending = flight.pending or self.reader.give(partial(self._read, flight.epoch, flight.step))
        flight.pending = None
        if not wait(lambda seconds: bool(futures.wait([pending], seconds).done)):
            raise _Stopped
        return pending.result()

    def _read(self, epoch: Epoch, step: Step) -> _Read:
        config, source, indices = self._config, self._config.source, step.indices
        if source.copies > 1:  # an epoch takes one, repeated records several in turn
            variants = 0 if step.variants is None else step.variants
            indices = indices + (epoch.draws + variants) % source.copies * len(source)
        records: Records | Reading
        self.reading = True
        try:
            with self.clock.stage("read", len(step)) as timing:
                if self._cache is None:
                    records = source.read(indices, threads=config.threads, allocate=self._arenas.take)
                else:
                    records = self._cache.read(indices, threads=config.threads, allocate=self._arenas.take)
                timing.nbytes = _bytes_read(records.columns)
        finally:
            self.reading = False
        if records.errors:
            raise RowErrors(records.errors)
        return _Read(records.columns, records if isinstance(records, Reading) else None)

    def _report(self, flight: Flight, errors: dict[int, Exception]) -> None:
        for row, error in sorted(errors.items()):
            index = int(flight.step.indices[row])
            self._quarantine.add(index, self._config.source.describe(index), error, others=len(errors) - 1)

    def _leave_out_bad(self, flight: Flight) -> None:
        """From the step as dealt, so that what stands in for a bad sample does not depend on when it was found out."""
        bad, refill = self._quarantine.indices, self._quarantine.on_error == "substitute"
        step = flight.epoch.sampler.without(flight.epoch.number, flight.dealt, bad, refill=refill)
        if not step.same_as(flight.step):
            flight.step, flight.pending, flight.read = step, None, None


def _bytes_read(columns: dict[str, Any]) -> int:
    """Of files. What lies in memory, or in the cache, already counts as nothing read."""
    files = [column.encoded if isinstance(column, PartlyEncoded) else column for column in columns.values()]
    return sum(column.arena.nbytes for column in files if isinstance(column, Encoded))


class _Stopped(Exception):
    """The user is gone."""


@dataclass(frozen=True)
class Trials:
    """What an epoch tries settings with: ``steps`` of its steps at most, and ``make``, which builds a lane."""

    tuner: Tuner
    steps: int
    make: Callable[[LaneConfig], Lane]


class Prefetcher:
    """Batches of one epoch, made by a thread, at most ``ahead`` finished ones waiting.

    It begins with the epoch's step ``first``. Iterate, then `close`; closing early, or dropping it, is fine. When the
    thread ends it calls ``give_back`` with the lane, which can then be used again. ``trials``: settings are tried on
    the epoch's first steps, with more batches waiting meanwhile, where memory allows.
    """

    def __init__(
        self,
        lane: Lane,
        epoch: Epoch,
        first: int,
        config: LaneConfig,
        ahead: int,
        give_back: Callable[[Lane], None],
        trials: Trials | None = None,
    ) -> None:
        self._walk = _Walk(lane, epoch, first, config, ahead, give_back, trials)
        self._steps_s = None if trials is None else trials.tuner.steps_s
        self._given_at: float | None = None
        self._walk.start()

    def get(self, timeout_s: float = 0) -> Any:
        """The next batch; ``None`` at the end. Raises what went wrong with it, after which there are no more.

        ``timeout_s``: how long to wait before a ``TimeoutError``; 0: for ever.
        """
        give_up = time.monotonic() + timeout_s if timeout_s else math.inf
        if self._steps_s is not None and self._given_at is not None:
            self._steps_s.append(time.perf_counter() - self._given_at)
        while True:
            try:
                item = self._walk.batches.get(timeout=min(1.0, max(give_up - time.monotonic(), 0.001)))
                break
            except queue.Empty:
                if not self._walk.is_alive() and self._walk.batches.empty():
                    raise RuntimeError("the loader's thread has died without a word; please report this") from None
                if time.monotonic() >= give_up:
                    raise TimeoutError(
                        f"DataLoader: no batch came in {timeout_s:g} s: the storage or the data set may be hanging; "
                        "timeout=0 waits for ever"
                    ) from None
        if isinstance(item, Exception):
            raise item
        self._given_at = time.perf_counter()
        return item

    @property
    def ready(self) -> int:
        """Finished batches waiting."""
        return self._walk.batches.ready

    def close(self) -> None:
        """Ends the thread and waits for it, unless it hangs in a read: then it ends when it comes back."""
        self._walk.end()

    def __del__(self, _exiting: Any = sys.is_finalizing) -> None:
        if hasattr(self, "_walk") and not _exiting():  # at exit it has been ended already
            self._walk.end(most_s=_DROP_S)


class _Finished(queue.Queue[Any]):
    """Batches that wait for the user, and what ends them. The clock is told how many; it is asked under the lock."""

    def __init__(self, room: int, clock: StageClock) -> None:
        super().__init__(room)
        self._clock, self._since_s = clock, time.perf_counter()
        self.ready = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._change(item, 1)

    def _get(self) -> Any:
        item = super()._get()
        self._change(item, -1)
        return item

    def _change(self, item: Any, by: int) -> None:
        now = time.perf_counter()
        self._clock.saw_ready(self.ready, now - self._since_s)
        self._since_s = now
        if item is not None and not isinstance(item, Exception):
            self.ready += by
            for observer in self._clock.observers:
                observer.ready(self.ready)


class _Walk(threading.Thread):
    """Keeps ``depth`` batches decoding and finishes the oldest. It knows nothing of its `Prefetcher`."""

    def __init__(
        self,
        lane: Lane,
        epoch: Epoch,
        first: int,
        config: LaneConfig,
        ahead: int,
        give_back: Callable[[Lane], None],
        trials: Trials | None,
    ) -> None:
        super().__init__(name="dalipipe-prefetch", daemon=True)
        self.batches = _Finished(ahead, lane.clock)
        self._lane, self._epoch, self._first, self._config, self._give_back = lane, epoch, first, config, give_back
        self._ahead, self._trials = ahead, trials
        self._stopped = threading.Event()
        # Python must not take DALI down under it; nor wait for ever at exit for storage that hangs.
        atexit.register(self.end)

    def run(self) -> None:
        try:
            with wanted_while(self._wanted):
                self._run()
        except _Stopped:
            pass
        except Exception as error:  # the user's `next` raises it
            with suppress(_Stopped):
                self._put(error)
        finally:
            self._stopped.set()
            self._leave_lane()
            self._give_back(self._lane)
            atexit.unregister(self.end)

    def _wanted(self) -> bool:  # requests under way end with the epoch
        return not self._stopped.is_set()

    def _run(self) -> None:
        steps = self._epoch.sampler.batches(self._epoch.number, self._first)
        if self._trials is not None and self._trials.tuner.begin():
            try:
                self._try_settings(self._trials, steps)
            finally:
                self._trials.tuner.end()
        self._make(steps)
        self._put(None)

    def _try_settings(self, trials: Trials, steps: Iterator[Step]) -> None:
        """Makes the first of the steps with one setting after the other, and leaves the best of them in use."""
        tuner, silent = trials.tuner, 0
        before = tuner.section(trials.steps, self._config.depth)
        self._make(before.of(tuner.before(steps)))
        left = trials.steps - before.begun
        while left >= LEAST_BATCHES and silent < 2 and (settings := tuner.next()) is not None:
            while self.batches.qsize() >= self._ahead:  # those of the trial before
                if self._stopped.wait(0.002):
                    raise _Stopped
            start = time.perf_counter()
            self._use(settings, trials)
            section = tuner.section(left, self._config.depth)
            self._make(section.of(steps), section)
            left -= section.begun
            silent = 0 if tuner.add(settings, section, time.perf_counter() - start) else silent + 1
        self._use(tuner.settings, trials)
        self._allow(tuner.settings.ahead)

    def _use(self, settings: Settings, trials: Trials) -> None:
        """A lane of these settings. There is one at a time, for the memory's sake."""
        config = replace(self._config, threads=settings.threads, tiles_on=settings.tiles_on)
        if not self._lane.serves(config):
            before, self._lane = self._lane, trials.make(config)
            before.close()
        self._config = config

    def _make(self, steps: Iterator[Step], section: Section | None = None) -> None:
        """Batches of these steps, in a trial or not."""
        config, lane, epoch = self._config, self._lane, self._epoch
        if lane.reads_ahead:
            lane.reader = Reader(self._wanted, config.output.device)
            lane.reader.start()
        deliver = delivery(config, epoch.draws)
        in_flight, upcoming = 0, self._next(steps)
        while not self._stopped.is_set():
            while in_flight < config.depth and upcoming is not None:
                flight, upcoming = upcoming, self._next(steps)
                lane.submit(flight)
                in_flight += 1
            if not in_flight:
                return self._leave_lane()
            in_flight -= 1
            batch = deliver(lane)
            if section is not None:
                self._note(section, batch)
            self._put(batch)
        raise _Stopped

    def _note(self, section: Section, batch: Any) -> None:
        """A batch of a trial is made."""
        section.made()
        if self.batches.maxsize == self._ahead and self._trials is not None:  # of the first: a trial is to find room
            room = _room(batch, self._config.output.device)
            self._trials.tuner.most_ahead = room
            self._allow(max(self._ahead, room))
        section.waited |= self.batches.full()

    def _allow(self, ahead: int) -> None:
        """How many finished batches may wait from now on."""
        with self.batches.mutex:
            self.batches.maxsize = ahead

    def _leave_lane(self) -> None:
        """Ends what reads for it, and has it forget what is in flight."""
        if self._lane.reader is not None:
            self._lane.reader.end()
            self._lane.reader = None
        self._lane.reset()

    def _next(self, steps: Iterator[Step]) -> Flight | None:
        step = next(steps, None)
        return None if step is None else self._lane.begin(self._epoch, step)

    def _put(self, item: Any) -> None:
        if self._stopped.is_set():
            raise _Stopped
        with suppress(queue.Full):
            return self.batches.put_nowait(item)
        with self._lane.clock.is_full():
            while not self._stopped.is_set():
                with suppress(queue.Full):
                    self.batches.put(item, timeout=0.1)
                    break
            else:
                raise _Stopped
        # There is room because the user has just taken a batch, and drops the one before. torch lets go of Python's
        # lock for that, and were this thread to take it now, the user would wait until it is through with the next one.
        time.sleep(_LET_USER_GO_S)

    def end(self, most_s: float = math.inf, _exiting: Any = sys.is_finalizing) -> None:
        """Stops the thread and waits for it, ``most_s`` at most and not long for a read under way."""
        self._stopped.set()
        if _exiting():  # it has ended, and what follows may be gone: a generator of the user's is dropped only now
            return
        # A collection of garbage may drop a loader's iterator anywhere, so in such a thread too, which may hold locks
        # that the other needs: the import of DALI's, say.
        if isinstance(threading.current_thread(), _Walk | Reader):
            return
        begin, reading_since = time.monotonic(), math.inf
        while self.is_alive():
            now = time.monotonic()
            reading_since = min(reading_since, now) if self._lane.reading else math.inf
            if now - reading_since > _READ_S or now - begin > most_s:
                return
            try:  # it may be waiting for room
                self.batches.get_nowait()
            except queue.Empty:
                self.join(timeout=0.01)


def delivery(config: LaneConfig, draws: int) -> Callable[[Lane], Any]:
    """What makes a lane's oldest batch one for the user; ``draws``: the epoch whose draws its samples take."""
    return (_deliver_cuda if config.output.device.type == "cuda" else _deliver_host)(config, draws)


def _room(batch: Any, device: torch.device) -> int:
    """How many batches like this one may wait on this device while settings are tried."""
    nbytes = sum(value.nbytes for value in batch if isinstance(value, torch.Tensor))
    most = _ROOM_BYTES
    if device.type == "cuda":
        most = min(most, int(_ROOM_SHARE * torch.cuda.mem_get_info(device)[0]))
    return max(1, min(MOST_BATCHES, most // max(nbytes, 1)))


def _deliver_host(config: LaneConfig, draws: int) -> Callable[[Lane], Any]:
    def deliver(lane: Lane) -> Any:
        columns, step = lane.collect()
        return make_batch(config.names, _values(config, columns, step), step.indices, _draws(draws, step))

    return deliver


def _deliver_cuda(config: LaneConfig, draws: int) -> Callable[[Lane], Any]:
    """Works on a stream of its own, and waits for it: what comes out is whole, and what it was made from can be freed.

    The wait costs nothing: the batches behind it are being decoded meanwhile. Until what the lane has queued is done,
    its time is that of augmenting (and is noted with the next batch's), and then of copying.
    """
    device = config.output.device
    torch.cuda.set_device(device)
    queued = torch.cuda.Event()

    def upload(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.is_cuda:
            return value
        return value.pin_memory().to(device, non_blocking=True)

    def deliver(lane: Lane) -> Any:
        with torch.cuda.stream(stream):
            columns, step = lane.collect()
            clock = lane.clock
            with clock.stage("copy", to_come=True):
                queued.record(stream)
                values = [upload(value) for value in _values(config, columns, step)]
            if "augment" in clock.stages:
                with clock.stage("augment", to_come=True):
                    queued.synchronize()
            with clock.stage("copy", len(step)):
                stream.synchronize()
            return make_batch(config.names, values, step.indices, _draws(draws, step))

    stream = stream_for(deliver, device)
    return deliver


def _draws(epoch: int, step: Step) -> np.ndarray:
    variants = np.zeros(len(step), np.int64) if step.variants is None else step.variants
    return epoch * rng.MAX_VARIANTS + variants


def _values(config: LaneConfig, columns: dict[str, Any], step: Step) -> list[Any]:
    """A batch's fields in order, tensors where they can be; last, where asked for, which rows count."""
    values = [_as_tensor(columns[name]) for name in config.source.schema.names]
    return [*values, torch.from_numpy(step.counts)] if config.mask else values


def _as_tensor(column: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(column)) if isinstance(column, np.ndarray) else column
