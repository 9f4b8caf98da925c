"""Loaders as what their threads do, one after the other, for `simulation`: the same program, with times for work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dalipipe.stalls.simulation import Get, Process, Put, Queue, Simulation, Work

Times = Callable[[str, int], Work]
"""A stage's name and a batch's number → the work that it is. Numbers go on beyond the steps asked for: an epoch's end
would be another matter.
"""


@dataclass
class Course:
    """What a simulated run came to: ``steps_s`` float64 [steps], the time between one batch's step and the next's;
    ``busy``: the share of the time in which each stage was at work, [0, 1] for each thread that does it; ``queue``:
    finished batches waiting on average; ``warm_up``: so many of the steps pass until all are at work.
    """

    steps_s: np.ndarray
    busy: Mapping[str, float]
    queue: float
    warm_up: int = 0

    @property
    def step_s(self) -> float:
        """The mean, once all are at work."""
        return float(self.steps_s[self.warm_up :].mean())


@dataclass
class OwnPipeline:
    """dalipipe's loader as `dalipipe.pipeline` runs it: one thread reads, one decodes, one does the rest, ``depth``
    batches at most on their way, ``ahead`` finished ones waiting for the step.

    ``reads_ahead``: whether reading has a thread of its own. ``before``: what the lane's thread does with a batch on
    its way in; ``decoding``: what is then done by a thread of its own, one batch after the other; ``engine``: what is
    begun then, and done by native threads by themselves; ``after``: what the lane's thread does on a batch's way out.
    """

    times: Times
    ahead: int = 2
    depth: int = 2
    reads_ahead: bool = True
    before: tuple[str, ...] = ("probe", "draw")
    decoding: str | None = "decode"
    engine: str | None = None
    after: tuple[str, ...] = ("python", "augment", "assemble")
    period = 1

    def run(self, steps: int, cores: float) -> Course:
        asked, read, encoded, decoded = Queue(), Queue(), Queue(), Queue()
        begun, done = ([Queue() for _ in range(self.depth)] for _ in range(2))
        ready = Queue(room=self.ahead)

        def reader() -> Process:
            while True:
                number = yield Get(asked)
                yield self.times("read", number)
                yield Put(read, number)

        def runner(decoding: str) -> Process:
            while True:
                number = yield Get(encoded)
                yield self.times(decoding, number)
                yield Put(decoded, number)

        def native(engine: str, place: int) -> Process:
            while True:
                number = yield Get(begun[place])
                yield self.times(engine, number)
                yield Put(done[place], number)

        def lane() -> Process:
            in_flight = submitted = 0
            if self.reads_ahead:
                yield Put(asked, 0)
            for collected in itertools.count():
                while in_flight < self.depth:
                    if self.reads_ahead:
                        yield Put(asked, submitted + 1)
                        yield Get(read)
                    else:
                        yield self.times("read", submitted)
                    for stage in self.before:
                        yield self.times(stage, submitted)
                    if self.decoding is not None:
                        yield Put(encoded, submitted)
                    if self.engine is not None:
                        yield Put(begun[submitted % self.depth], submitted)
                    submitted += 1
                    in_flight += 1
                if self.decoding is not None:
                    yield Get(decoded)
                if self.engine is not None:
                    yield Get(done[collected % self.depth])
                for stage in self.after:
                    yield self.times(stage, collected)
                yield Put(ready, collected)
                in_flight -= 1

        processes = [lane()]
        if self.reads_ahead:
            processes.append(reader())
        if self.decoding is not None:
            processes.append(runner(self.decoding))
        if self.engine is not None:
            processes += [native(self.engine, place) for place in range(self.depth)]
        return _course(self.times, ready, lambda number: ready, processes, steps, cores)


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

    @property
    def period(self) -> int:
        """Batches that workers which begin together give together."""
        return max(1, self.workers)

    def run(self, steps: int, cores: float) -> Course:
        if self.workers == 0:
            return _course(self.times, Queue(), None, [], steps, cores, self.stages)
        self.queues = [Queue(room=max(0, self.prefetch - 1)) for _ in range(self.workers)]

        def worker(first: int) -> Process:
            for number in itertools.count(first, self.workers):
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
