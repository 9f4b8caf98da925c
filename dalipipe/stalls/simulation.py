"""Threads that work, wait for each other and share a processor, in simulated time.

A process is a generator: it yields `Work`, `Get` or `Put` and goes on when that is done, as a thread would. So a loader
is simulated by writing down what its threads do, in their words, with times in place of the work.

Processes at work ask for cores; where all of them ask for more than there are, all get the same share of what they ask
for (processor sharing), which slows only the part of their time in which they compute, not that in which they wait for
a disk or sleep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Work:
    """``seconds`` that it takes alone, with ``cores`` of the processor busy on average; under ``name`` in `busy_s`."""

    name: str
    seconds: float
    cores: float = 1.0


@dataclass(eq=False)
class Queue:
    """What processes hand on to each other, in order; whoever puts waits where ``room`` items lie in it."""

    room: float = float("inf")
    items: deque[Any] = field(default_factory=deque)
    getting: deque[_Running] = field(default_factory=deque)
    putting: deque[tuple[_Running, Any]] = field(default_factory=deque)
    filled_s: float = 0.0
    """Items times seconds, so far."""


@dataclass(frozen=True)
class Get:
    """The next item of a queue, which ``yield`` then gives."""

    queue: Queue


@dataclass(frozen=True)
class Put:
    """An item for a queue."""

    queue: Queue
    item: Any = None


Process = Generator["Work | Get | Put", Any, None]


@dataclass(eq=False)
class _Running:
    process: Process
    work: Work | None = None
    left_s: float = 0.0


class Simulation:
    """Runs ``processes`` on ``cores`` until the first of them ends. ``now`` is the time, in s; ``busy_s`` how long
    each name has been worked under.
    """

    def __init__(self, cores: float, queues: Iterable[Queue] = ()) -> None:
        self.now, self.cores, self.busy_s = 0.0, cores, dict[str, float]()
        self._queues = tuple(queues)

    def run(self, *processes: Process) -> None:
        """Raises ``RuntimeError`` where all wait for each other."""
        ready: deque[tuple[_Running, Any]] = deque((_Running(process), None) for process in processes)
        first, at_work = ready[0][0], list[_Running]()
        while True:
            while ready:
                running, value = ready.popleft()
                try:
                    wanted = running.process.send(value)
                except StopIteration:
                    if running is first:
                        return
                    continue
                if isinstance(wanted, Work):
                    if wanted.seconds <= 0.0:
                        ready.append((running, None))
                        continue
                    running.work, running.left_s = wanted, wanted.seconds
                    at_work.append(running)
                elif isinstance(wanted, Get):
                    _get(wanted.queue, running, ready)
                else:
                    _put(wanted.queue, running, wanted.item, ready)
            if not at_work:
                raise RuntimeError("the simulated processes wait for each other")
            self._advance(at_work)
            for running in [running for running in at_work if running.left_s <= 1e-12]:
                at_work.remove(running)
                ready.append((running, None))

    def _advance(self, at_work: list[_Running]) -> None:
        """To when the first of them has done its work."""
        asked = sum(running.work.cores for running in at_work if running.work is not None)
        slowdown = max(1.0, asked / self.cores)
        rates = [
            1.0 / (1.0 + min(1.0, running.work.cores) * (slowdown - 1.0))
            for running in at_work
            if running.work is not None
        ]
        passed = min(running.left_s / rate for running, rate in zip(at_work, rates, strict=True))
        self.now += passed
        for running, rate in zip(at_work, rates, strict=True):
            running.left_s -= passed * rate
            assert running.work is not None
            self.busy_s[running.work.name] = self.busy_s.get(running.work.name, 0.0) + passed
        for queue in self._queues:
            queue.filled_s += passed * len(queue.items)


def _get(queue: Queue, running: _Running, ready: deque[tuple[_Running, Any]]) -> None:
    if queue.putting:  # it is full, perhaps because it has no room at all
        other, item = queue.putting.popleft()
        queue.items.append(item)
        ready.append((other, None))
    if queue.items:
        ready.append((running, queue.items.popleft()))
    else:
        queue.getting.append(running)


def _put(queue: Queue, running: _Running, item: Any, ready: deque[tuple[_Running, Any]]) -> None:
    if queue.getting:
        ready.append((queue.getting.popleft(), item))
        ready.append((running, None))
    elif len(queue.items) < queue.room:
        queue.items.append(item)
        ready.append((running, None))
    else:
        queue.putting.append((running, item))
