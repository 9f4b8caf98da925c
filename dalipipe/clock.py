"""What each stage of a loader takes: how often, how long, how much of it, and how its times are spread."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

_CELLS_PER_DOUBLING = 8
_SHORTEST_S = 1e-6
_CELLS = 32 * _CELLS_PER_DOUBLING  # up to more than an hour
_RECENT_S = 10


@dataclass
class Spread:
    """Times, counted in cells that are 9 % wide, so that quantiles are known to 5 % in memory that does not grow."""

    cells: list[int] = field(default_factory=lambda: [0] * _CELLS)
    count: int = 0
    seconds: float = 0.0
    """Their sum."""

    def add(self, seconds: float) -> None:
        cell = int(_CELLS_PER_DOUBLING * math.log2(seconds / _SHORTEST_S)) if seconds > _SHORTEST_S else 0
        self.cells[min(cell, _CELLS - 1)] += 1
        self.count += 1
        self.seconds += seconds

    def quantile(self, share: float) -> float:
        """Seconds within which ``share`` [0, 1] of the times lie; 0 where there are none."""
        left = share * self.count
        for cell, count in enumerate(self.cells):
            if count and left <= count:
                return _SHORTEST_S * 2 ** ((cell + left / count) / _CELLS_PER_DOUBLING)
            left -= count
        return 0.0

    def below(self) -> list[tuple[float, int]]:
        """(seconds, how many times lie below them), for each doubling of a microsecond; the last: all but those of
        more than an hour.
        """
        counts, total = [], 0
        for first in range(0, _CELLS, _CELLS_PER_DOUBLING):
            total += sum(self.cells[first : first + _CELLS_PER_DOUBLING])
            counts.append((_SHORTEST_S * 2 ** (first // _CELLS_PER_DOUBLING + 1), total))
        return counts

    def summary(self) -> dict[str, Any]:
        return {"p50_ms": 1e3 * self.quantile(0.5), "p99_ms": 1e3 * self.quantile(0.99)}


@dataclass
class StageTimes:
    """Of one stage so far. ``nbytes``: 0: not known; ``cpu_s``: processor seconds, where the clock takes them;
    ``spread``: of a batch's times.
    """

    batches: int = 0
    samples: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    spread: Spread = field(default_factory=Spread)
    begun_s: float = 0.0
    """Spent on a batch that this stage will come back to."""
    under_way: set[Timing] = field(default_factory=set)
    """What has been entered and not left: a read that hangs, a user who waits for it."""
    _told_s: float = 0.0

    @property
    def so_far_s(self) -> float:
        """Seconds, with those of what is under way. It never goes down, as counters must not: what is just ending is
        missing for a moment.
        """
        ended = self.seconds  # first: what ends meanwhile would count twice
        self._told_s = max(self._told_s, ended + sum(self._under_way_s()))
        return self._told_s

    @property
    def longest_under_way_s(self) -> float:
        """Of what is under way, the longest so far; 0: nothing is."""
        return max(self._under_way_s(), default=0.0)

    def _under_way_s(self) -> list[float]:
        begun_s = [one.begin_s for one in list(self.under_way)]
        now = time.perf_counter()
        return [now - begin_s for begin_s in begun_s]

    def summary(self) -> dict[str, Any]:
        """For people and machines: JSON-safe."""
        known = {"bytes": self.nbytes} if self.nbytes else {}
        counts = {"batches": self.batches, "samples": self.samples, **known, "seconds": self.so_far_s}
        return {**counts, **self.spread.summary()}


class Observer(Protocol):
    """Told what a clock times, when and in the thread in which it happens."""

    def entered(self, name: str) -> None: ...

    def left(self, name: str, begin_s: float, end_s: float, samples: int, nbytes: int) -> None:
        """``begin_s``, ``end_s``: of `time.perf_counter`; ``nbytes``: 0: not known."""
        ...

    def ready(self, batches: int) -> None:
        """So many finished batches wait for the user now."""
        ...


class Timing:
    """What is done within it is timed. ``samples``, ``nbytes``: how much it is, as far as is known by its end."""

    __slots__ = (
        "_clock",
        "_cpu_s",
        "_name",
        "_observers",
        "_times",
        "_to_come",
        "begin_s",
        "end_s",
        "nbytes",
        "samples",
    )

    def __init__(self, clock: StageClock, name: str, times: StageTimes, samples: int, nbytes: int, to_come: bool):
        self._clock, self._name, self._times, self._to_come = clock, name, times, to_come
        self.samples, self.nbytes = samples, nbytes

    def __enter__(self) -> Timing:
        self._observers = self._clock.observers  # who sees the beginning sees the end
        for observer in self._observers:
            observer.entered(self._name)
        if self._clock.takes_cpu:
            self._cpu_s = time.process_time()
        self.begin_s = time.perf_counter()
        self._times.under_way.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        times, settle = self._times, self._clock.settle
        times.under_way.discard(self)
        if settle is not None:
            settle()
        self.end_s = time.perf_counter()
        elapsed = self.end_s - self.begin_s
        times.seconds += elapsed
        if self._clock.takes_cpu:
            times.cpu_s += time.process_time() - self._cpu_s
        if self._to_come:
            times.begun_s += elapsed
        elif kind is None:
            times.batches += 1
            times.samples += self.samples
            times.nbytes += self.nbytes
            times.spread.add(elapsed + times.begun_s)
            times.begun_s = 0.0
        for observer in self._observers:
            observer.left(self._name, self.begin_s, self.end_s, self.samples, self.nbytes)


Taken = dict[str, tuple[float, float]]
"""Of each stage: seconds, and processor seconds."""


def minus(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The rest, of both; where noise would make it negative there is none."""
    return max(0.0, one[0] - other[0]), max(0.0, one[1] - other[1])


class StageClock:
    """Times of all stages of a loader. Each stage is in the hands of one thread at a time.

    ``cpu``: take processor time, too: that of all threads of this process, so it says something only where stages run
    one after the other. ``settle``: called at a stage's end: it waits for what has been queued on a device, say, so
    that it counts for that stage.
    """

    def __init__(self, *, cpu: bool = False, settle: Callable[[], Any] | None = None) -> None:
        self.stages: dict[str, StageTimes] = {}
        self.wait = StageTimes()
        """The user's, for each batch given."""
        self.full = StageTimes()
        """The loader's, for room: it is ahead of the user then."""
        self.interval = Spread()
        """From one batch given to the next, within an epoch."""
        self.ready_s = self.watched_s = 0.0
        """Finished batches that waited for the user times seconds, and the seconds of epochs that were under way."""
        self.takes_cpu, self.settle = cpu, settle
        self.observers: tuple[Observer, ...] = (Nvtx(),) if os.environ.get("DALIPIPE_NVTX") == "1" else ()
        self._recent = _Recent()

    def stage(self, name: str, samples: int = 0, *, nbytes: int = 0, to_come: bool = False) -> Timing:
        """Times what is done within. ``to_come``: the stage comes back to this batch, which counts as one then. What
        raises takes time, but counts as no batch.
        """
        times = self.stages.get(name)
        if times is None:
            times = self.stages.setdefault(name, StageTimes())
        return Timing(self, name, times, samples, nbytes, to_come)

    def so_far(self) -> Taken:
        """What each stage has taken."""
        return {name: (times.seconds, times.cpu_s) for name, times in self.stages.items()}

    def since(self, before: Taken) -> Taken:
        """What each stage has taken since then."""
        none = (0.0, 0.0)
        return {name: minus(taken, before.get(name, none)) for name, taken in self.so_far().items()}

    def waiting(self) -> Timing:
        """The user waits for a batch within."""
        return Timing(self, "wait", self.wait, 0, 0, False)

    def is_full(self) -> Timing:
        """The loader waits for room within."""
        return Timing(self, "full", self.full, 0, 0, False)

    def gave(self, waited: Timing, before_s: float | None) -> float:
        """A batch has been given, after this wait. ``before_s``: when the epoch's last one was; ``None``: it is the
        first. Returns when this one was.
        """
        now = waited.end_s
        if before_s is not None:
            self.interval.add(now - before_s)
        self._recent.add(waited.begin_s, now, waited.samples)
        return now

    def samples_per_s(self) -> float:
        """Given to the user, over the last 10 s, or since the first one was asked for."""
        return self._recent.per_s(time.perf_counter())

    def saw_ready(self, batches: int, seconds: float) -> None:
        """So many finished batches have waited for so long."""
        self.ready_s += batches * seconds
        self.watched_s += seconds

    @property
    def ready_mean(self) -> float:
        """Finished batches that wait for the user, on average over the time of epochs."""
        return self.ready_s / self.watched_s if self.watched_s else 0.0


class _Recent:
    """Counts by the second, of the last ten."""

    def __init__(self) -> None:
        self._begin_s: float | None = None
        self._counts: deque[list[int]] = deque(maxlen=_RECENT_S + 1)

    def add(self, begin_s: float, now_s: float, count: int) -> None:
        second = int(now_s)
        if self._begin_s is None:
            self._begin_s = begin_s
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1][1] += count
        else:
            self._counts.append([second, count])

    def per_s(self, now_s: float) -> float:
        if self._begin_s is None:
            return 0.0
        first = int(now_s) - _RECENT_S + 1
        count = sum(count for second, count in list(self._counts) if second >= first)
        return count / max(now_s - max(self._begin_s, first), 1e-9)


class Nvtx:
    """An `Observer` that shows stages as ranges in Nsight Systems. Raises ``RuntimeError`` where torch has no NVTX."""

    def __init__(self) -> None:
        from torch.cuda import nvtx

        nvtx.mark("dalipipe")  # says so now, and not in the loader's threads
        self._nvtx = nvtx

    def entered(self, name: str) -> None:
        self._nvtx.range_push(f"dalipipe: {name}")

    def left(self, name: str, begin_s: float, end_s: float, samples: int, nbytes: int) -> None:
        self._nvtx.range_pop()

    def ready(self, batches: int) -> None:
        pass
