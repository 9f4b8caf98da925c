"""A loader's lane, walked apart from the loader: the same steps as often as wanted, ahead of the user as the loader
does it, or one stage after the other.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dalipipe import rng
from dalipipe.cache import SampleCache
from dalipipe.clock import StageClock, Taken, minus
from dalipipe.faults import Quarantine
from dalipipe.loader import DataLoader
from dalipipe.pipeline import Epoch, Lane, Prefetcher, delivery
from dalipipe.records import Encoded, Pictures, Records
from dalipipe.sampler import Sampler, Step
from dalipipe.sources.base import Source
from dalipipe.stalls.held import Held, files_of, forget, like
from dalipipe.tracks.base import LaneConfig

WARM_UP = 2  # batches in which decoders are made and buffers grow


@dataclass(frozen=True)
class Measured:
    """A stage's work on some batches, each alone: ``seconds`` float64 [n], and how many ``cores`` it keeps busy
    meanwhile, on average.
    """

    seconds: np.ndarray
    cores: float

    @classmethod
    def of(cls, seconds: Sequence[float] | np.ndarray, cpu_s: float) -> Measured:
        times = np.asarray(seconds, np.float64)
        return cls(times, cpu_s / max(float(times.sum()), 1e-12))

    def times(self, factor: float) -> Measured:
        """As if it took so many times as long."""
        return Measured(factor * self.seconds, self.cores)


Stages = Mapping[str, Measured]


class Replay(Sampler):
    """Steps that another sampler has dealt, over and over; ``again`` is called whenever all have been dealt."""

    def __init__(
        self, steps: Sequence[Step], dealt_by: Sampler, again: Callable[[], None] = lambda: None
    ) -> None:  # it deals no order, so it has none
        self._replayed, self._dealt_by, self._again = steps, dealt_by, again

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Step]:
        count = len(self._replayed)
        for number in itertools.count(first_step):
            if number > first_step and (number - first_step) % count == 0:
                self._again()
            yield self._replayed[number % count]

    def without(self, epoch: int, step: Step, bad: set[int], *, refill: bool) -> Step:
        return self._dealt_by.without(epoch, step, bad, refill=refill)


class Walks:
    """Walks over some steps of a loader's epoch. They leave the loader, its position and its quarantine as they are.

    Of a data set that is the user's own code (`Source.repeatable`) nothing is kept: what it does is preparing, so it is
    done again, with its files in memory.

    ``most``: how many different steps, at most; fewer where the epoch or ``nbytes``, the memory for what is read of
    them, has no more. They are read anew, walked once, stage by stage, and kept: ``held`` gives them from memory,
    ``alone`` is every stage's work on each of them. ``progress`` is called with the share of that that is done.
    """

    def __init__(
        self,
        loader: DataLoader,
        epoch: int,
        most: int,
        nbytes: int,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._loader, self._dealt_by = loader, loader._steps
        loader._steps.order.settle(epoch)
        loader._largest = max(loader._largest, loader._steps.largest(epoch))
        self.config, self.ahead = loader._config(epoch), loader._ahead
        self.cache = loader._opened_cache()
        self._quarantine = Quarantine(loader._quarantine.on_error, loader._quarantine.limit, None, len(loader.source))
        self._quarantine.load(loader._quarantine.state())
        self._number, self._draws = epoch, loader._draws_of(epoch)
        self._key = rng.make_key(loader.seed, self._draws)
        self.steps: list[Step] = []
        self.held = Held(self.config.source)
        dealt = list(itertools.islice(loader._steps.batches(epoch), most))
        self.files = files_of(self.config.source, np.concatenate([step.indices for step in dealt]))
        self.alone = self._read(dealt, nbytes, progress)

    def _read(self, dealt: Sequence[Step], nbytes: int, progress: Callable[[float], None]) -> Stages:
        keeping, refill = _Keeping(self.config.source), self._quarantine.on_error == "substitute"
        with self._walker(replace(self.config, source=keeping), self._cache_before(keeping)) as walk:
            # A cache is filled first: what it has no room for is what an epoch reads.
            for number in range(WARM_UP if self.cache is None else len(dealt)):
                walk(dealt[number % len(dealt)])
            self.forget()
            rows = []
            for number, step in enumerate(dealt):
                keeping.last = None
                rows.append(walk(step))
                if keeping.last is not None and self.config.source.repeatable:
                    self.held.keep(*keeping.last)
                bad = self._quarantine.indices
                self.steps.append(self._dealt_by.without(self._number, step, bad, refill=refill) if bad else step)
                progress((number + 1) / len(dealt))
                if self.held.nbytes > nbytes:
                    break
        return _stages(rows)

    def _epoch(self, steps: Sequence[Step], again: Callable[[], None] = lambda: None) -> Epoch:
        return Epoch(self._number, self._key, Replay(steps, self._dealt_by, again), self._draws)

    @property
    def fetches(self) -> bool:
        """Whether files, or stores, are read: as far as is known, where that is the user's own code."""
        source = self.config.source
        return bool(self.files) or (source.repeatable and not source.in_memory)

    @property
    def encoded(self) -> Encoded | None:
        """A batch's pictures, where they are files."""
        field = self.config.plan.field
        first = next(iter(self.held), None)
        if field is None or field.kind != "image" or first is None:
            return None
        column = first.columns[field.name]
        return column if isinstance(column, Encoded) else None

    @property
    def in_maps(self) -> bool:
        """Whether ``held`` is memory that the system may have to read again: files that are mapped; or is not held at
        all, being the user's own code's.
        """
        mapped = any(isinstance(column, Pictures) for records in self.held for column in records.columns.values())
        return bool(self.files) and (mapped or not self.config.source.repeatable)

    def forget(self) -> None:
        """Has the steps' files read anew, as far as they are known."""
        forget(self.files)

    # Ahead of the user ------------------------------------------------------------------------------------------------

    @contextmanager
    def runner(
        self, source: Source | None = None, *, clock: StageClock | None = None, **changes: Any
    ) -> Iterator[Callable[..., Generator[Any, None, None]]]:
        """Gives what walks as the loader does: ``(first, ready)`` → batches from step ``first`` on, without end; how
        many finished ones were waiting when each was asked for is appended to ``ready``.

        ``source``: another one than the loader's; ``clock``: which times its stages; ``changes``: of its `LaneConfig`.
        """
        config = replace(self.config, source=self.config.source if source is None else source, **changes)
        lanes: list[Lane] = []
        anew = self.forget if source is None else lambda: None  # steps that come again are read anew again
        epoch, cuda = self._epoch(self.steps, anew), config.output.device.type == "cuda"
        cache = self._cache_before(config.source)

        def run(first: int, ready: list[int] | None = None) -> Generator[Any, None, None]:
            lane = lanes.pop() if lanes else Lane(config, self._quarantine, clock or StageClock(), cache)
            prefetcher = Prefetcher(lane, epoch, first, config, self.ahead, lanes.append)
            try:
                while True:
                    if ready is not None:
                        ready.append(prefetcher.ready)
                    batch = prefetcher.get()
                    if cuda:  # as the loader does
                        stream = torch.cuda.current_stream(config.output.device)
                        for value in batch:
                            if isinstance(value, torch.Tensor):
                                value.record_stream(stream)
                    yield batch
            finally:
                prefetcher.close()

        try:
            yield run
        finally:
            while lanes:
                lanes.pop().close()

    def _cache_before(self, source: Source) -> SampleCache | None:
        """The loader's cache, before this source."""
        if self.cache is None or source is self.config.source:
            return self.cache
        settings, field = self._loader._cache_settings, self.config.plan.field
        assert settings is not None and field is not None
        return SampleCache(settings, source, field.name, self.cache._decoder, self.cache._device)

    # One stage after the other ----------------------------------------------------------------------------------------

    def stages(
        self,
        source: Source | None = None,
        *,
        batches: int,
        passes: int = 1,
        warm_up: int = WARM_UP,
        begin: Callable[[], None] = lambda: None,
        cache: SampleCache | None = None,
        **changes: Any,
    ) -> Stages:
        """Every stage's work on the first ``batches`` steps, each alone: with all its threads, and nothing else going
        on. What is none of the stages that the loader counts is ``"assemble"``.

        ``passes``: how often, each after a call of ``begin``; ``warm_up``: batches walked before that do not count;
        ``source``, ``changes``: as of `runner`; ``cache``: another one than the loader's.
        """
        source = self.config.source if source is None else source
        config = replace(self.config, source=source, **changes)
        with self._walker(config, cache or self._cache_before(source)) as walk:
            steps = self.steps[:batches]
            for number in range(warm_up):
                walk(steps[number % len(steps)])
            rows: list[Taken] = []
            for _ in range(passes):
                begin()
                rows += map(walk, steps)
        return _stages(rows)

    @contextmanager
    def _walker(self, config: LaneConfig, cache: SampleCache | None) -> Iterator[Callable[[Step], Taken]]:
        config = replace(config, depth=1)
        clock, epoch = _clock(config), self._epoch(self.steps)
        lane, deliver = Lane(config, self._quarantine, clock, cache), delivery(config, self._draws)

        def walk(step: Step) -> Taken:
            before, start, cpu_s = clock.so_far(), time.perf_counter(), time.process_time()
            lane.submit(lane.begin(epoch, step))
            batch = deliver(lane)
            whole = time.perf_counter() - start, time.process_time() - cpu_s
            del batch
            return _row(clock.since(before), whole)

        try:
            yield walk
        finally:
            lane.close()


def _stages(rows: Sequence[Taken]) -> Stages:
    names, none = list(dict.fromkeys(name for row in rows for name in row)), (0.0, 0.0)
    return {
        name: Measured.of([row.get(name, none)[0] for row in rows], sum(row.get(name, none)[1] for row in rows))
        for name in names
    }


def _row(stages: Taken, whole: tuple[float, float]) -> Taken:
    """Of a batch; with what is left of the whole."""
    for taken in stages.values():
        whole = minus(whole, taken)
    return {**stages, "assemble": whole}


def _clock(config: LaneConfig) -> StageClock:
    device = config.output.device
    if device.type != "cuda":
        return StageClock(cpu=True)
    return StageClock(cpu=True, settle=lambda: torch.cuda.current_stream(device).synchronize())


class _Keeping(Source):
    """Another source, which keeps what was read ``last``: which records, and what of them. What had bad samples has
    been read again without them.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.last: tuple[np.ndarray, Records] | None = None
        like(self, source)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        records = self._source.read(indices, threads=threads, allocate=allocate)
        self.last = indices, records
        return records

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def describe(self, index: int) -> str:
        return self._source.describe(index)
