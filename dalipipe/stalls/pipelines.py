"""Loaders as what their threads do, one after the other, for `simulation`: the same program, with times for work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dalipipe.stalls.simulation import Get, Process, Put, Queue, Simulation, Work

Times = Callable[[str, int], Work]
"""A stage's name and a batch's number → the work that it is."""

BEFORE_DECODING = ("probe", "draw")
AFTER_DECODING = ("python", "augment", "assemble", "copy")


@dataclass
class Course:
    """What a simulated run came to: ``steps_s`` float64 [steps], the time between one batch's step and the next's;
    ``busy``: the share of the time in which each stage was at work, [0, 1]; ``queue``: finished batches waiting on
    average.
    """

    steps_s: np.ndarray
    busy: Mapping[str, float]
    queue: float


@dataclass
class OwnPipeline:
    """dalipipe's loader as `dalipipe.pipeline` runs it: one thread reads, one decodes, one does the rest, ``depth``
    batches at most on their way, ``ahead`` finished ones waiting for the step.
    """

    times: Times
    ahead: int = 2
    depth: int = 2
    reads_ahead: bool = True
    decodes: bool = True

    def run(self, steps: int, cores: float) -> Course:
        asked, read, encoded, decoded = Queue(), Queue(), Queue(), Queue()
        ready = Queue(room=self.ahead)

        def reader() -> Process:
            while True:
                number = yield Get(asked)
                yield self.times("read", number)
                yield Put(read, number)

        def runner() -> Process:
            while True:
                number = yield Get(encoded)
                yield self.times("decode", number)
                yield Put(decoded, number)

        def lane() -> Process:
            in_flight = submitted = 0
            if self.reads_ahead:
                yield Put(asked, 0)
            for collected in range(steps):
                while in_flight < self.depth and submitted < steps:
                    if self.reads_ahead:
                        if submitted + 1 < steps:
                            yield Put(asked, submitted + 1)
                        yield Get(read)
                    else:
                        yield self.times("read", submitted)
                    for stage in BEFORE_DECODING:
                        yield self.times(stage, submitted)
                    if self.decodes:
                        yield Put(encoded, submitted)
                    submitted += 1
                    in_flight += 1
                if self.decodes:
                    yield Get(decoded)
                for stage in AFTER_DECODING:
                    yield self.times(stage, collected)
                yield Put(ready, collected)
                in_flight -= 1

        return _course(self.times, ready, lambda number: ready, [reader(), runner(), lane()], steps, cores)


@dataclass
class WorkerPipeline:
    """torch's ``DataLoader``: batches in turn to ``workers`` processes, each at most ``prefetch`` ahead; without
    workers the step's own thread prepares them.
    """

    times: Times
    workers: int
    prefetch: int = 2
    stages: tuple[str, ...] = ("prep",)
    queues: list[Queue] = field(default_factory=list, init=False)

    def run(self, steps: int, cores: float) -> Course:
        if self.workers == 0:
            return _course(self.times, Queue(), None, [], steps, cores, self.stages)
        self.queues = [Queue(room=max(0, self.prefetch - 1)) for _ in range(self.workers)]

        def worker(first: int) -> Process:
            for number in range(first, steps, self.workers):
                for stage in self.stages:
                    yield self.times(stage, number)
                yield Put(self.queues[first], number)

        of = self.queues
        processes = [worker(first) for first in range(self.workers)]
        return _course(self.times, of[0], lambda number: of[number % self.workers], processes, steps, cores)


def _course(
    times: Times,
    watched: Queue,
    queue_of: Callable[[int], Queue] | None,
    processes: list[Process],
    steps: int,
    cores: float,
    before: tuple[str, ...] = (),
) -> Course:
    simulation, ends = Simulation(cores, [watched]), list[float]()

    def user() -> Process:
        for number in range(steps):
            if queue_of is not None:
                yield Get(queue_of(number))
            for stage in (*before, "copy to device", "step"):
                yield times(stage, number)
            ends.append(simulation.now)

    simulation.run(user(), *processes)
    total = max(simulation.now, 1e-12)
    busy = {name: seconds / total for name, seconds in simulation.busy_s.items()}
    return Course(np.diff(np.array(ends), prepend=0.0), busy, watched.filled_s / total)


def constant(seconds: Mapping[str, float], cores: Mapping[str, float] | None = None) -> Times:
    """The same times for every batch; stages not named take none."""
    asked = cores or {}
    return lambda stage, number: Work(stage, seconds.get(stage, 0.0), asked.get(stage, 0.0))
